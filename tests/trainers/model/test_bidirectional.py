"""Attention in both directions: who sees whom, in which families, and that it outlives saving."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import AutoTokenizer

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.gradient_cache import TokenBudget
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.loop import finetune
from trainers.model.adapters import add_lora, merge_lora
from trainers.model.encoder import as_features, load_encoder, load_for_training
from trainers.settings import TrainingSettings, run_id

TEXTS = ["the river of the north", "the king", "the capital of the south is x, and more of it", "y"]
BOTH = TrainingSettings(bidirectional=True)
FAMILIES = ["Qwen2", "Qwen3", "Llama", "Mistral", "Gemma", "Gemma2", "Gemma3Text", "Phi3"]


def built(family: str, tokens: Path, folder: Path) -> Path:
    """A tiny random model of a family, with the tokenizer of `tokens`, mean pooling."""
    tokenizer = AutoTokenizer.from_pretrained(tokens)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}Model")(config)
    model.save_pretrained(folder / "raw")
    tokenizer.save_pretrained(folder / "raw")
    modules = [Transformer(str(folder / "raw"), max_seq_length=64), Pooling(32, "mean"), Normalize()]
    SentenceTransformer(modules=modules).save(str(folder / "saved"), create_model_card=False)
    return folder / "saved"


def change_of_first(encoder: SentenceTransformer, beside: list[list[int]]) -> float:
    """How far the first token's vector goes when the token after it is another."""
    vectors = []
    for second in (6, 7):
        with torch.no_grad():
            features = as_features(encoder.eval(), [[5, second, 8], *beside])
            vectors.append(encoder[0](features)["token_embeddings"][features["attention_mask"].bool()][0])
    return float((vectors[0] - vectors[1]).abs().max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_sees_its_right_neighbour_whatever_stands_beside(
    tiny_model: Path, tmp_path: Path, family: str, attention: str
) -> None:
    if (family, attention) == ("Gemma2", "sdpa"):
        attention = "auto"  # it has eager alone
    folder = str(built(family, tiny_model, tmp_path))
    causal = load_for_training(folder, TrainingSettings(attention=attention))
    encoder = load_for_training(folder, replace(BOTH, attention=attention))
    for beside in ([], [[9, 10, 11, 12, 13]]):
        assert change_of_first(causal, beside) == pytest.approx(0.0, abs=1e-6)
        assert change_of_first(encoder, beside) > 1e-2
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert not np.allclose(alone, causal.encode(TEXTS), atol=1e-2)
    for side in ("left", "right"):
        encoder.tokenizer.padding_side = side
        np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)
    encoder.save(str(tmp_path / "both"), create_model_card=False)
    for back in (load_encoder(str(tmp_path / "both")), SentenceTransformer(str(tmp_path / "both"))):
        np.testing.assert_allclose(back.encode(TEXTS), alone, atol=1e-5)


def test_families_that_stay_causal_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    """StableLm sees the right under eager, and beside a longer text; others would load it with sdpa."""
    for family in ("StableLm", "Mamba"):
        folder = str(built(family, tiny_model, tmp_path / family))
        for attention in ("auto", "eager") if family == "StableLm" else ("auto",):
            with pytest.raises(UsageError, match=rf"bidirectional is true, but {family}Model under .*; allowed: false"):
                load_for_training(folder, replace(BOTH, attention=attention))


def test_a_model_that_reads_both_ways_already_stays_as_it_is(tmp_path: Path, tiny_model: Path) -> None:
    load_for_training(str(tiny_model), BOTH).save(str(tmp_path), create_model_card=False)
    assert json.loads((tmp_path / "config.json").read_text())["is_causal"] is False
    wanted = load_for_training(str(tmp_path), TrainingSettings()).encode(TEXTS)
    np.testing.assert_array_equal(load_for_training(str(tmp_path), BOTH).encode(TEXTS), wanted)
    bert = load_for_training("all-MiniLM-L6-v2", BOTH)
    assert not hasattr(bert.transformers_model.config, "is_causal") or bert.transformers_model.config.is_causal


def test_an_adapters_folder_cannot_say_it() -> None:
    with pytest.raises(UsageError, match="lora_merge is False; allowed: true with bidirectional"):
        replace(BOTH, lora_rank=4, lora_merge=False)


def test_run_ids_are_those_of_before_without_it() -> None:
    assert "bidirectional" not in TrainingSettings().deciding
    assert run_id("train", "m", TrainingSettings()) != run_id("train", "m", BOTH)


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_in_any_budget(tiny_model: Path, lora: int, checkpointing: bool) -> None:
    settings = replace(BOTH, lora_rank=lora, lora_dropout=0.0, activation_checkpointing=checkpointing)
    found: list[list[Any]] = []
    for budget in (TokenBudget(10_000, 10_000), TokenBudget(24, 24)):
        encoder = load_for_training(str(tiny_model), settings).train()
        add_lora(encoder, settings)
        out = embed_across_ranks(encoder, tokenise(encoder.tokenizer, TEXTS, [16] * len(TEXTS)), budget)
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
        found.append([out, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    merge_lora(encoder)
    assert change_of_first(encoder, []) > 1e-3


@pytest.mark.parametrize("lora", [0, 4])
def test_a_trained_model_reads_both_ways_wherever_it_is_loaded(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, lora: int
) -> None:
    settings = FinetuneSettings(
        bidirectional=True, steps=6, batch_size=8, learning_rate=1e-2, temperature=0.05, negatives=1, lora_rank=lora,
        max_query_tokens=32, max_passage_tokens=32, tokens_per_pass=256, tokens_kept=1024, tracker="none",
    )  # fmt: skip
    finetune(mixture_data, str(tiny_model), settings, tmp_path / "both")
    losses = [row["loss"] for row in json.loads((tmp_path / "both" / "training.json").read_text())["losses"]]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    plain = SentenceTransformer(str(tmp_path / "both"))
    assert change_of_first(plain, []) > 1e-2
    assert change_of_first(load_encoder(str(tmp_path / "both")), []) > 1e-2
    assert "reads each text in both directions" in (tmp_path / "both" / "README.md").read_text()

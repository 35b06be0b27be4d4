"""The encoder: end token, embedding in groups, LoRA, saving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from mixture.errors import UsageError
from trainers.embedding import embed
from trainers.encoder import add_lora, append_end_token, load_encoder, merge_lora, model_identity
from trainers.settings import TrainingSettings
from trainers.tiny import build_tiny

TEXTS = ["the river of the north", "the king", "the capital of the south is x, and more of it", "the king", "y"]


def test_tiny_models_are_the_same_bits_for_the_same_texts_and_seed(tmp_path: Path, tiny_model: Path) -> None:
    texts = ["a b c", "c d e"] * 5
    one, two = (build_tiny(texts, tmp_path / n, seed=3, vocabulary=280, hidden=32) for n in "ab")
    np.testing.assert_array_equal(one.encode(TEXTS), two.encode(TEXTS))
    other = build_tiny(texts, tmp_path / "c", seed=4, vocabulary=280, hidden=32)
    assert not np.allclose(one.encode(TEXTS), other.encode(TEXTS))


@pytest.mark.parametrize("tokens_per_pass", [1, 16, 10_000])
def test_embedding_in_groups_equals_encode(tiny_model: Path, tokens_per_pass: int) -> None:
    encoder = load_encoder(str(tiny_model)).eval()
    got = embed(encoder, TEXTS, max_tokens=64, tokens_per_pass=tokens_per_pass)
    np.testing.assert_allclose(got.detach().numpy(), encoder.encode(TEXTS), atol=1e-6)
    assert got.requires_grad


def test_equal_texts_are_encoded_once_and_gradients_add_up(tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model)).eval()
    seen: list[int] = []
    encoder[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]["input_ids"])))
    repeated = embed(encoder, ["the king"] * 6, max_tokens=8, tokens_per_pass=1000)
    assert sum(seen) == 1
    weights = torch.arange(6.0)[:, None]
    (repeated * weights).sum().backward()
    together = encoder.transformers_model.embed_tokens.weight.grad.clone()  # type: ignore[union-attr, operator]
    encoder.zero_grad()
    (embed(encoder, ["the king"], max_tokens=8, tokens_per_pass=1000) * 15.0).sum().backward()
    alone = encoder.transformers_model.embed_tokens.weight.grad  # type: ignore[union-attr]
    torch.testing.assert_close(together, alone)


def test_truncation_keeps_the_end_token(tiny_model: Path) -> None:
    tokenizer = load_encoder(str(tiny_model)).tokenizer
    ids = tokenizer("the river of the north " * 50, truncation=True, max_length=10).input_ids
    assert len(ids) == 10
    assert ids[-1] == tokenizer.eos_token_id


def _plain_tokenizer(begin: bool) -> PreTrainedTokenizerFast:
    """As Qwen's (no special tokens added) or, with `begin`, as Llama 3's (a begin token only)."""
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "end": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if begin:
        backend.post_processor = processors.Sequence(
            [processors.ByteLevel(), processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("begin", [False, True])
def test_the_end_token_is_appended_once_and_survives_saving(tmp_path: Path, begin: bool) -> None:
    tokenizer = _plain_tokenizer(begin)
    for _ in range(2):
        append_end_token(tokenizer)
    wanted = [0, 3, 1] if begin else [3, 1]
    assert tokenizer("end").input_ids == wanted
    tokenizer.save_pretrained(tmp_path)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path)("end").input_ids == wanted
    assert tokenizer.pad_token is not None


def test_a_plain_language_model_gets_last_token_pooling(tmp_path: Path) -> None:
    config = Qwen2Config(vocab_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    _plain_tokenizer(False).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), max_tokens=32)
    assert encoder[1].pooling_mode == "lasttoken"
    assert encoder.tokenizer("end").input_ids[-1] == 1
    assert np.linalg.norm(encoder.encode(["end"])) == pytest.approx(1.0, abs=1e-5)


def test_lora_trains_few_parameters_and_merges_into_a_plain_model(tmp_path: Path, tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model))
    before = encoder.encode(TEXTS)
    names = [name for name, _ in encoder.named_parameters()]
    add_lora(encoder, TrainingSettings(lora_rank=4))
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    for name, parameter in trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = encoder.eval().encode(TEXTS)
    assert not np.allclose(adapted, before, atol=1e-3)
    merge_lora(encoder)
    assert [name for name, _ in encoder.named_parameters()] == names
    encoder.save(str(tmp_path / "merged"), create_model_card=False)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "merged")).encode(TEXTS), adapted, atol=1e-5)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_models_that_do_not_load_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model folder"):
        load_encoder(str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(UsageError, match="no model loads from"):
        load_encoder(str(tmp_path))


def test_embedding_respects_the_models_own_limit(tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model), max_tokens=6).eval()
    long = "the river of the north and the king of the south"
    got = embed(encoder, [long], max_tokens=500, tokens_per_pass=1000)
    np.testing.assert_allclose(got.detach().numpy(), encoder.encode([long]), atol=1e-6)
    assert not np.allclose(got.detach().numpy(), load_encoder(str(tiny_model)).encode([long]), atol=1e-3)


def test_an_embedding_model_keeps_its_own_tokenizer(tmp_path: Path, tiny_model: Path) -> None:
    """A ready-made model may end its texts with another token than `eos_token`; it stays as it is."""
    model = SentenceTransformer(str(tiny_model))
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|pad|>", special_tokens=[("<|pad|>", model.tokenizer.pad_token_id)]
    )
    model.save(str(tmp_path / "own"), create_model_card=False)
    ids = load_encoder(str(tmp_path / "own")).tokenizer("the king").input_ids
    assert ids[-1] == model.tokenizer.pad_token_id
    assert model.tokenizer.eos_token_id not in ids


def test_a_models_identity_is_its_content_not_its_place(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "copy")
    assert model_identity(str(tmp_path / "copy")) == model_identity(str(tiny_model))
    other = SentenceTransformer(str(tiny_model))
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    other.save(str(tmp_path / "copy"), create_model_card=False)
    assert model_identity(str(tmp_path / "copy")) != model_identity(str(tiny_model))
    assert model_identity("organisation/name") == "organisation/name"

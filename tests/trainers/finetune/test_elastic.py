"""`elastic_layers`: what a step descends, under any memory, that first layers learn, and that nothing else changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import trainers
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from tests.trainers.finetune.test_loop import Stopped, _stop_at
from trainers.batch.texts import TextBatch
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.elastic import depths_at
from trainers.finetune.holdout import HeldOut
from trainers.finetune.loop import _source, batch_losses, encoder_of, step
from trainers.loop.steps import TrainingLoop
from trainers.losses.agreement import agreement
from trainers.model.encoder import load_encoder
from trainers.model.template import Template
from trainers.shrinking.layers import layers_of, with_layers

SETTINGS = FinetuneSettings(
    steps=12, batch_size=8, learning_rate=2e-3, temperature=0.05, negatives=2, max_query_tokens=48,
    max_passage_tokens=32, checkpoint_every=4, tracker="none", tokens_per_pass=100_000, tokens_kept=100_000,
    elastic_layers=(2, 3, 4),
)  # fmt: skip


def loop_of(data: MaterialisedMixture, model: Path, folder: Path, **changes: Any) -> tuple[TrainingLoop, TextBatch]:
    settings = replace(SETTINGS, **changes)
    loop = TrainingLoop(encoder_of(data, str(model), settings), settings, folder)
    loop.encoder.train()
    return loop, loop.prepared(_source(data, settings).homogeneous(0))


def gradients_of_step(loop: TrainingLoop, batch: TextBatch, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What a step would descend; the model stays as it is."""
    found: dict[str, Tensor] = {}

    def note(*_: Any) -> None:
        found.update({n: p.grad.clone() for n, p in loop.encoder.named_parameters() if p.grad is not None})

    with monkeypatch.context() as patched:
        patched.setattr(loop.accelerator, "clip_grad_norm_", lambda *_: note())
        patched.setattr(loop.optimizer, "step", lambda: None)
        patched.setattr(loop.schedule, "step", lambda: None)
        step(loop, batch)
    return found


def test_agreement_is_the_cross_entropy_from_the_teachers_softmax() -> None:
    random = torch.Generator().manual_seed(0)
    query, passages, teacher = (torch.randn(*shape, generator=random) for shape in ((4, 6), (4, 3, 6), (4, 4, 9)))
    masked = torch.rand(4, 12, generator=random) < 0.3
    own = torch.arange(4)
    masked[own, 3 * own] = True  # which does not count: an example's own positive is never left out
    counted = masked.clone()
    counted[own, 3 * own] = False

    def scores(query: Tensor, passages: Tensor) -> Tensor:
        return normalize(query, dim=-1) @ normalize(passages.reshape(12, -1), dim=-1).T / 0.1

    given = (query, passages, teacher[:, 0], teacher[:, 1:])
    z, y = (scores(*pair) for pair in (given[:2], given[2:]))
    found = agreement(*given, temperature=0.1, in_batch=True, masked=masked)
    expected = torch.stack(
        [cross_entropy(a[~out], b[~out].softmax(dim=0)) for a, b, out in zip(z, y, counted, strict=True)]
    )
    torch.testing.assert_close(found, expected)
    alone = agreement(*given, temperature=0.1, in_batch=False, masked=None)
    z, y = (torch.stack([scores(*pair)[i, 3 * i : 3 * i + 3] for i in range(4)]) for pair in (given[:2], given[2:]))
    torch.testing.assert_close(alone, cross_entropy(z, y.softmax(dim=1), reduction="none"))
    query.requires_grad_()
    agreement(query, passages, query.detach(), passages, temperature=0.1, in_batch=True, masked=None).sum().backward()
    assert query.grad is not None
    assert float(query.grad.abs().max()) < 1e-6  # at its least value


def test_a_step_trains_the_least_depth_and_one_that_step_and_seed_draw() -> None:
    drawn = [depths_at(SETTINGS, step) for step in range(40)]
    assert {depth for depth, _ in drawn} == {2}
    assert {depth for _, depth in drawn} == {3, 4}
    assert drawn == [depths_at(replace(SETTINGS, steps=99), step) for step in range(40)]
    assert drawn != [depths_at(replace(SETTINGS, seed=7), step) for step in range(40)]
    assert depths_at(replace(SETTINGS, elastic_layers=(3,)), 5) == [3]


@pytest.mark.parametrize("dims", [(), (8, 32)])
def test_a_step_descends_the_loss_and_the_balanced_agreement_of_two_depths(
    mixture_data: MaterialisedMixture, deep_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    dims: tuple[int, ...],
) -> None:  # fmt: skip
    loop, batch = loop_of(mixture_data, deep_model, tmp_path, matryoshka_dims=dims)
    found = gradients_of_step(loop, batch, monkeypatch)
    encoder = loop.encoder
    full = batch_losses(loop, batch).mean()
    own = torch.arange(8) * 3
    counted = batch.masked.clone()
    counted[torch.arange(8), own] = False

    def scores(model: SentenceTransformer, dim: int) -> Tensor:
        query, passages = (normalize(part[:, :dim], dim=-1) for part in loop.embed_batch(model, batch))
        return (query @ passages.T / 0.05).masked_fill(counted, -1e4)

    total, values = full, []
    for depth in depths_at(loop.settings, 0):  # type: ignore[arg-type]
        cut = with_layers(encoder, range(depth))
        parts = [cross_entropy(scores(cut, dim), scores(encoder, dim).detach().softmax(dim=1)) for dim in dims or (32,)]
        loss = torch.stack(parts).mean()
        values.append(loss.item())
        total = total + loss * (full.detach() / loss.detach())
    assert min(values) > 0.1
    encoder.zero_grad()
    total.backward()
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept", [200, 1])
def test_the_gradient_is_the_same_where_texts_are_encoded_again(
    mixture_data: MaterialisedMixture, bert_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """With dropout, which must drop the same in the second pass, and in the depth that is trained."""
    found = []
    for place, number in enumerate((100_000, kept)):
        loop, batch = loop_of(mixture_data, bert_model, tmp_path / str(place), tokens_per_pass=200, tokens_kept=number)
        torch.manual_seed(3)
        found.append(gradients_of_step(loop, batch, monkeypatch))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_without_the_setting_a_step_is_what_it_was_to_the_bit(
    mixture_data: MaterialisedMixture, bert_model: Path, tmp_path: Path
) -> None:
    ends = []
    for place in ("step", "as before"):
        loop, batch = loop_of(mixture_data, bert_model, tmp_path / place, elastic_layers=())
        torch.manual_seed(5)
        if place == "step":
            step(loop, batch)
        else:
            losses = batch_losses(loop, batch)
            loop.accelerator.backward(losses.mean())
            loop.accelerator.clip_grad_norm_(loop.parameters, loop.settings.max_gradient_norm)
            loop.optimizer.step()
        ends.append(copy.deepcopy(loop.encoder.state_dict()))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert "elastic_layers" not in FinetuneSettings().deciding
    assert "elastic_layers" in SETTINGS.deciding


def test_under_bf16_a_depth_is_that_depth(
    mixture_data: MaterialisedMixture, deep_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """accelerate puts a `forward` of its own into the whole model."""
    AcceleratorState._reset_state(True)  # one process keeps one precision
    request.addfinalizer(lambda: AcceleratorState._reset_state(True))
    loop, batch = loop_of(mixture_data, deep_model, tmp_path, bf16=True)
    assert "forward" in vars(loop.encoder)
    query, _ = loop.embed_batch(with_layers(loop.encoder, [0]), batch)
    query.sum().backward()
    touched = [any(p.grad is not None for p in layer.parameters()) for layer in layers_of(loop.encoder)]
    assert touched == [True, False, False, False, False]
    assert gradients_of_step(loop, batch, monkeypatch)


@pytest.mark.parametrize("lora", [0, 4])
def test_stopped_and_called_again_it_ends_with_the_same_bits(
    mixture_data: MaterialisedMixture, bert_model: Path, tmp_path: Path, lora: int
) -> None:
    settings = replace(SETTINGS, lora_rank=lora, batching="mixed")
    finetune(mixture_data, str(bert_model), settings, tmp_path / "whole")
    with pytest.raises(Stopped):
        finetune(mixture_data, str(bert_model), settings, tmp_path / "parts", progress=_stop_at(6))
    finetune(mixture_data, str(bert_model), settings, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert "its first layers are models, too" in (tmp_path / "whole" / "README.md").read_text()
    shrunk = trainers.shrink(tmp_path / "whole", out=tmp_path / "small", layers=2, first=True)
    assert shrunk.kept == (0, 1)


def test_the_first_layers_become_a_better_model_than_by_plain_training(
    mixture_data: MaterialisedMixture, deep_model: Path, tmp_path: Path
) -> None:
    found = {}
    for layers in ((), (2,)):
        settings = replace(SETTINGS, steps=40, elastic_layers=layers)
        finetune(mixture_data, str(deep_model), settings, tmp_path / str(layers))
        encoder = load_encoder(str(tmp_path / str(layers)))
        rows = HeldOut(mixture_data.components, encoder, settings, Template("{query}"))
        found[layers] = [
            sum(row["loss"] for row in rows.losses(one)) for one in (encoder, with_layers(encoder, [0, 1]))
        ]
    assert found[2,][1] < 0.9 * found[()][1]
    assert found[2,][0] < 1.2 * found[()][0]


@pytest.mark.parametrize("layers", [(0,), (2, 2)])
def test_depths_are_checked(layers: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"elastic_layers is .*; allowed: 1 or more, each once"):
        replace(SETTINGS, elastic_layers=layers)


def test_depths_that_a_model_has_not_are_refused(
    mixture_data: MaterialisedMixture, deep_model: Path, static_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="elastic_layers has 5; allowed: 1 to 4, since the model has 5 layers"):
        finetune(mixture_data, str(deep_model), replace(SETTINGS, elastic_layers=(2, 5)), tmp_path / "out")
    with pytest.raises(UsageError, match="a static model has no layers"):
        finetune(mixture_data, str(static_model), replace(SETTINGS, elastic_layers=(2,)), tmp_path / "out")
    with pytest.raises(UsageError, match=r"elastic_layers is \(2, 3, 4\); allowed: \(\) with fsdp"):
        replace(SETTINGS, fsdp=True)
    assert not (tmp_path / "out").exists()

"""The forms of the fine-tuning loss that settings ask for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.batch.texts import BatchSource, TextBatch
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import batch_losses
from trainers.loop.steps import TrainingLoop
from trainers.losses import LOSSES, Loss, expected_ndcg, info_nce, spread_out
from trainers.model.encoder import load_encoder
from trainers.parallel import ranks
from trainers.settings import resolve

ALL = ("qd", "qq", "dq", "dd")
SETTINGS = FinetuneSettings(steps=1, batch_size=8, temperature=0.05, negatives=2, max_query_tokens=40,
                            max_passage_tokens=32)  # fmt: skip


def test_settings_choose_the_form_of_the_loss(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 8, 1, positives=mixture_data.positives())
    batch = BatchSource(mixture_data, plan, negatives=2).homogeneous(0)
    name = batch.names[int(batch.collections[0])]
    encoder = load_encoder(str(tiny_model)).eval()
    with torch.no_grad():
        found = {
            what: batch_losses(TrainingLoop(encoder, replace(SETTINGS, **changes), tmp_path), batch)
            for what, changes in {
                "plain": {}, "hard": {"in_batch": False}, "hard_only": {"hard_only": (name,)},
                "other_hard_only": {"hard_only": ("another",)}, "symmetric": {"symmetric_loss": True},
                "half": {"matryoshka_dims": (32, 64)}, "ndcg": {"loss": "expected_ndcg", "ndcg_cut": 2},
                "margin": {"margin": 0.05}, "relative": {"margin": 0.3, "margin_strategy": "relative"},
                "hardness": {"hardness": 5.0, "symmetric_loss": True},
                "ndcg_half": {"loss": "expected_ndcg", "in_batch": False, "matryoshka_dims": (32, 64)},
                "directions": {"directions": ALL}, "directions_hard_only": {"directions": ALL, "hard_only": (name,)},
                "spread": {"spread_out": 3.0, "matryoshka_dims": (32, 64)},
                "ndcg_spread": {"loss": "expected_ndcg", "spread_out": 0.5},
            }.items()
        }  # fmt: skip
        query, passages = TrainingLoop(encoder, SETTINGS, tmp_path).embed_batch(encoder, batch)

    def expected(dims: int = 64, *, in_batch: bool = True, symmetric: bool = False, **more: Any) -> torch.Tensor:
        return info_nce(query[:, :dims], passages[:, :dims], temperature=0.05, in_batch=in_batch,
                        masked=batch.masked if in_batch else None, symmetric=symmetric, **more)  # fmt: skip

    torch.testing.assert_close(found["plain"], expected())
    torch.testing.assert_close(found["hard"], expected(in_batch=False))
    torch.testing.assert_close(found["hard_only"], found["hard"])
    torch.testing.assert_close(found["other_hard_only"], found["plain"])
    torch.testing.assert_close(found["symmetric"], expected(symmetric=True))
    torch.testing.assert_close(found["margin"], expected(margin=0.05))
    torch.testing.assert_close(found["relative"], expected(margin=0.3, margin_strategy="relative"))
    torch.testing.assert_close(found["hardness"], expected(hardness=5.0, symmetric=True))
    torch.testing.assert_close(found["half"], (expected(32) + expected()) / 2)
    ndcg = {"temperature": 0.05, "in_batch": True, "masked": batch.masked, "ndcg_cut": 2}
    torch.testing.assert_close(found["ndcg"], expected_ndcg(query, passages, **ndcg))
    halves = [expected_ndcg(query[:, :d], passages[:, :d], temperature=0.05) for d in (32, 64)]
    torch.testing.assert_close(found["ndcg_half"], (halves[0] + halves[1]) / 2)
    torch.testing.assert_close(found["directions"], expected(directions=ALL))
    torch.testing.assert_close(found["directions_hard_only"], found["hard"])
    spread = [spread_out(query[:, :d], passages[:, :d]) for d in (32, 64)]
    torch.testing.assert_close(found["spread"], found["half"] + 3 * (spread[0] + spread[1]) / 2)
    torch.testing.assert_close(found["ndcg_spread"], expected_ndcg(query, passages, **ndcg | {"ndcg_cut": 10})
                               + 0.5 * spread[1])  # fmt: skip
    different = [
        found[what]
        for what in (
            "plain",
            "hard",
            "symmetric",
            "half",
            "margin",
            "relative",
            "hardness",
            "ndcg",
            "ndcg_half",
            "directions",
            "spread",
            "ndcg_spread",
        )
    ]
    assert all(not torch.allclose(a, b, rtol=1e-3) for i, a in enumerate(different) for b in different[:i])


def _marked(batch: TextBatch) -> tuple[TextBatch, torch.Tensor]:
    """Of 8 examples with 3 passages each some share their query, and texts stand more than once; beside it the
    candidates that are to be found."""
    passages = list(batch.passages)
    passages[10] = passages[0]  # example 0's own positive, a negative of example 3
    passages[14] = passages[3]  # example 1's positive, a negative of example 4
    masked = torch.zeros(8, 24, dtype=torch.bool)
    masked[:, ::3] = torch.eye(8, dtype=torch.bool)
    masked[0, [3, 10, 14, 18]] = True
    masked[1, [0, 10, 14]] = True
    answers = torch.zeros(8, 24, dtype=torch.bool)
    answers[0, [3, 18]] = True
    answers[1, 0] = True
    return replace(batch, passages=passages, masked=masked), answers


@pytest.mark.parametrize("samples", [0, 8])
def test_positives_of_the_batch_are_right_once(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 8, 1, positives=mixture_data.positives())
    batch, answers = _marked(BatchSource(mixture_data, plan, negatives=2).homogeneous(0))
    encoder = load_encoder(str(tiny_model)).eval()
    settings = replace(SETTINGS, loss="expected_ndcg", ndcg_positives="all", ndcg_samples=samples, seed=7)
    loop = TrainingLoop(encoder, settings, tmp_path)
    forms: dict[str, Any] = {"temperature": 0.05, "in_batch": True, "ndcg_positives": "all", "ndcg_samples": samples}
    rank = torch.arange(8) // 4
    others = rank[:, None] != rank.repeat_interleave(3)
    with torch.no_grad():
        query, passages = loop.embed_batch(encoder, batch)
        for step in (0, 3):
            loop.step = step
            expected = expected_ndcg(query, passages, masked=batch.masked, answers=answers, key=(7, step), **forms)
            torch.testing.assert_close(batch_losses(loop, batch), expected)
        one = batch_losses(TrainingLoop(encoder, replace(settings, ndcg_positives="one"), tmp_path), batch)
        assert one.shape == (8,) and not torch.allclose(one[:2], expected[:2], rtol=1e-3)
        loop.settings = replace(settings, matryoshka_dims=(16, 64))
        told = forms | {"masked": batch.masked, "answers": answers, "key": (7, 3)}
        halves = [expected_ndcg(query[:, :d], passages[:, :d], **told) for d in (16, 64)]
        torch.testing.assert_close(batch_losses(loop, batch), (halves[0] + halves[1]) / 2)
        # As the first of two ranks that keep to themselves has it.
        loop.settings = replace(settings, cross_device=False)
        monkeypatch.setattr(ranks, "rank_of_each", lambda _: rank)
        expected = expected_ndcg(query, passages, masked=batch.masked | others, answers=answers & ~others, key=(7, 3),
                                 **forms)  # fmt: skip
        assert not torch.equal(answers, answers & ~others)
        torch.testing.assert_close(batch_losses(loop, batch), expected)
        loop.settings = replace(settings, hard_only=(batch.names[int(batch.collections[0])],))
        alone = expected_ndcg(query, passages, temperature=0.05, ndcg_samples=samples, key=(7, 3))
        torch.testing.assert_close(batch_losses(loop, batch), alone)


def test_the_loss_that_is_named_is_the_one_that_counts(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another loss is asked in the forms that the settings say, and its values come back."""
    asked: list[tuple[Any, ...]] = []

    def norms(query: torch.Tensor, passages: torch.Tensor, **forms: Any) -> torch.Tensor:
        asked.append((tuple(passages.shape), forms["temperature"], forms["in_batch"], forms["symmetric"]))
        assert (forms["masked"] is None) == (not forms["in_batch"])
        return query.norm(dim=1)

    monkeypatch.setitem(LOSSES, "norms", Loss(norms))
    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 8, 1, positives=mixture_data.positives())
    batch = BatchSource(mixture_data, plan, negatives=2).homogeneous(0)
    encoder = load_encoder(str(tiny_model)).eval()
    for changes in ({"symmetric_loss": True}, {"in_batch": False}, {"matryoshka_dims": (16, 32)}):
        settings = replace(SETTINGS, loss="norms", **changes)
        loop = TrainingLoop(encoder, settings, tmp_path)
        with torch.no_grad():
            found, query = batch_losses(loop, batch), loop.embed_batch(encoder, batch)[0]
        means = torch.stack([query[:, :d].norm(dim=1) for d in settings.matryoshka_dims or (64,)]).mean(dim=0)
        torch.testing.assert_close(found, means)
    assert asked == [((8, 3, 64), 0.05, True, True), ((8, 3, 64), 0.05, False, False),
                     ((8, 3, 16), 0.05, True, False), ((8, 3, 32), 0.05, True, False)]  # fmt: skip


def test_an_unknown_loss_and_what_a_loss_has_no_form_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="loss is infonce; allowed: info_nce"):
        replace(SETTINGS, loss="infonce")
    monkeypatch.setitem(LOSSES, "own", Loss(info_nce, cannot=("in_batch", "symmetric_loss", "matryoshka_dims")))
    with pytest.raises(UsageError) as caught:
        replace(SETTINGS, loss="own", symmetric_loss=True, matryoshka_dims=(8,))
    for fault in ("in_batch is True; allowed: False", "symmetric_loss is True; allowed: False",
                  r"matryoshka_dims is (8,); allowed: ()"):  # fmt: skip
        assert f"{fault} with own, which has no such form" in str(caught.value)
    assert replace(SETTINGS, loss="own", in_batch=False).loss == "own"


def test_a_temperature_too_low_and_what_another_loss_takes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"temperature is 0\.002; allowed: 0\.01 or more with expected_ndcg"):
        FinetuneSettings(loss="expected_ndcg")
    with pytest.raises(UsageError, match="symmetric_loss is True; allowed: False with expected_ndcg"):
        replace(SETTINGS, loss="expected_ndcg", symmetric_loss=True)
    with pytest.raises(UsageError, match="ndcg_cut is 0; allowed: 1 to 100"):
        replace(SETTINGS, loss="expected_ndcg", ndcg_cut=0)
    with pytest.raises(UsageError, match="ndcg_cut is 5; allowed: 10 with info_nce, which does not take it"):
        replace(SETTINGS, ndcg_cut=5)
    for changes, said in {
        ("margin", 1.5): "margin is 1.5; allowed: none, or -1 to 1",
        ("margin_strategy", "relative"): "margin_strategy is relative; allowed: absolute without margin",
        ("margin_strategy", "half"): "margin_strategy is half; allowed: absolute, relative",
        ("hardness", -1.0): "hardness is -1.0; allowed: 0 or more",
        ("directions", ("qq",)): "directions is ('qq',); allowed: qd, with any of qq, dq, dd, each once",
        ("spread_out", -1.0): "spread_out is -1.0; allowed: 0 or more",
        ("ndcg_positives", "two"): "ndcg_positives is two; allowed: one, all",
        ("ndcg_samples", 1): "ndcg_samples is 1; allowed: 0, or 2 or more",
    }.items():
        with pytest.raises(UsageError, match=re.escape(said)):
            replace(SETTINGS, **{changes[0]: changes[1]})
    for more, said in {
        "symmetric_loss": "directions is ('qd', 'dd'); allowed: qd with symmetric_loss, which is another form of it",
        "in_batch": "directions is ('qd', 'dd'); allowed: qd without in_batch",
    }.items():
        with pytest.raises(UsageError, match=re.escape(said)):
            replace(SETTINGS, directions=("qd", "dd"), **{more: more == "symmetric_loss"})
    with pytest.raises(UsageError, match="ndcg_positives is all; allowed: one without in_batch"):
        replace(SETTINGS, loss="expected_ndcg", ndcg_positives="all", in_batch=False)
    for name, value, default in (("ndcg_positives", "all", "one"), ("ndcg_samples", 16, "0")):
        with pytest.raises(UsageError, match=f"{name} is {value}; allowed: {default} with info_nce, which does not"):
            replace(SETTINGS, **{name: value})
    graded = replace(SETTINGS, loss="expected_ndcg")
    for name, value, default in (("margin", 0.1, "None"), ("hardness", 5.0, "0.0")):
        with pytest.raises(UsageError, match=f"{name} is {value}; allowed: {default} with expected_ndcg, which does"):
            replace(graded, **{name: value})
        assert getattr(replace(graded, steps=2, info_nce_first=0.5, **{name: value}), name) == value
    with pytest.raises(UsageError, match=r"info_nce_first is 1\.0; allowed: 0 or more, less than 1"):
        replace(SETTINGS, loss="expected_ndcg", info_nce_first=1.0)


def test_expected_ndcg_is_trained_after_info_nce(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    plain = replace(SETTINGS, steps=40, batch_size=16, learning_rate=1e-3, checkpoint_every=7)
    mixed = replace(plain, loss="expected_ndcg", ndcg_cut=3, info_nce_first=0.25)
    rows = {}

    def cut_short(step: int, *_: Any) -> None:
        if step == 12:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):  # it goes on from step 7, with info_nce
        finetune(mixture_data, str(tiny_model), mixed, tmp_path / "resumed", progress=cut_short)
    for name, settings in {"plain": plain, "mixed": mixed, "resumed": mixed}.items():
        finetune(mixture_data, str(tiny_model), settings, tmp_path / name)
        rows[name] = json.loads((tmp_path / name / "training.json").read_text())["losses"]
    losses = {name: [row["loss"] for row in rows[name]] for name in rows}
    assert losses["plain"][:10] == losses["mixed"][:10]
    assert losses["resumed"] == losses["mixed"]
    assert max(losses["mixed"][10:]) < 1 < min(losses["mixed"][:10])

    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 16, 1, positives=mixture_data.positives())
    batches = [BatchSource(mixture_data, plan, negatives=2).homogeneous(n) for n in range(6)]
    found = {}
    for model in (tiny_model, tmp_path / "mixed"):
        loop = TrainingLoop(load_encoder(str(model)).eval(), replace(mixed, info_nce_first=0.0), tmp_path)
        with torch.no_grad():
            found[model.name] = float(torch.cat([batch_losses(loop, batch) for batch in batches]).mean())
    assert found["mixed"] < found[tiny_model.name] - 0.1


def test_a_collection_that_the_mixture_lacks_is_a_mistake(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"hadr.*hard"):
        finetune(mixture_data, str(tiny_model), replace(SETTINGS, hard_only=("hadr",)), tmp_path / "out")


def test_lists_are_read_from_options_and_checked() -> None:
    given = resolve(FinetuneSettings, None, {}, ["matryoshka_dims=[16, 64]", 'hard_only=["a", "b"]'])
    assert (given.matryoshka_dims, given.hard_only) == ((16, 64), ("a", "b"))
    for text, said in {
        "matryoshka_dims=16": "must be a list", 'matryoshka_dims=["16"]': "must be of type int",
        "matryoshka_dims=[0]": "1 or more", "matryoshka_dims=[8, 8]": "each once",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=said):
            resolve(FinetuneSettings, None, {}, [text])
    with pytest.raises(UsageError, match="false without in_batch"):
        resolve(FinetuneSettings, None, {}, ["symmetric_loss=true", "in_batch=false"])

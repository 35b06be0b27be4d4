"""Distillation against worked numbers and naive loops, and the scores it takes from the store."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

import trainers
from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store.materialise import materialise
from mixture.store.teachers import write_scores
from tests.trainers.conftest import write_suite
from trainers.batch.texts import BatchSource
from trainers.finetune import FinetuneSettings
from trainers.finetune.loop import _source
from trainers.losses import distil, info_nce
from trainers.settings import resolve

NAN = math.nan
# cos(q, d) = 1, 0, 0.6; τ = 0.5: z = 2, 0, 1.2.
QUERY = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
PASSAGES = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [0.6, 0.8]]], dtype=torch.float64)


def _alone(teacher: list[float], **more: Any) -> float:
    """The teacher's part of the worked example."""
    return distil(QUERY, PASSAGES, temperature=0.5, teacher=torch.tensor([teacher]), distil_weight=1, **more).item()


def test_worked_examples() -> None:
    # The teacher's y = 1, 0, 0 over τ_t = 1: p = e, 1, 1 over e + 2.
    total, model = math.e + 2, math.exp(2) + 1 + math.exp(1.2)
    kl = sum(p * (math.log(p) - math.log(q)) for p, q in (
        (math.e / total, math.exp(2) / model), (1 / total, 1 / model), (1 / total, math.exp(1.2) / model)))  # fmt: skip
    assert _alone([1.0, 0.0, 0.0], teacher_temperature=1.0) == pytest.approx(kl, abs=1e-12)
    # The model's margins are 2 and 0.8, the teacher's 1 and 1.
    margins = ((2 - 1) ** 2 + (0.8 - 1) ** 2) / 2
    assert _alone([1.0, 0.0, 0.0], teacher_temperature=1.0, distil_by="margin_mse") == pytest.approx(margins, abs=1e-12)
    # A teacher of cosines that agrees, over the same temperature.
    for kind in ("kl", "margin_mse"):
        assert _alone([1.0, 0.0, 0.6], distil_by=kind) == pytest.approx(0, abs=1e-7)
    # Of the last nothing is known: it counts in neither.
    two = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2))
    share = 1 / (1 + math.exp(-1))
    kl = share * (-two[0] + two[1]) + (1 - share) * (-1 - two[0] + 2 + two[1])
    assert _alone([1.0, 0.0, NAN], teacher_temperature=1.0) == pytest.approx(kl, abs=1e-7)
    assert _alone([1.0, 0.0, NAN], teacher_temperature=1.0, distil_by="margin_mse") == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["kl", "margin_mse"])
@pytest.mark.parametrize("in_batch", [False, True])
def test_equals_the_naive_loop(kind: str, in_batch: bool) -> None:
    torch.manual_seed(0)
    query, passages = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 4, 8, dtype=torch.float64)
    teacher = torch.randn(6, 4, dtype=torch.float64)
    teacher[0, 2] = teacher[1, 0] = teacher[2, 1:] = teacher[3] = NAN  # one, the positive, all negatives, all
    masked = torch.rand(6, 24 if in_batch else 4) < 0.2
    forms: dict[str, Any] = {"temperature": 0.2, "in_batch": in_batch, "masked": masked, "margin": 0.3}
    found = distil(
        query, passages, teacher=teacher, teacher_temperature=0.7, distil_by=kind, distil_weight=0.3, **forms
    )
    plain = info_nce(query, passages, **forms).tolist()
    for i in range(6):
        if i in (1, 2, 3):
            assert found[i].item() == pytest.approx(plain[i], abs=1e-9)
            continue
        known = [j for j in range(4) if not math.isnan(teacher[i, j])]
        y = [teacher[i, j].item() / 0.7 for j in known]
        z = [cosine_similarity(query[i], passages[i, j], dim=0).item() / 0.2 for j in known]
        if kind == "kl":
            p, q = ([math.exp(v) / sum(map(math.exp, values)) for v in values] for values in (y, z))
            apart = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        else:
            gaps = [(z[0] - z[k]) - (y[0] - y[k]) for k in range(1, len(known))]
            apart = sum(gap**2 for gap in gaps) / len(gaps)
        assert found[i].item() == pytest.approx(0.7 * plain[i] + 0.3 * apart, abs=1e-9)


@pytest.mark.parametrize("kind", ["kl", "margin_mse"])
def test_what_is_not_scored_has_no_gradient_of_the_teacher(kind: str) -> None:
    torch.manual_seed(1)
    query, passages = torch.randn(2, 4), torch.randn(2, 3, 4, requires_grad=True)
    teacher = torch.tensor([[0.5, NAN, 0.1], [NAN, 0.2, 0.1]])
    distil(query, passages, temperature=0.002, teacher=teacher, distil_by=kind, distil_weight=1).sum().backward()
    assert passages.grad is not None
    assert torch.isfinite(passages.grad).all()
    assert passages.grad[0, 1].tolist() == [0.0] * 4
    assert passages.grad[0, 2].abs().sum() > 0


def test_a_teacher_says_which_negatives_are_likely_answers() -> None:
    torch.manual_seed(2)
    query, passages = torch.randn(3, 8), torch.randn(3, 3, 8)
    teacher = torch.tensor([[0.9, 0.85, 0.2], [0.5, 0.3, NAN], [NAN, 0.9, 0.9]])
    for in_batch in (False, True):
        forms: dict[str, Any] = {"temperature": 0.1, "in_batch": in_batch}
        masked = torch.zeros(3, 9 if in_batch else 3, dtype=torch.bool)
        masked[0, 1] = True  # 0.85 > 0.9 − 0.1; the others are lower, or without a positive to compare with
        found = info_nce(query, passages, margin=0.1, margin_by="teacher", teacher=teacher, **forms)
        torch.testing.assert_close(found, info_nce(query, passages, masked=masked, **forms))
        given = masked.roll(1, dims=1)
        found = info_nce(query, passages, margin=0.1, margin_by="teacher", teacher=teacher, masked=given, **forms)
        torch.testing.assert_close(found, info_nce(query, passages, masked=masked | given, **forms))
    relative = info_nce(query, passages, temperature=0.1, margin=0.5, margin_by="teacher", margin_strategy="relative",
                        teacher=teacher)  # fmt: skip
    masked = torch.zeros(3, 3, dtype=torch.bool)
    masked[0, 1] = masked[1, 1] = True  # 0.85 > 0.45; 0.3 > 0.25
    torch.testing.assert_close(relative, info_nce(query, passages, temperature=0.1, masked=masked))


def test_mistakes() -> None:
    for more, said in (
        ({}, "needs the scores of a teacher"),
        ({"teacher": torch.zeros(1, 3), "distil_by": "mse"}, "distil_by is mse; allowed: kl, margin_mse"),
        ({"teacher": torch.zeros(1, 3), "distil_weight": 1.5}, "distil_weight is 1.5; allowed: 0 to 1"),
        ({"teacher": torch.zeros(1, 3), "teacher_temperature": 0.0}, "teacher_temperature is 0.0; allowed: above 0"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            distil(QUERY, PASSAGES, temperature=0.5, **more)
    with pytest.raises(UsageError, match="margin_by is teacher, which needs the scores of one"):
        info_nce(QUERY, PASSAGES, temperature=0.5, margin=0.1, margin_by="teacher")
    for text, said in {
        "distil_by=mse": "kl, margin_mse", "distil_weight=2.0": "0 to 1", "teacher_temperature=0": "none, or above 0",
        "margin_by=teacher": "model without margin", "distil_weight=0.3": "which does not take it",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=re.escape(said)):
            resolve(FinetuneSettings, None, {}, [text])


@pytest.fixture
def mined(small_store: Store) -> Store:
    """BM25's negatives and scores for one collection."""
    jobs.mine(small_store, "easy", per_query=3)
    return small_store


def _scored(store: Store, *names: str) -> MaterialisedMixture:
    spec = jobs.create(store, "taught", collections=names, miners=["bm25"]).spec
    materialise(store, spec)
    write_scores(store, spec)
    return materialise(store, spec)


def test_a_batch_has_the_scores_that_the_store_has(mined: Store) -> None:
    data = _scored(mined, "easy")
    (part,) = data.components.values()
    assert part.num_scored() == part.num_examples > 30
    settings = FinetuneSettings(batch_size=8, negatives=4, loss="distil", temperature=0.05)
    source = _source(data, settings)
    stored = {
        (row["query"], row["text"]): row["score"]
        for row in mined.rows(
            """SELECT e.query, p.text, s.score FROM (
                   SELECT collection, example_id, passage_id, score, miner FROM negatives UNION ALL
                   SELECT collection, example_id, passage_id, score, miner FROM positive_scores) s
               JOIN examples e USING (collection, example_id) JOIN passages p USING (collection, passage_id)
               WHERE s.miner = 'bm25' AND s.score IS NOT NULL"""
        )
    }
    seen = 0
    for step in range(4):
        batch = source.homogeneous(step)
        assert batch.teacher is not None
        for place, row in enumerate(batch.rows):
            query = part.example(int(row)).query
            for column in range(5):
                passage = batch.passages[place * 5 + column]
                wanted = next((s for (q, t), s in stored.items() if q == query and passage.endswith(t)), NAN)
                np.testing.assert_array_equal(batch.teacher[place, column].item(), np.float32(wanted))
                seen += not math.isnan(wanted)
    assert seen > 60
    chosen = np.arange(part.num_examples) % 2 == 0
    half = part.only(chosen)
    assert [half.scores(row) for row in range(3)] == [part.scores(row) for row in (0, 2, 4)]
    assert half.num_scored() == sum(len(part.scores(int(row))) > 1 for row in np.flatnonzero(chosen))
    assert BatchSource(data, source.plan, negatives=4).homogeneous(0).teacher is None


def test_training_learns_what_the_teacher_says(mined: Store, tiny_model: Path, tmp_path: Path) -> None:
    """The scores decide: a teacher that says the opposite teaches the opposite."""
    _scored(mined, "easy")
    settings = FinetuneSettings(steps=30, batch_size=16, negatives=3, loss="distil", distil_weight=1.0,
                                temperature=0.05, teacher_temperature=2.0, learning_rate=1e-3, tracker="none",
                                max_query_tokens=40, max_passage_tokens=32)  # fmt: skip
    first = trainers.train(mined, "taught", tiny_model, out=tmp_path / "one", settings=settings)
    losses = [row["loss"] for row in json.loads((tmp_path / "one" / "training.json").read_text())["losses"]]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert trainers.train(mined, "taught", tiny_model, out=tmp_path / "one", settings=settings).finished_at is not None
    folder = tmp_path / "exported"
    jobs.export(mined, "taught", materialised=folder)
    elsewhere = trainers.train_on_folder(folder, tiny_model, out=tmp_path / "two", settings=settings)
    assert elsewhere.run == first.run
    assert [row["loss"] for row in json.loads((tmp_path / "two" / "training.json").read_text())["losses"]] == losses
    mined.transaction(lambda c: c.execute("UPDATE positive_scores SET score = -score"))
    other = trainers.train(mined, "taught", tiny_model, out=tmp_path / "other", settings=settings)
    assert other.run != first.run


def test_without_scores_or_with_two_scales_there_is_no_teacher(mined: Store, tiny_model: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(steps=1, batch_size=8, loss="distil", temperature=0.05, tracker="none")
    jobs.create(mined, "bare", collections=("hard",))
    with pytest.raises(UsageError, match="no example of collection hard has a teacher's scores"):
        trainers.train(mined, "bare", tiny_model, out=tmp_path / "a", settings=settings)
    assert not (tmp_path / "a").exists()
    jobs.mine(mined, "easy", miner="bm25", name="second", per_query=2, seed=3)
    jobs.create(mined, "two", collections=("easy",))
    with pytest.raises(UsageError, match="negatives of bm25, second have scores in easy, each on a scale of its own"):
        trainers.train(mined, "two", tiny_model, out=tmp_path / "b", settings=settings)
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    plain = replace(settings, loss="info_nce")
    assert trainers.train(mined, "two", tiny_model, out=tmp_path / "b", settings=plain).steps == 1


def test_one_collection_may_have_a_teacher_whatever_the_others_have(
    mined: Store, tiny_model: Path, tmp_path: Path
) -> None:
    jobs.mine(mined, "hard", miner="bm25", per_query=2)
    jobs.mine(mined, "hard", miner="bm25", name="second", per_query=2, seed=3)
    jobs.create(mined, "both", collections=("easy", "hard"))
    plain = FinetuneSettings(steps=2, batch_size=8, temperature=0.05, tracker="none", negatives=2)
    settings = replace(plain, collection={"easy": {"loss": "distil"}})
    first = trainers.train(mined, "both", tiny_model, out=tmp_path / "a", settings=settings)
    mined.transaction(lambda c: c.execute("UPDATE positive_scores SET score = -score WHERE collection = 'hard'"))
    assert trainers.train(mined, "both", tiny_model, out=tmp_path / "a", settings=settings).run == first.run
    with pytest.raises(UsageError, match="have scores in hard, each on a scale of its own"):
        trainers.train(mined, "both", tiny_model, out=tmp_path / "b", settings=replace(plain, loss="distil"))
    with pytest.raises(UsageError, match="no example of collection middle has a teacher's scores"):
        jobs.create(mined, "other", collections=("easy", "middle"))
        bare = replace(plain, collection={"middle": {"loss": "distil"}})
        trainers.train(mined, "other", tiny_model, out=tmp_path / "c", settings=bare)


def test_verdicts_and_ablations_have_the_teacher_and_the_settings_of_collections(
    mined: Store, static_model: Path, tmp_path: Path
) -> None:
    suite = write_suite(materialise(mined, jobs.create(mined, "m", collections=("middle",)).spec), tmp_path / "s", 20)
    jobs.create(mined, "a", collections=("easy", "hard"), miners=["bm25"])
    jobs.create(mined, "b", collections=("easy", "middle"), miners=["bm25"])
    settings = FinetuneSettings(steps=2, batch_size=8, temperature=0.05, tracker="none", negatives=2,
                                collection={"easy": {"loss": "distil"}, "hard": {"temperature": 0.1}})  # fmt: skip
    found = trainers.verdict(mined, "a", "b", static_model, [suite], settings=settings, seeds=2)
    assert found is not None
    missing = replace(settings, collection={"nowhere": {"temperature": 0.1}})
    with pytest.raises(UsageError, match="no collection 'nowhere'"):
        trainers.verdict(mined, "a", "b", static_model, [suite], settings=missing, seeds=2)
    effects = trainers.ablate(mined, "a", static_model, [suite], settings=settings, seeds=2,
                              screen="none", holdout=0, extremes=1)  # fmt: skip
    assert effects is not None
    with pytest.raises(UsageError, match="do not suit models that are merged"):
        trainers.ablate(mined, "a", static_model, [suite], settings=settings, seeds=2, holdout=0.5)

"""Ablations over a store: what cannot be learned is named, harm and use are tested, a kill costs nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainers
from mixture import Store, UsageError, jobs, registry, transfers
from mixture.materialised import MaterialisedMixture
from tests.trainers.conftest import write_suite
from trainers.evaluation.compare import holm
from trainers.finetune import FinetuneSettings
from trainers.learning.ablation import learnable, without
from trainers.loop.steps import TrainingLoop
from trainers.loop.stopping import Stopped

STEPS = 10
SETTINGS = FinetuneSettings(steps=STEPS, batch_size=12, negatives=2, temperature=0.05, max_query_tokens=32,
                            max_passage_tokens=32, checkpoint_every=4, tracker="none", learning_rate=0.05)  # fmt: skip


@pytest.fixture
def suites(tmp_path: Path, mixture_data: MaterialisedMixture) -> list[Path]:
    """Two suites of rows of `middle`, one of them called so."""
    return [write_suite(mixture_data, tmp_path / name, 40) for name in ("middle-test", "other")]


def _ablate(store: Store, model: Path, suites: list[Path], **more: Any) -> trainers.Ablation:
    # In `hard` a passage has no word of its query: nothing holds for rows that were not seen.
    given = {"settings": SETTINGS, "seeds": 2, "extremes": 1, "holdout": 0.5}
    return trainers.ablate(store, "mix", model, suites, **given | more)


def _kind(found: trainers.Ablation, kind: str) -> dict[str, Any]:
    return {one.collection: one for one in found.effects if one.kind == kind}


def test_what_cannot_be_learned_is_named_and_what_is_needed_is_missed(
    small_store: Store, static_model: Path, suites: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _ablate(small_store, static_model, suites, half="report")
    assert found.named("at chance") == ["hard"]
    assert found.lines[0].startswith("at chance: hard; ")
    unseen, merged, trained = (_kind(found, kind) for kind in ("held out", "merged", "trained"))
    assert {name: one.says for name, one in unseen.items()} == {
        "hard": "at chance", "middle": "teaches", "easy": "teaches"}  # fmt: skip
    assert unseen["hard"].high < 0.75 < unseen["easy"].effect
    # The suites are of `middle`: the merged models miss it most. It is tried, and so is what is at chance.
    assert max(merged, key=lambda name: merged[name].effect) == "middle"
    assert set(trained) == {"hard", "middle"}
    assert trained["middle"].effect > trained["hard"].effect
    assert trained["middle"].effect > 0
    # One of the two suites is `middle`'s own, none is `hard`'s.
    assert trained["hard"].without_own is None
    assert trained["middle"].without_own is not None
    assert [one.p_holm for one in trained.values()] == holm([one.p for one in trained.values()])
    # By hand from the scores that the store has.
    rows = small_store.rows(
        """SELECT mixture, suite, avg(value) AS value FROM evaluations
           WHERE metric = 'ndcg@10' AND step = 10 GROUP BY ALL ORDER BY suite"""
    )
    spec = registry.resolve(small_store, "mix").spec
    ids = {row["mixture"] for row in rows}
    of = {key: np.array([row["value"] for row in rows if row["mixture"] == key]) for key in ids}
    for name, one in trained.items():
        differs = of[spec.id] - of[transfers.without(spec, [name]).id]
        assert one.effect == pytest.approx(differs.mean())
        if one.without_own is not None:
            assert one.without_own == pytest.approx(differs[1])
    assert {row["suite"] for row in rows} == {"middle-test/report", "other/report"}
    # What the store keeps is what was said; the second call trains nothing.
    kept = small_store.rows("SELECT collection, kind, effect, says FROM ablations")
    assert {(row["collection"], row["kind"], row["effect"], row["says"]) for row in kept} == {
        (one.collection, one.kind, one.effect, one.says) for one in found.effects}  # fmt: skip
    monkeypatch.setattr(TrainingLoop, "descend", lambda *_: pytest.fail("trained again"))
    assert _ablate(small_store, static_model, suites, half="report") == found


@pytest.mark.parametrize("at", [16, 170])
def test_a_killed_ablation_ends_with_the_same_numbers(
    small_store: Store, static_model: Path, suites: list[Path], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed within a branch, and within the whole trainings."""
    whole, steps = TrainingLoop.descend, []

    def counted(*given: Any) -> Any:
        steps.append(1)
        if len(steps) == at:
            raise Stopped(at, 15)
        return whole(*given)

    monkeypatch.setattr(TrainingLoop, "descend", counted)
    with pytest.raises(Stopped):
        _ablate(small_store, static_model, suites)
    assert small_store.rows("FROM ablations") == []
    resumed = _ablate(small_store, static_model, suites)
    assert len(steps) <= 3 + 3 * 50 + 6 * STEPS + 4  # at most what came after the last checkpoint, once more
    tables = ("runs", "evaluations", "evaluation_queries", "ablations")
    small_store.transaction(lambda c: [c.execute(f"DELETE FROM {table}") for table in tables])
    shutil.rmtree(small_store.work / "runs")
    assert _ablate(small_store, static_model, suites) == resumed


def test_without_a_screen_all_are_tried_and_without_extremes_none(
    small_store: Store, static_model: Path, suites: list[Path]
) -> None:
    settings = replace(SETTINGS, steps=3)
    quick = _ablate(small_store, static_model, suites, settings=settings, screen="none", extremes=0)
    assert (set(_kind(quick, "held out")), len(quick.effects)) == ({"easy", "middle", "hard"}, 3)
    every = _ablate(small_store, static_model, suites, settings=settings, screen="none", holdout=0)
    assert (set(_kind(every, "trained")), len(every.effects)) == ({"easy", "middle", "hard"}, 3)


def test_mistakes_are_said_before_anything_is_trained(
    small_store: Store, static_model: Path, suites: list[Path]
) -> None:
    jobs.create(small_store, "one", collections=["easy"])
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("`seeds` is 1; allowed: 2 or more", {"seeds": 1}),
        ("`screen` is 'megred'; allowed: merged, none", {"screen": "megred"}),
        ("`extremes` is -1; allowed: 0 or more", {"extremes": -1}),
        ("`holdout` is 0.6; allowed: 0 to 0.5", {"holdout": 0.6}),
        ("no suite given", {"suites": ()}),
        ("one has one collection", {"mixture": "one"}),
    ]
    for said, change in mistakes:
        given = {"mixture": "mix", "suites": suites, "model": static_model, "settings": SETTINGS} | change
        with pytest.raises(UsageError, match=said):
            trainers.ablate(small_store, **given)
    assert small_store.rows("FROM runs") == []


def test_an_interval_says_chance_only_where_the_rows_tell() -> None:
    random = np.random.default_rng(1)
    shuffled = [learnable(random.random(100)).says for _ in range(200)]
    assert shuffled == ["at chance"] * 200
    assert learnable(np.full(8, 0.5)).says == "too few rows"
    assert learnable(np.full(8, 1.0)).says == "teaches"
    # 70 % of the rows are noise, or 30 %.
    assert learnable(np.r_[random.random(140), np.ones(60)]).says == "at chance"
    assert learnable(np.r_[random.random(60), np.ones(140)]).says == "teaches"
    one = learnable(np.array([1.0, 0.5, 1.0, 0.5] * 10))
    assert (one.rows, one.share) == (40, 0.75)
    assert one.low < 0.75 < one.high <= 1.0


def test_without_one_the_others_share_its_weight() -> None:
    np.testing.assert_allclose(without(np.array([0.5, 0.3, 0.2]), 0), [0.0, 0.6, 0.4])

"""Verdicts over a store: what is trained, what is kept, what is said, and that a kill costs nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainers
from mixture import Store, UsageError, jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.registry.gc import gc
from mixture.store import layout
from tests.trainers.conftest import write_suite
from trainers.evaluation.compare import compare
from trainers.finetune import FinetuneSettings
from trainers.jobs import verdict
from trainers.loop.steps import TrainingLoop
from trainers.loop.stopping import Stopped

STEPS = 9
SETTINGS = FinetuneSettings(steps=STEPS, batch_size=12, negatives=2, temperature=0.05, max_query_tokens=32,
                            max_passage_tokens=32, checkpoint_every=4, tracker="none", learning_rate=0.05)  # fmt: skip


@pytest.fixture
def suites(tmp_path: Path, mixture_data: MaterialisedMixture, small_store: Store) -> list[Path]:
    """Two suites of rows of `middle`, one of them called so; mixtures with it and without."""
    jobs.create(small_store, "with", collections=["middle", "hard"])
    jobs.create(small_store, "without", collections=["hard"])
    return [write_suite(mixture_data, tmp_path / name, 40) for name in ("middle-test", "other")]


def _verdict(store: Store, model: Path, suites: list[Path], **more: Any) -> trainers.Verdict:
    return trainers.verdict(store, "with", "without", model, suites, **{"settings": SETTINGS} | more)


def _folders(store: Store) -> list[str]:
    return [path.name for path in layout.runs(store.work)]


def test_a_mixture_with_the_rows_that_are_asked_for_is_ahead(
    small_store: Store, static_model: Path, suites: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = _verdict(small_store, static_model, suites)
    assert found.found.difference > 0.05
    assert found.line == found.found.words("without")
    assert found.lines == [f"without own suites: {found.not_own.words('without')}", found.line]  # type: ignore[union-attr]
    assert [(one.suite, one.own) for one in found.suites] == [("middle-test", True), ("other", False)]
    assert found.seeds == (42, 43, 44)
    said = [record.getMessage() for record in caplog.records if record.name == "trainers.jobs.verdict"]
    assert said[0] == f"6 trainings of {STEPS} steps, each scored on 2 suites"
    assert said[1].startswith("the first took ") and "; 5 more take about " in said[1]

    # By hand from what the store kept of the six models.
    seeds = {row["run_id"]: json.loads(row["config"])["seed"] for row in small_store.rows("FROM runs")
             if row["kind"] == "finetune"}  # fmt: skip
    models = {row["model"]: (row["mixture"], seeds[row["run_id"]])
              for row in small_store.rows("FROM evaluations") if row["step"] == STEPS}  # fmt: skip
    rows = small_store.rows("FROM evaluation_queries WHERE metric = 'ndcg@10'")
    rows.sort(key=lambda row: (models[row["model"]], row["suite"], row["query_id"]))
    ids = [registry.resolve(small_store, name).spec.id for name in ("with", "without")]
    sides = [np.array([row["value"] for row in rows if row["mixture"] == mixture]) for mixture in ids]
    names = [row["suite"] for row in rows[:80]]
    by_hand = compare(*(side.reshape(3, 80) for side in sides), names)  # far apart: not paired
    assert astuple(by_hand) == pytest.approx(astuple(found.found))
    (row,) = small_store.rows("FROM verdicts WHERE suites = 'all'")
    assert (row["verdict"], row["says"], row["difference"]) == (found.run, found.line, found.found.difference)
    assert (row["seeds"], row["num_suites"], row["num_queries"]) == ([42, 43, 44], 2, 80)
    (other,) = small_store.rows("FROM verdicts WHERE suites = 'not own'")
    assert other["num_suites"] == 1
    kept = {row["suite"]: row for row in small_store.rows("FROM verdict_suites")}
    for one in found.suites:
        assert kept[one.suite]["ours_by_seed"] == list(one.ours_by_seed)
        assert one.found.ours == pytest.approx(np.mean(one.ours_by_seed))
        assert one.p_holm >= one.found.p
    assert _folders(small_store) == []


def test_nothing_is_trained_twice(
    small_store: Store, static_model: Path, suites: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _verdict(small_store, static_model, suites, seeds=2)
    whole, steps = TrainingLoop.descend, []
    monkeypatch.setattr(TrainingLoop, "descend", lambda *given: (steps.append(1), whole(*given))[1])
    assert _verdict(small_store, static_model, suites, seeds=2) == first
    assert (small_store.rows("SELECT count(*) AS n FROM verdicts"), steps) == ([{"n": 2}], [])
    # The other way around, all models are there; with one seed more, two of six are not.
    back = trainers.verdict(small_store, "without", "with", static_model, suites, seeds=2, settings=SETTINGS)
    assert (back.found.difference, back.found.p, steps) == (-first.found.difference, first.found.p, [])
    assert back.line == back.found.words("with")
    _verdict(small_store, static_model, suites, seeds=3)
    assert len(steps) == 2 * STEPS


def test_a_killed_verdict_ends_with_the_same_numbers(
    small_store: Store, static_model: Path, suites: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within the first training, then within the second, and in the last step of the last."""
    whole, steps, kills = TrainingLoop.descend, 0, [6, 15, 40]

    def counted(*given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps in kills:
            raise Stopped(steps, 15)
        return whole(*given)

    monkeypatch.setattr(TrainingLoop, "descend", counted)
    for _ in kills:
        with pytest.raises(Stopped):
            _verdict(small_store, static_model, suites, seeds=2)
        assert small_store.rows("FROM verdicts") == []
        assert small_store.rows("SELECT status FROM runs WHERE kind = 'verdict'") == [{"status": "running"}]
        at_work = _folders(small_store)
        gc(small_store)
        assert (_folders(small_store), len(at_work)) == (at_work, 1)
    resumed = _verdict(small_store, static_model, suites, seeds=2)
    assert steps < 4 * STEPS + 4 * len(kills)  # each kill costs what came after the last checkpoint, and itself
    small_store.transaction(lambda c: [c.execute(f"DELETE FROM {table}") for table in ("runs", "evaluations",
                            "evaluation_queries", "verdicts", "verdict_suites")])  # fmt: skip
    assert _verdict(small_store, static_model, suites, seeds=2) == resumed


def test_models_are_kept_where_asked(
    small_store: Store, static_model: Path, suites: list[Path], tmp_path: Path
) -> None:
    scores_alone = _verdict(small_store, static_model, suites, seeds=2)
    kept = _verdict(small_store, static_model, suites, seeds=2, keep=tmp_path / "kept")
    assert kept == scores_alone
    names = [f"{name}-1-seed-{seed}" for name in ("with", "without") for seed in (42, 43)]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == names
    record = json.loads((tmp_path / "kept" / names[0] / "training.json").read_text())
    assert (record["settings"]["seed"], record["final_step"]) == (42, STEPS)
    # What is scored later on such a model is not what its training scored.
    trainers.evaluate(small_store, tmp_path / "kept" / names[0], suites, prompt="another: ")
    assert _verdict(small_store, static_model, suites, seeds=2, keep=tmp_path / "kept") == kept


def test_halves_are_verdicts_of_their_own(small_store: Store, static_model: Path, suites: list[Path]) -> None:
    found = _verdict(small_store, static_model, suites, seeds=2, half="report")
    assert [(one.suite, one.own) for one in found.suites] == [("middle-test/report", True), ("other/report", False)]
    assert 0 < found.found.num_queries < 80
    assert small_store.rows("SELECT DISTINCT half FROM verdicts") == [{"half": "report"}]


def test_mistakes_are_said_before_anything_is_trained(
    small_store: Store, static_model: Path, suites: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "full" / "with-1-seed-42").mkdir(parents=True)
    (tmp_path / "full" / "with-1-seed-42" / "notes").touch()
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("`seeds` is 1; allowed: 2 or more", {"seeds": 1}),
        ("with:1 and with:1 are one mixture", {"against": "with"}),
        ("no mixture 'withuot'; did you mean 'without'", {"against": "withuot"}),
        ("no suite given", {"suites": ()}),
        ("`half` is 'reprot'", {"half": "reprot"}),
        ("is not empty; name a new folder", {"keep": tmp_path / "full"}),
    ]
    for said, change in mistakes:
        given = {"against": "without", "suites": suites} | change
        with pytest.raises(UsageError, match=said):
            trainers.verdict(small_store, "with", model=static_model, settings=SETTINGS, **given)
    assert small_store.rows("FROM runs") == []


def test_mixtures_that_are_alike_are_compared_by_pairs(
    small_store: Store, static_model: Path, suites: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()
    whole = verdict.compare
    monkeypatch.setattr(verdict, "compare", lambda *a, paired: (asked.add(paired), whole(*a, paired=paired))[1])
    jobs.create(small_store, "nearly", source="with", fixed={"hard": 0.6})
    for seeds, paired in ((2, False), (3, True)):
        asked.clear()
        trainers.verdict(small_store, "with", "nearly", static_model, suites, seeds=seeds, settings=SETTINGS)
        assert asked == {paired}

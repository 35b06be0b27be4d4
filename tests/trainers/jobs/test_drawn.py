"""What a run draws, found anew: forgotten rows are counted where it drew them, and are nowhere after retraining."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import trainers
from mixture import Store, jobs
from mixture.errors import ForgottenRows, StoreError, UsageError
from trainers import FinetuneSettings, LearningSettings

CONDITION = "collection = 'easy' AND query < 'l'"
SETTINGS = FinetuneSettings(steps=30, batch_size=8, negatives=2, tracker="none", learning_rate=0.01, temperature=0.05)
TABLE = {"steps": 30, "batch_size": 8, "negatives": 2, "tracker": "none", "temperature": 0.05}


@pytest.fixture
def mixed(small_store: Store) -> Store:
    jobs.create(small_store, "base", weights={"easy": 5, "middle": 3, "hard": 2})
    jobs.create(small_store, "other", weights={"easy": 1, "middle": 1})
    return small_store


def drawn_by_the_store(store: Store, run: str) -> int:
    (row,) = store.rows(
        "SELECT sum(examples_drawn)::BIGINT AS n FROM run_draws WHERE run_id = ? AND collection = 'easy'", [run]
    )
    return int(row["n"])


OWN = {"seed": 3, "collection": {"easy": {"batch_size": 5}}}


@pytest.mark.parametrize("more", [{}, {"batching": "mixed"}, {"holdout": 0.5}, OWN], ids=str)
def test_all_draws_of_a_collection_are_those_that_the_run_recorded(
    mixed: Store, static_model: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    settings = FinetuneSettings(**{**TABLE, **more})
    made = trainers.train(mixed, "base", str(static_model), out=tmp_path / "model", settings=settings)
    for named in (made.run, tmp_path / "model"):
        found = trainers.check_forgotten(mixed, named, "easy")
        assert found.drawn == drawn_by_the_store(mixed, made.run) > 0
        assert (found.steps, found.compared, found.rows, found.held) == (30, 30, 40, found.held)
        assert (found.held < 40) == ("holdout" in more)
    report = jobs.forget(mixed, "easy")
    (run,) = report.runs
    assert run.at_least is not None and run.at_most is not None
    assert run.at_least <= found.drawn <= run.at_most
    assert (run.run, run.steps, run.batch_size, run.model) == (made.run, 30, 8, str((tmp_path / "model").resolve()))
    assert run.seconds is not None and 0 < run.seconds < 600


def test_phases_are_walked_one_after_the_other(mixed: Store, static_model: Path, tmp_path: Path) -> None:
    phases = [("base", 20), ("other", 10)]
    made = trainers.train(mixed, phases, str(static_model), out=tmp_path / "m", settings=SETTINGS)
    found = trainers.check_forgotten(mixed, made.run, "easy")
    assert found.drawn == drawn_by_the_store(mixed, made.run)
    (tmp_path / "m" / "training.json").rename(tmp_path / "aside.json")
    alone = trainers.check_forgotten(mixed, made.run, "easy")  # by what the store kept
    assert (alone.drawn, alone.compared) == (found.drawn, 0)


def test_rows_are_counted_one_by_one_before_and_nowhere_after(mixed: Store, static_model: Path, tmp_path: Path) -> None:
    old = trainers.train(mixed, "base", str(static_model), out=tmp_path / "old", settings=SETTINGS)
    bits = (tmp_path / "old" / "model.safetensors").read_bytes()
    jobs.export(mixed, "base", batches=30, batch_size=8, seed=SETTINGS.seed, out=tmp_path / "batches.jsonl")
    listed = [json.loads(line) for line in (tmp_path / "batches.jsonl").read_text().splitlines()]
    report = jobs.forget(mixed, where=CONDITION, apply=True)
    gone = set(report.example_ids["example_id"].to_pylist())
    expected = Counter(row["example_id"] for row in listed if row["example_id"] in gone and row["collection"] == "easy")
    assert expected.total() > 0

    with pytest.raises(ForgottenRows, match="forgotten rows: easy"):
        trainers.train(mixed, "base", str(static_model), out=tmp_path / "no", settings=SETTINGS)
    assert not (tmp_path / "no").exists()
    found = trainers.check_forgotten(mixed, old.run)
    assert {row["example_id"]: row["draws"] for row in found.by_row} == expected
    assert (found.drawn, found.draws, found.rows, found.held) == (
        expected.total(), len(listed), len(gone), len(gone)
    )  # fmt: skip

    anew = jobs.create(mixed, "anew", source="base", refresh=True)
    made = trainers.train(mixed, anew, str(static_model), out=tmp_path / "new", settings=SETTINGS)
    clean = trainers.check_forgotten(mixed, tmp_path / "new")
    assert (clean.run, clean.steps, clean.compared, clean.drawn, clean.held) == (made.run, 30, 30, 0, 0)
    assert (clean.rows, clean.with_texts, clean.by_row) == (len(gone), len(gone), ())
    # The row that the store kept of a run is enough.
    assert not list(mixed.work.glob(".writing-*"))

    jobs.forget(mixed, undo=True)
    trainers.train(mixed, "base", str(static_model), out=tmp_path / "again", settings=SETTINGS)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == bits
    with pytest.raises(UsageError, match="no row is forgotten"):
        trainers.check_forgotten(mixed, old.run)


def test_texts_of_forgotten_rows_in_other_rows_are_counted(mixed: Store, static_model: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "raw" / "easy.jsonl").read_text().splitlines()][:8]
    twins = [{"query": row["query"], "pos": [f"another answer {n}"], "neg": row["pos"]} for n, row in enumerate(rows)]
    twins += [{"query": f"another question {n}", "pos": row["pos"], "neg": ["no"]} for n, row in enumerate(rows)]
    (tmp_path / "twins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in twins))
    jobs.ingest(mixed, tmp_path / "twins.jsonl")
    jobs.create(mixed, "twins", collections="twins")
    jobs.forget(mixed, "easy", apply=True)
    settings = FinetuneSettings(**{**TABLE, "steps": 6, "batch_size": 16, "negatives": 1})
    made = trainers.train(mixed, "twins", str(static_model), out=tmp_path / "m", settings=settings)
    found = trainers.check_forgotten(mixed, made.run)
    # 8 rows bring an equal query and such a passage as their negative; the other 8 have it as their positive.
    draws = found.draws // 2
    assert found.drawn == 0 and draws > 0
    assert (found.same_query, found.same_positive, found.same_negative) == (draws, draws, draws)


def test_a_run_that_learned_weights_is_listed_and_its_draws_are_counted(
    mixed: Store, static_model: Path, tmp_path: Path
) -> None:
    settings = LearningSettings(**TABLE)
    learned = trainers.learn_weights(mixed, "base", proxy=str(static_model), name="tdro", settings=settings)
    report = jobs.forget(mixed, where=CONDITION)
    kinds = {run.kind: run for run in report.runs}
    assert set(kinds) == {"reference", "tdro"}
    assert {one.mixture: one.learned_by for one in report.mixtures} == {
        "base:1": None, "other:1": None, "tdro:1": learned.first.run_id
    }  # fmt: skip
    (told,) = mixed.rows(
        "SELECT sum(num_examples)::BIGINT AS n FROM weight_history WHERE run_id = ? AND collection = 'easy'",
        [kinds["tdro"].run],
    )
    assert trainers.check_forgotten(mixed, kinds["tdro"].run, "easy").drawn == told["n"]
    reference = trainers.check_forgotten(mixed, kinds["reference"].run, "easy")
    assert reference.drawn == drawn_by_the_store(mixed, kinds["reference"].run)
    jobs.forget(mixed, where=CONDITION, apply=True)
    with pytest.raises(ForgottenRows):
        trainers.learn_weights(mixed, "base", proxy=str(static_model), name="no", settings=settings)
    again = jobs.create(mixed, "again", source="tdro", refresh=True)
    assert any("the weights of tdro:1 were learned with rows that are forgotten" in line for line in again.remarks)
    of_base = jobs.create(mixed, "of-base", source="base", refresh=True)
    assert not any("were learned" in line for line in of_base.remarks)


def test_a_run_whose_record_tells_otherwise_is_no_proof(mixed: Store, static_model: Path, tmp_path: Path) -> None:
    made = trainers.train(mixed, "base", str(static_model), out=tmp_path / "m", settings=SETTINGS)
    file = tmp_path / "m" / "training.json"
    record = json.loads(file.read_text("utf-8"))
    record["losses"][4]["collection"] = "hard" if record["losses"][4]["collection"] != "hard" else "easy"
    file.write_text(json.dumps(record), "utf-8")
    with pytest.raises(StoreError, match=f"batch 5 of run {made.run} is .* what it drew cannot be told"):
        trainers.check_forgotten(mixed, tmp_path / "m", "easy")


@pytest.mark.parametrize("run", ["nothing", "{folder}"])
def test_what_is_no_run(mixed: Store, tmp_path: Path, run: str) -> None:
    with pytest.raises(UsageError, match=r"no run 'nothing'|holds no finished training"):
        trainers.check_forgotten(mixed, run.format(folder=tmp_path), "easy")

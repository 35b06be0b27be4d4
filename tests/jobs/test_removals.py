"""Dedup and decontamination as commands: priority across collections, dry runs, one step back, test passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixture import Store, jobs
from mixture.errors import UsageError

LONG = (
    "The lighthouse on the northern cape was built of granite in 1868 and burned whale oil until the keepers were "
    "given an electric lamp, which can be seen from forty kilometres out at sea on a clear night in winter. "
)
OTHER = (
    "A glacier forms where more snow falls in a year than melts, and the weight of all the years presses it to ice "
    "that flows downhill by its own weight, a few metres a day at most. "
)


def write(folder: Path, name: str, rows: list[tuple[str, str]]) -> str:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"query": q, "pos": [p], "neg": ["something else"]}) + "\n" for q, p in rows))
    return str(file)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s", create=True) as lake:
        ours = [("who kept the lighthouse on the northern cape?", LONG), ("how does a glacier move downhill?", OTHER)]
        theirs = [("Who kept the lighthouse on the northern cape", LONG.upper()), ("what is quartz made of", "Silica.")]
        jobs.ingest(lake, [write(tmp_path, "alpha", ours), write(tmp_path, "beta", theirs)])
        yield lake


def queries(store: Store) -> set[tuple[str, str]]:
    rows = store.sql("SELECT collection, query FROM examples").to_pylist()
    return {(row["collection"], row["query"]) for row in rows}


def test_collections_are_compared_only_when_asked_and_the_first_named_keeps(store: Store) -> None:
    assert [r.removed for r in jobs.dedup(store)] == [0, 0]
    assert {r.collection: r.removed for r in jobs.dedup(store, across=True, dry_run=True)} == {"alpha": 0, "beta": 1}
    results = jobs.dedup(store, ["beta", "alpha"], across=True)
    assert {r.collection: r.removed for r in results} == {"beta": 0, "alpha": 1}
    (row,) = store.sql(
        "SELECT collection, query, reason, kept_collection, kept_query, distance FROM removals"
    ).to_pylist()
    assert row == {
        "collection": "alpha", "query": "who kept the lighthouse on the northern cape?", "reason": "duplicate",
        "kept_collection": "beta", "kept_query": "Who kept the lighthouse on the northern cape", "distance": 0,
    }  # fmt: skip


def test_a_dry_run_names_the_rows_and_changes_nothing(store: Store) -> None:
    before = store.snapshot()
    results = jobs.dedup(store, across=True, dry_run=True)
    assert [row["kept_collection"] for r in results for row in r.removals.to_pylist()] == ["alpha"]
    assert store.snapshot() == before


def test_one_step_back_restores_examples_and_negatives_of_the_newest_command(store: Store) -> None:
    before = queries(store)
    negatives = store.sql("SELECT count(*) AS n FROM negatives")["n"][0].as_py()
    jobs.dedup(store, ["beta", "alpha"], across=True)
    after_dedup = queries(store)
    tests = Path(store.work).parent / "tests.txt"
    tests.write_text("how does a glacier move downhill\n")
    jobs.decontaminate(store, [str(tests)])
    assert len(queries(store)) == 2
    assert [(r.collection, r.removed, r.put_back) for r in jobs.undo(store, "decontaminate")] == [("alpha", 0, 1)]
    assert queries(store) == after_dedup
    assert [(r.collection, r.put_back) for r in jobs.undo(store, "dedup")] == [("alpha", 1)]
    assert queries(store) == before
    assert store.sql("SELECT count(*) AS n FROM negatives")["n"][0].as_py() == negatives
    assert store.sql("FROM removals").num_rows == 0
    with pytest.raises(UsageError, match="nothing to put back"):
        jobs.undo(store, "dedup")


def test_undo_finds_what_was_ingested_while_the_command_ran(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.dedup(store)
    before = queries(store)
    late = tmp_path / "late.jsonl"
    rows = [
        {"query": "why do cats purr when they sleep at night", "pos": [LONG], "neg": ["no answer"]},
        {"query": "why do cats purr, when they sleep at night", "pos": [LONG], "neg": ["no answer"]},
    ]
    late.write_text("".join(json.dumps(row) + "\n" for row in rows))
    snapshot = store.snapshot()
    jobs.ingest(store, [str(late)])
    with monkeypatch.context() as patch:
        patch.setattr(Store, "snapshot", lambda _: snapshot)  # taken before the other process committed
        found = jobs.dedup(store, ["late"])
    assert [r.removed for r in found] == [1]
    assert [(r.collection, r.put_back) for r in jobs.undo(store, "dedup")] == [("late", 1)]
    assert queries(store) == before | {("late", str(row["query"])) for row in rows}
    assert store.sql("SELECT 1 FROM negatives WHERE collection = 'late'").num_rows == 2


def test_only_the_newest_of_two_commands_is_undone(store: Store) -> None:
    tests = Path(store.work).parent / "tests.txt"
    for text in ("how does a glacier move downhill\n", "what is quartz made of\n"):
        tests.write_text(text)
        assert jobs.decontaminate(store, [str(tests)], dry_run=True)
        known = len(queries(store))
        jobs.decontaminate(store, [str(tests)])
        assert len(queries(store)) < known  # and the dry run took nothing
    jobs.undo(store, "decontaminate")
    assert ("beta", "what is quartz made of") in queries(store)
    assert ("alpha", "how does a glacier move downhill?") not in queries(store)


def test_the_key_decides_what_is_compared(tmp_path: Path) -> None:
    rows = [
        ("why is the sky blue in the daytime?", LONG),
        ("Why is the sky blue in the daytime", OTHER),
        ("q3 q3", OTHER),
    ]
    for key, removed in (("query", 1), ("positive", 1), ("pair", 0)):
        with Store.open(tmp_path / key, create=True) as lake:
            jobs.ingest(lake, [write(tmp_path, "c", rows)])
            (result,) = jobs.dedup(lake, key=key)
            assert result.removed == removed, key


@pytest.mark.parametrize("method", ["simhash", "minhash", "exact"])
def test_fingerprints_of_the_store_give_what_the_texts_give(tmp_path: Path, method: str) -> None:
    """Only texts with a neighbour are fetched; the outcome is that of comparing all texts."""
    from mixture.dedup import find_duplicates

    base = [f"{LONG} number {n % 7} of {n % 3}" for n in range(60)] + [f"short {n % 9}" for n in range(30)]
    texts = [text + ("!" if n % 4 else " indeed") for n, text in enumerate(base)]
    with Store.open(tmp_path / "s", create=True) as lake:
        jobs.ingest(lake, [write(tmp_path, "c", [(text, f"passage {n}") for n, text in enumerate(texts)])])
        rows = lake.sql("SELECT example_id, query FROM examples ORDER BY example_id").to_pylist()
        expected = find_duplicates([r["query"] for r in rows], [r["example_id"] for r in rows], method=method)
        (result,) = jobs.dedup(lake, method=method, key="query")
        assert 0 < result.removed < len(rows) - 1
        found = dict(
            zip(result.removals["example_id"].to_pylist(), result.removals["kept_id"].to_pylist(), strict=True)
        )
        assert found == dict(zip(expected["removed"].to_pylist(), expected["kept"].to_pylist(), strict=True))


def test_positives_that_hold_a_test_passage_go_and_the_suite_is_known_by_name(store: Store, tmp_path: Path) -> None:
    suite = tmp_path / "cape"
    (suite / "qrels").mkdir(parents=True)
    documents = [{"_id": "d1", "title": "", "text": LONG}, {"_id": "d2", "title": "", "text": OTHER}]
    (suite / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (suite / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "granite towers of the north"}) + "\n")
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    results = {r.collection: r.removed for r in jobs.decontaminate(store, [str(suite)])}
    assert results == {"alpha": 1, "beta": 1}  # d2 is judged relevant by nobody
    rows = store.sql("SELECT DISTINCT reason, suite, query_id, similarity FROM removals").to_pylist()
    assert rows == [{"reason": "test passage", "suite": "cape", "query_id": "d1", "similarity": 1.0}]
    assert [r.removed for r in jobs.decontaminate(store, ["cape"])] == [0, 0]
    jobs.undo(store, "decontaminate")
    assert [r.removed for r in jobs.decontaminate(store, ["cape"])] == [1, 1]

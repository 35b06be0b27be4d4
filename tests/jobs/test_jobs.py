"""The data side's jobs on a store: what comes in, what goes out and why."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mixture import Store, UsageError, jobs
from mixture.store import read


def _collection(folder: Path, name: str, rows: list[dict]) -> str:  # type: ignore[type-arg]
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(file)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def _queries(store: Store, collection: str) -> set[str]:
    return set(read.queries(store, collection)["query"].to_pylist())


TWINS = [
    {"query": "Who painted the ceiling of the old chapel in the capital?", "pos": ["It was painted by Anna Berg."]},
    {"query": "who painted the ceiling of the old chapel in the capital", "pos": ["It was painted by Anna Berg!"]},
    {"query": "Who painted the ceiling of the old chapel in the capital?!", "pos": ["Nobody knows who painted it."]},
    {"query": "How long does the ferry to the northern islands take?", "pos": ["The ferry takes four hours."]},
]


def test_pairs_that_say_the_same_are_removed_and_other_answers_stay(store: Store, tmp_path: Path) -> None:
    jobs.ingest(store, [_collection(tmp_path / "raw", "c", TWINS)])
    result = jobs.dedup(store)[0]
    assert (result.examples, result.removed) == (4, 1)
    row = store.sql("FROM removals").to_pylist()[0]
    kept = store.sql("SELECT query FROM examples WHERE example_id = ?", [row["kept_id"]]).to_pylist()
    assert row["reason"] == "duplicate"
    assert kept == [{"query": row["kept_query"]}]
    assert row["kept_id"] < row["example_id"]
    assert {row["query"], row["kept_query"]} == {TWINS[0]["query"], TWINS[1]["query"]}
    assert jobs.dedup(store)[0].removed == 0


def test_by_query_alone_one_answer_stays(store: Store, tmp_path: Path) -> None:
    jobs.ingest(store, [_collection(tmp_path / "raw", "c", TWINS)])
    assert jobs.dedup(store, key="query")[0].removed == 2
    with pytest.raises(UsageError, match="`key` is 'positives'; allowed: pair, query"):
        jobs.dedup(store, key="positives")


def test_survivors_do_not_depend_on_the_order_of_ingestion(tmp_path: Path) -> None:
    found = []
    for name, rows in (("a", TWINS), ("b", TWINS[::-1])):
        with Store.open(tmp_path / name, create=True) as store:
            jobs.ingest(store, [_collection(tmp_path / f"raw-{name}", "c", rows)])
            jobs.dedup(store, method="exact", key="query")
            found.append(_queries(store, "c"))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_test_queries_leave_and_are_written_down(store: Store, tmp_path: Path) -> None:
    jobs.ingest(store, [_collection(tmp_path / "raw", "c", TWINS)])
    jobs.ingest(store, [_collection(tmp_path / "raw", "d", TWINS[3:])])
    tests = tmp_path / "tests.jsonl"
    tests.write_text(json.dumps({"suite": "nq", "query_id": "7", "query": "HOW long does the ferry to the northern "
                                 "islands take"}) + "\n")  # fmt: skip
    result = {r.collection: r.removed for r in jobs.decontaminate(store, [str(tests)])}
    assert result == {"c": 1, "d": 1}
    rows = store.sql("SELECT collection, reason, suite, query_id, kept_query FROM removals ORDER BY 1").to_pylist()
    assert [(r["collection"], r["reason"], r["suite"], r["query_id"]) for r in rows] == [
        ("c", "test query", "nq", "7"), ("d", "test query", "nq", "7"),
    ]  # fmt: skip
    assert store.sql("SELECT suite, simhash IS NULL AS bare FROM test_queries").to_pylist() == [
        {"suite": "nq", "bare": False}
    ]
    # The suite is known by its name now.
    jobs.ingest(store, [_collection(tmp_path / "raw", "e", TWINS[3:])])
    assert [r.removed for r in jobs.decontaminate(store, ["nq"], ["e"])] == [1]
    with pytest.raises(UsageError, match="no test suite 'nqq'; did you mean 'nq'"):
        jobs.decontaminate(store, ["nqq"])


def test_mining_fills_what_has_no_negatives_and_leaves_the_rest(store: Store, tmp_path: Path) -> None:
    rows = [
        {"query": f"question number {n} about rivers", "pos": [f"answer number {n} about rivers"]} for n in range(20)
    ]
    rows[0]["neg"] = ["a provided negative"]
    jobs.ingest(store, [_collection(tmp_path / "raw", "c", rows)])
    first = jobs.mine(store, per_query=4)[0]
    assert (first.examples, first.negatives) == (19, 76)
    assert jobs.mine(store, per_query=4) == []
    miners = store.sql("SELECT miner, count(DISTINCT example_id) AS n FROM negatives GROUP BY ALL").to_pylist()
    assert {"miner": "provided", "n": 1} in miners
    own = "SELECT 1 FROM negatives n JOIN examples e USING (collection, example_id) WHERE list_contains("
    own += "list_transform(e.positives, lambda p: p.passage_id), n.passage_id)"
    assert store.sql(own).num_rows == 0
    again = jobs.mine(store, ["c"], per_query=2)[0]
    assert (again.examples, again.negatives) == (20, 40)
    assert store.sql("SELECT 1 FROM negatives WHERE miner = 'provided'").num_rows == 1


def test_every_damaged_file_is_survived(store: Store, real_data: Path) -> None:
    corrupt = real_data / "corrupt"
    with pytest.raises(jobs.NothingStored) as caught:
        jobs.ingest(store, [str(corrupt)], name="corrupt")
    assert {Path(file).name for file in caught.value.failed} == {"empty.jsonl", "latin1.jsonl", "wrong-columns.parquet"}
    counts = caught.value.results[0].counts
    rows = store.sql("SELECT file, line, reason FROM rejects ORDER BY file, line").to_pylist()
    lines: dict[str, list[int]] = {}
    for row in rows:
        lines.setdefault(Path(row["file"]).name, []).append(row["line"])
        assert row["reason"]
    assert lines == {
        "broken-line3.jsonl": [3],
        "truncated.jsonl.gz": [170],
        "latin1.jsonl": list(range(1, 11)),
        "empty.jsonl": [1],
        "missing-query.jsonl": [2, 5, 8],
        "empty-positives.jsonl": [4, 7],
        "wrong-columns.parquet": [1],
        "ragged.csv": lines["ragged.csv"],
    }
    assert len(lines["ragged.csv"]) == 3
    assert counts.rejected == len(rows) + 49  # one reason stands for the 50 rows of the Parquet file
    assert store.sql("SELECT max(strlen(text)) AS n FROM passages").to_pylist()[0]["n"] > 2_000_000


def test_real_collections_go_through(store: Store, real_data: Path) -> None:
    raw = real_data / "raw"
    jobs.ingest(store, [str(raw / name) for name in ("pubmedqa", "xquad", "dureader")])
    jobs.mine(store, ["dureader", "pubmedqa"], per_query=2)
    infos = {i.collection: i for i in read.collections(store)}
    assert infos["pubmedqa"].num_with_negatives == infos["pubmedqa"].num_examples == 750
    languages = store.sql("SELECT DISTINCT language FROM examples WHERE collection = 'xquad' ORDER BY 1")
    assert languages["language"].to_pylist() == ["ar", "de", "en", "es", "hi", "ru", "th", "zh"]
    assert isinstance(read.passages(store, "dureader"), pa.Table)


def test_removed_examples_and_answers_of_equal_queries_are_not_mined(tmp_path: Path) -> None:
    """A removed twin's answer is nearly the answer, and would rank first among the hard negatives."""
    river = "the long river flows from the high mountains past old cities to the cold north sea"
    rows = [
        {"query": "where does the river flow in the end", "pos": [f"{river} coast"]},
        {"query": "where does the river flow in the end then", "pos": [river]},
        {"query": "capital of the river country", "pos": ["the capital lies on the river"], "neg": ["a river port"]},
        {"query": "Capital of the river country?", "pos": ["on the river lies the capital city"]},
        *({"query": f"question {n}", "pos": [f"a river port number {n} of the country"]} for n in range(6)),
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with Store.open(tmp_path / "s", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "c.jsonl")])
        removed = jobs.dedup(store, verify=0.7, key="positive")
        assert [r.removed for r in removed] == [1]
        (result,) = jobs.mine(store, per_query=4)
        assert result.examples == 8
        mined = store.sql(
            """SELECT e.query, p.text FROM negatives n JOIN examples e USING (example_id)
               JOIN passages p ON p.passage_id = n.passage_id WHERE n.miner <> 'provided'"""
        ).to_pylist()
    texts = {row["text"] for row in mined}
    assert "a river port" in texts  # a given negative is a passage like others
    assert len(texts & {river, f"{river} coast"}) <= 1
    assert not any(row["text"].startswith("the long river") for row in mined if "flow" in row["query"])
    assert not any("capital" in row["text"] for row in mined if row["query"].startswith("Capital"))

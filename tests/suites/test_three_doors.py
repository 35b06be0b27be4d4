"""Ingest, decontaminate and evaluate read the same suites, and the same of each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.ingest.read import read_file
from mixture.ingest.reading import Reading
from mixture.ingest.sources import discover
from mixture.rows import RawExample
from mixture.suites.layout import find_suites
from mixture.suites.lists import read_test_passages, read_test_queries
from mixture.suites.suite import load_suite

CORPUS: list[dict[str, Any]] = [{"_id": "1", "text": "leaves"}, {"_id": "2", "text": "beans"}, {"_id": "3", "text": ""}]
QUERIES: list[dict[str, Any]] = [{"_id": "10", "text": "what is tea"}, {"_id": "11", "text": "what is coffee"}]
HEADER = "query-id\tcorpus-id\tscore\n"
JUDGED = "11\t2\t1\n10\t1\t2\n10\t2\t0\n"
SEEN = {"what is tea": {"leaves"}, "what is coffee": {"beans"}}
PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress,
}  # fmt: skip


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def numbered(rows: list[dict[str, Any]]) -> str:
    return json_lines([{**row, "_id": int(row["_id"])} for row in rows])


def write(folder: Path, qrels: Mapping[str, str], packed: Mapping[str, str] | None = None, **texts: str) -> Path:
    """qrels: text by file name. packed: the ending of each file that is packed. texts: other texts for corpus and
    queries."""
    files = {"corpus.jsonl": texts.get("corpus", json_lines(CORPUS)),
             "queries.jsonl": texts.get("queries", json_lines(QUERIES)), **qrels}  # fmt: skip
    for name, text in files.items():
        ending = (packed or {}).get(name, "")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / (name + ending)).write_bytes(PACK[ending](text.encode()))
    return folder


def ingested(folder: Path, split: str | None = None) -> dict[str, set[str]]:
    (unit,) = discover([folder], None, split=split)
    assert isinstance(unit.place, Path)
    rows = list(read_file(unit.place, reading=Reading(split=split)))
    assert all(isinstance(row, RawExample) for row in rows)
    return {row.query: {p.text for p in row.positives} for row in rows if isinstance(row, RawExample)}


def evaluated(folder: Path) -> dict[str, set[str]]:
    (suite,) = map(load_suite, find_suites([folder]))
    documents = dict(zip(suite.corpus_ids, (text for _, text in suite.corpus), strict=True))
    return {text: {documents[d] for d, grade in suite.qrels[key].items() if grade > 0}
            for key, text in zip(suite.query_ids, suite.queries, strict=True)}  # fmt: skip


def kept_out(folder: Path) -> tuple[set[str], set[str]]:
    return set(read_test_queries(folder)["query"].to_pylist()), set(read_test_passages(folder)["text"].to_pylist())


TEST = "qrels/test.tsv"
CASES: dict[str, dict[str, Any]] = {
    "header": {"qrels": {TEST: HEADER + JUDGED}},
    "no header": {"qrels": {TEST: JUDGED}},
    "another header": {"qrels": {TEST: "query_id\tdoc_id\trelevance\n" + JUDGED}},
    "grades as floats": {"qrels": {TEST: HEADER + "11\t2\t1.0\n10\t1\t2.0\n"}},
    "TREC's four columns": {"qrels": {TEST: "11 0 2 1\n10 0 1 2\n10 0 2 0\n"}},
    "byte order mark, CRLF": {"qrels": {TEST: "\ufeff" + (HEADER + JUDGED).replace("\n", "\r\n")}},
    "dev alone": {"qrels": {"qrels/dev.tsv": HEADER + JUDGED}},
    "one other split": {"qrels": {"qrels/validation.tsv": HEADER + JUDGED}},
    "qrels.tsv beside": {"qrels": {"qrels.tsv": HEADER + JUDGED}},
    "qrels.tsv beside, packed": {"qrels": {"qrels.tsv": JUDGED}, "packed": {"qrels.tsv": ".zst"}},
    "hidden files": {"qrels": {TEST: JUDGED, "qrels/._test.tsv": "\0"}},
    "numbers for documents": {"qrels": {TEST: JUDGED}, "corpus": numbered(CORPUS)},
    "numbers for queries": {"qrels": {TEST: JUDGED}, "queries": numbered(QUERIES)},
    **{f"{name}{ending}": {"qrels": {TEST: HEADER + JUDGED}, "packed": {name: ending}}
       for name in ("corpus.jsonl", "queries.jsonl", TEST) for ending in (".gz", ".zst")},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("place", ["nq", "beir/nq", "beir/cqadupstack/android"])
def test_every_command_reads_the_same_in_a_suite(tmp_path: Path, place: str, case: dict[str, Any]) -> None:
    write(tmp_path / place, **case)
    top = tmp_path / place.split("/")[0]
    split = "test" if any("test" in name for name in case["qrels"]) else None  # test data is taken on demand only
    assert ingested(top, split) == evaluated(top) == SEEN
    assert kept_out(top) == (set(SEEN), set.union(*SEEN.values()))
    assert set(read_test_queries(top)["suite"].to_pylist()) == {place.rpartition("/")[2]}


@pytest.mark.parametrize(
    ("splits", "tested"),
    [
        ({"test": "10", "dev": "11", "train": "11"}, "what is tea"),
        ({"dev": "10", "train": "11"}, "what is tea"),
        ({"validation": "10", "train": "11"}, "what is tea"),
    ],
    ids=["test of three", "dev", "the only one to test on"],
)
def test_evaluation_and_decontamination_choose_the_same_split(
    tmp_path: Path, splits: Mapping[str, str], tested: str
) -> None:
    folder = write(tmp_path / "s", {f"qrels/{split}.tsv": f"{query}\t1\t1\n" for split, query in splits.items()})
    assert set(evaluated(folder)) == kept_out(folder)[0] == {tested}
    assert set(ingested(folder)) == {"what is coffee"}  # train


def test_a_file_beside_the_splits_is_the_test_split(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", {"qrels.tsv": "10\t1\t1\n", "qrels/train.tsv": "11\t2\t1\n"})
    assert evaluated(folder) == {"what is tea": {"leaves"}}
    assert kept_out(folder) == ({"what is tea"}, {"leaves"})
    assert ingested(folder) == {"what is coffee": {"beans"}}


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ({"qrels/train.tsv": JUDGED}, r"there are train; expected test or dev\.tsv"),
        ({"qrels/a.tsv": JUDGED, "qrels/b.tsv": JUDGED}, r"there are a, b; expected test or dev\.tsv"),
        ({"qrels/test.tsv": HEADER + "10\t1\n"}, r"line 2: expected 'query<TAB>document<TAB>grade', got '10\\t1'"),
        ({"qrels/test.tsv": HEADER + "10\t1\tyes\n"}, r"line 2: the score must be a whole number, got 'yes'"),
        ({"qrels/test.tsv": "10\t1\n"}, r"line 1: expected 'query<TAB>document<TAB>grade'"),
        ({}, r"has no qrels/test\.tsv"),
    ],
)
def test_a_suite_without_clear_judgements_is_the_same_error(
    tmp_path: Path, qrels: Mapping[str, str], message: str
) -> None:
    folder = write(tmp_path / "s", qrels)
    for read in (load_suite, read_test_passages):
        with pytest.raises(UsageError, match=message):
            read(folder)


def collection_of_suites(folder: Path) -> Path:
    """nq/ and cqadupstack/android/, as the public archive has them."""
    write(folder / "nq", {TEST: HEADER + JUDGED})
    android = [{"_id": "20", "text": "how do I root my old android telephone"}]
    corpus = [{"_id": "5", "text": "unlock the boot loader first"}]
    texts = {"corpus": json_lines(corpus), "queries": json_lines(android)}
    write(folder / "cqadupstack" / "android", {TEST: HEADER + "20\t5\t1\n"}, **texts)
    write(folder / ".cache" / "hidden", {TEST: JUDGED})
    write(folder / "a" / "b" / "too deep", {TEST: JUDGED})
    return folder


def test_one_folder_holds_the_same_suites_for_all(tmp_path: Path) -> None:
    folder = collection_of_suites(tmp_path / "eval")
    names = ["android", "nq"]
    assert sorted(load_suite(path).name for path in find_suites([folder])) == names
    assert sorted(set(read_test_queries(folder)["suite"].to_pylist())) == names
    assert sorted(set(read_test_passages(folder)["suite"].to_pylist())) == names


def test_decontaminate_takes_out_what_evaluate_asks(tmp_path: Path) -> None:
    pytest.importorskip("pytrec_eval")
    from trainers import evaluate
    from trainers.model.tiny import build_tiny

    folder = collection_of_suites(tmp_path / "eval")
    rows = [{"query": "How do I root my old android telephone?", "pos": ["With a cable."], "neg": ["no"]},
            {"query": "where does the sun rise", "pos": ["In the east."], "neg": ["no"]}]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text(json_lines(rows))
    build_tiny([text for row in rows for text in (row["query"], *row["pos"])], tmp_path / "model", seed=1, hidden=32)
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "mine.jsonl")])
        (result,) = jobs.decontaminate(store, [str(folder)])
        assert [(r["suite"], r["query_id"]) for r in result.removals.to_pylist()] == [("android", "20")]
        scored = {result.suite for result in evaluate(store, str(tmp_path / "model"), [folder])}
        known = store.sql("SELECT DISTINCT suite FROM test_queries")["suite"].to_pylist()
        assert scored == set(known) == {"android", "nq"}


def test_a_link_is_called_as_the_folder_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "nq", {TEST: JUDGED})
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "first").symlink_to(tmp_path / "elsewhere" / "nq")
    assert set(read_test_queries(tmp_path / "eval")["suite"].to_pylist()) == {"nq"}


def test_two_suites_of_one_name_do_not_replace_each_other(small_store: Store, tmp_path: Path) -> None:
    folders = [write(tmp_path / parent / "same", {TEST: JUDGED}) for parent in "ab"]
    with pytest.raises(UsageError, match="two suites are called 'same'"):
        jobs.decontaminate(small_store, [str(folder) for folder in folders])
    assert small_store.sql("FROM test_queries").num_rows == 0


@pytest.mark.parametrize("second", ["b/same.txt", "b/other.jsonl", "b/same"])
def test_two_lists_of_one_name_do_not_replace_each_other(small_store: Store, tmp_path: Path, second: str) -> None:
    write(tmp_path / "b" / "same", {TEST: JUDGED})
    lists = {
        "a/same.txt": "what\n",
        "b/same.txt": "why\n",
        "b/other.jsonl": '{"_id": "1", "text": "x", "suite": "same"}\n',
    }
    (tmp_path / "a").mkdir()
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    first = str(tmp_path / "a/same.txt")
    with pytest.raises(UsageError, match="two lists claim the suite 'same'") as caught:
        jobs.decontaminate(small_store, [first, str(tmp_path / second)])
    assert first in str(caught.value) and str(tmp_path / second) in str(caught.value)
    assert small_store.sql("FROM test_queries").num_rows == 0
    jobs.decontaminate(small_store, [first, f"{tmp_path}/a/../a/same.txt"])  # one file, given twice
    assert small_store.sql("FROM test_queries").num_rows == 1

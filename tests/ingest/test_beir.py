"""BEIR folders: one example for each judged query, texts looked up in corpus and queries by id."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mixture.errors import UsageError
from mixture.ingest.damage import check_utf8
from mixture.ingest.formats import beir
from mixture.ingest.lookup import Lookup
from mixture.ingest.read import read_file
from mixture.ingest.reading import Reading
from mixture.rows import RawExample, RawPassage, Reject

CORPUS: Sequence[Mapping[str, Any]] = [
    {"_id": "d1", "title": "Title", "text": "first document"},
    {"_id": "d2", "title": "", "text": "zweites Dokument: ü"},
    {"_id": "d3", "text": "third", "metadata": {"url": "x"}},
]
QUERIES = [{"_id": "q1", "text": "first query"}, {"_id": "q2", "text": "second query"}]
QRELS = "query-id\tcorpus-id\tscore\nq2\td3\t1\nq1\td2\t0\nq2\td1\t2\nq1\td1\t1\n"
EXPECTED = [
    RawExample(2, "second query", (RawPassage("third", "", 1.0), RawPassage("first document", "Title", 2.0))),
    RawExample(5, "first query", (RawPassage("first document", "Title", 1.0),)),
]


def json_lines(values: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def suite(
    folder: Path,
    corpus: bytes = json_lines(CORPUS),
    queries: bytes = json_lines(QUERIES),
    qrels: Mapping[str, str] = {"qrels/train.tsv": QRELS},
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_bytes(corpus)
    (folder / "queries.jsonl").write_bytes(queries)
    for name, text in qrels.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def test_an_example_for_each_judged_query(tmp_path: Path) -> None:
    assert list(read_file(suite(tmp_path / "suite"))) == EXPECTED


@pytest.mark.parametrize(
    "qrels",
    [
        {"qrels.tsv": QRELS},
        {"qrels/dev.tsv": QRELS},
        {"qrels/dev.tsv": "q1\td1\t1\n", "qrels/test.tsv": "q1\td1\t1\n", "qrels/train.tsv": QRELS},
    ],
    ids=["no splits", "one split", "train of three"],
)
def test_the_split_to_train_on(tmp_path: Path, qrels: Mapping[str, str]) -> None:
    assert list(read_file(suite(tmp_path / "suite", qrels=qrels))) == EXPECTED


def test_a_suite_to_test_on_is_not_trained_on_unless_asked_for(tmp_path: Path) -> None:
    folder = suite(tmp_path / "suite", qrels={"qrels/test.tsv": QRELS})
    with pytest.raises(UsageError, match=r"the only split is test, which is not to be trained on; .* `split=test`"):
        read_file(folder)
    assert list(read_file(folder, reading=Reading(split="test"))) == EXPECTED


def test_two_splits_without_train_are_an_error_that_names_them(tmp_path: Path) -> None:
    folder = suite(tmp_path / "suite", qrels={"qrels/dev.tsv": QRELS, "qrels/test.tsv": QRELS})
    with pytest.raises(UsageError, match=r"the splits are dev, test; expected 'train' or a single one"):
        read_file(folder)


def test_a_folder_without_qrels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected corpus.jsonl, queries.jsonl and qrels/train.tsv"):
        read_file(suite(tmp_path / "suite", qrels={}))


def test_packed_files(tmp_path: Path) -> None:
    folder = suite(tmp_path / "suite")
    for name, ending, pack in (
        ("corpus.jsonl", ".gz", gzip.compress),
        ("queries.jsonl", ".zst", zstandard.ZstdCompressor().compress),
        ("qrels/train.tsv", ".gz", gzip.compress),
    ):
        file = folder / name
        (folder / (name + ending)).write_bytes(pack(file.read_bytes()))
        file.unlink()
    assert list(read_file(folder)) == EXPECTED


def test_trec_columns_crlf_and_byte_order_mark(tmp_path: Path) -> None:
    qrels = {"qrels/train.tsv": "\ufeffq2 0 d3 1\r\nq2 0 d1 2\r\nq1 0 d1 1\r\n"}
    rows = list(read_file(suite(tmp_path / "suite", qrels=qrels)))
    assert [(row.line, row.query) for row in rows if isinstance(row, RawExample)] == [
        (1, "second query"), (3, "first query"),
    ]  # fmt: skip


def test_each_damage_is_one_reject_with_its_file_and_line(tmp_path: Path) -> None:
    corpus = json_lines(CORPUS) + b'{"_id": "d1", "text": "again"}\n{"text": "no id"}\n{"_id": "d9", "text": ""}\n{"_id'
    queries = json_lines(QUERIES) + b'{"_id": "q3", "text": " "}\n\n["q4"]\n'
    qrels = QRELS + "q1\td7\t1\nq9\td1\t1\nq1\td9\t1\nq3\td1\t1\nq1\td3\tyes\nq1\td3\nq1\td3\t1\n"
    rows = list(read_file(suite(tmp_path / "suite", corpus, queries, {"qrels/train.tsv": qrels})))
    examples = {row.query: len(row.positives) for row in rows if isinstance(row, RawExample)}
    assert examples == {"second query": 2, "first query": 2}
    assert {(row.file, row.line, row.reason) for row in rows if isinstance(row, Reject)} == {
        ("corpus.jsonl", 4, "id 'd1' is there more than once; line 1 is used"),
        ("corpus.jsonl", 5, "expected _id and text (and title) as texts"),
        ("corpus.jsonl", 7, "line is not valid JSON: Unterminated string starting at: line 1 column 2 (char 1)"),
        ("queries.jsonl", 5, "line is no JSON object; expected _id and text"),
        ("qrels/train.tsv", 6, "document 'd7' is not in corpus.jsonl"),
        ("qrels/train.tsv", 7, "query 'q9' is not in queries.jsonl"),
        ("qrels/train.tsv", 8, "document 'd9' has no text (corpus.jsonl line 6)"),
        ("qrels/train.tsv", 9, "query 'q3' has no text (queries.jsonl line 3)"),
        ("qrels/train.tsv", 10, "score is 'yes'; expected a number"),
        ("qrels/train.tsv", 11, "line has 2 columns; expected query id, document id and score"),
    }


def test_cut_corpus(tmp_path: Path) -> None:
    documents = [{"_id": f"d{n}", "text": f"text {n * 7919}"} for n in range(5000)]
    folder = suite(tmp_path / "suite", qrels={"qrels/train.tsv": "q1\td3\t1\nq2\td4999\t1\n"})
    packed = gzip.compress(json_lines(documents))
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    cut, example, missing = read_file(folder)
    assert isinstance(cut, Reject)
    assert (cut.file, cut.reason[:23]) == ("corpus.jsonl.gz", "gzip stream ends early:")
    assert missing == Reject(2, "document 'd4999' is not in corpus.jsonl.gz", "q2 d4999", "qrels/train.tsv")
    assert isinstance(example, RawExample)
    assert example.query == "first query"


def test_two_megabytes_in_one_text(tmp_path: Path) -> None:
    long = "wort " * 400_000
    corpus = json_lines([{"_id": "d1", "title": "t", "text": long}])
    (row,) = read_file(suite(tmp_path / "suite", corpus, qrels={"qrels.tsv": "q1\td1\t1\n"}))
    assert row == RawExample(1, "first query", (RawPassage(long, "t", 1.0),))


def test_texts_are_not_held_in_memory(tmp_path: Path) -> None:
    documents = json_lines([{"_id": f"d{n}", "text": "x" * 2000} for n in range(5000)])
    qrels = "".join(f"q1\td{n}\t{n % 2}\n" for n in range(0, 5000, 500)) + "q1\td1\t1\n"
    folder = suite(tmp_path / "suite", documents, qrels={"qrels.tsv": qrels})
    tracemalloc.start()
    rows = list(read_file(folder))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 1
    assert peak_bytes < 1_500_000  # of 10 MB


def test_ids_with_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixture.ingest.lookup.HASH_BITS", 1)  # a hash of one bit
    ids = [f"d{n}" for n in range(40)]
    file = tmp_path / "lines"
    file.write_text("".join(f"{key}\ttext of {key}\n" for key in ids))

    def parse(line: bytes) -> tuple[str, tuple[str, str]]:
        key, _, text = check_utf8(line).partition("\t")
        return key, ("", text)

    with Lookup(file, "lines", parse) as lookup:
        assert list(lookup.build()) == []
        assert [lookup.get(key) for key in ids] == [(n, ("", f"text of d{n - 1}")) for n in range(1, 41)]
        assert lookup.get("d40") is None


def test_real_suites_are_read_whole(real_data: Path) -> None:
    test = Reading(split="test")
    counts = {folder.name: list(read_file(folder, reading=test)) for folder in sorted((real_data / "eval").iterdir())}
    assert {name: len(rows) for name, rows in counts.items()}["agnews"] == 1000
    assert sum(len(row.positives) for row in counts["agnews"] if isinstance(row, RawExample)) == 1009
    assert [row for rows in counts.values() for row in rows if isinstance(row, Reject)] == []
    assert beir.is_beir(real_data / "eval" / "agnews")

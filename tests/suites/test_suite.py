from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mixture.errors import UsageError
from mixture.suites.layout import find_suites
from mixture.suites.suite import load_suite

DOCUMENTS = [
    {"_id": "d1", "title": "Tea", "text": "green leaves"},
    {"_id": "d2", "title": "", "text": "black beans"},
    {"_id": "d3", "text": "no title here"},
]
QUERIES = [
    {"_id": "q1", "text": "what is tea"},
    {"_id": "unjudged", "text": "who asks"},
    {"_id": "q2", "text": "what is coffee"},
]
HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = HEADER + "q2\td2\t1\nq1\td1\t2\nq1\td3\t0\n"


def write_suite(
    folder: Path, documents: list[dict] = DOCUMENTS, queries: list[dict] = QUERIES, qrels: str = QRELS
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    return folder


def test_a_suite_holds_the_corpus_and_the_judged_queries_in_file_order(tmp_path):
    suite = load_suite(write_suite(tmp_path / "drinks"))
    assert suite.name == "drinks"
    assert suite.corpus_ids == ["d1", "d2", "d3"]
    assert suite.corpus == [("Tea", "green leaves"), ("", "black beans"), ("", "no title here")]
    assert suite.query_ids == ["q1", "q2"]
    assert suite.queries == ["what is tea", "what is coffee"]
    assert suite.qrels == {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}
    assert suite.missing_documents == 0
    assert suite.digest == "2f461e1e522c9e9c"  # enters the ids of runs: must not change


def test_compressed_files_byte_order_mark_windows_lines_and_blank_lines_read_the_same(tmp_path):
    plain = load_suite(write_suite(tmp_path / "a" / "drinks"))
    folder = write_suite(tmp_path / "b" / "drinks")
    for name in ("corpus", "queries"):
        text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
        (folder / f"{name}.jsonl").unlink()
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.write("\ufeff" + text.replace("\n", "\r\n\r\n"))
    (folder / "qrels" / "test.tsv").write_bytes(b"\xef\xbb\xbf" + QRELS.replace("\n", "\r\n").encode() + b"\r\n")
    assert load_suite(folder) == plain


def test_numeric_ids_and_whole_numbers_written_as_floats_are_accepted(tmp_path):
    folder = write_suite(tmp_path / "s", [{"_id": 7, "text": "a"}], [{"_id": 1, "text": "b"}], HEADER + "1\t7\t1.0\n")
    suite = load_suite(folder)
    assert (suite.corpus_ids, suite.query_ids, suite.qrels) == (["7"], ["1"], {"1": {"7": 1}})


def test_judgements_of_absent_documents_are_counted_and_kept(tmp_path):
    suite = load_suite(write_suite(tmp_path / "s", qrels=QRELS + "q2\tgone\t1\nq1\tgone too\t0\n"))
    assert suite.missing_documents == 2
    assert suite.qrels["q2"] == {"d2": 1, "gone": 1}


def test_another_split_is_read_and_an_unknown_one_lists_those_there(tmp_path):
    folder = write_suite(tmp_path / "s")
    (folder / "qrels" / "dev.tsv").write_text(HEADER + "q2\td2\t1\n", encoding="utf-8")
    assert load_suite(folder, split="dev").query_ids == ["q2"]
    with pytest.raises(UsageError, match="no split 'train'; there are: dev, test"):
        load_suite(folder, split="train")


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("query-id Q0 corpus-id score\n", r"test\.tsv: no judgements"),
        ("", r"test\.tsv: no judgements"),
        (HEADER, r"test\.tsv: no judgements"),
        (HEADER + "q1 d1\n", r"test\.tsv, line 2: expected 'query<TAB>document<TAB>grade', got 'q1 d1'"),
        (HEADER + "q1\td1\tyes\n", r"test\.tsv, line 2: the score must be a whole number, got 'yes'"),
        (HEADER + "q1\td1\t0.5\n", r"test\.tsv, line 2: the score must be a whole number"),
        (HEADER + "q1\td1\t1\n\nq1\td1\t2\n", r"test\.tsv, line 4: .* grade 2 here and 1 on an earlier line"),
        (HEADER + "q1\td1\t1\nq9\td1\t1\nq8\td1\t1\n", r"test\.tsv, line 3: query 'q9' .* \(2 of 3 judged"),
        (HEADER + "q1\tx\t1\nq2\ty\t1\n", r"none of the 2 judged documents is in .*corpus\.jsonl \(first: 'x'\)"),
    ],
)
def test_bad_qrels_name_file_line_and_fault(tmp_path, qrels, message):
    with pytest.raises(UsageError, match=message):
        load_suite(write_suite(tmp_path / "s", qrels=qrels))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "d9", "text"', r"corpus\.jsonl, line 2: not JSON"),
        ('["d9", "text"]', r"corpus\.jsonl, line 2: expected a JSON object"),
        ('{"id": "d9", "text": "x"}', r"corpus\.jsonl, line 2: '_id' must be a string, got None"),
        ('{"_id": "d1", "text": "x"}', r"corpus\.jsonl, line 2: '_id' 'd1' was given on an earlier line"),
        ('{"_id": "d9", "title": "x"}', r"corpus\.jsonl, line 2: 'text' must be a string, got None"),
        ('{"_id": "d9", "title": 3, "text": "x"}', r"corpus\.jsonl, line 2: 'title' must be a string, got 3"),
        ('{"_id": "d9", "text": "\\ud83d"}', r"corpus\.jsonl, line 2: 'text' holds half a surrogate pair"),
    ],
)
def test_bad_rows_name_file_line_and_fault(tmp_path, line, message):
    folder = write_suite(tmp_path / "s")
    (folder / "corpus.jsonl").write_text(json.dumps(DOCUMENTS[0]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_suite(folder)


def test_damaged_bytes_are_an_error_with_the_file(tmp_path):
    folder = write_suite(tmp_path / "s")
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "caf\xe9"}\n')
    with pytest.raises(UsageError, match=r"queries\.jsonl, line 1: not UTF-8"):
        load_suite(folder)
    packed = gzip.compress((folder / "corpus.jsonl").read_bytes())
    (folder / "corpus.jsonl").unlink()
    for damaged, message in (
        (packed[:-12], r"after line \d+: cannot be read"),
        (b"not gzip at all", "line 1: not JSON"),
    ):
        (folder / "corpus.jsonl.gz").write_bytes(damaged)
        with pytest.raises(UsageError, match=rf"corpus\.jsonl\.gz, {message}"):
            load_suite(folder)


@pytest.mark.parametrize("part", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_an_incomplete_suite_says_what_is_missing(tmp_path, part):
    folder = write_suite(tmp_path / "s")
    (folder / part).unlink()
    with pytest.raises(UsageError, match=rf"has no {part}.* a suite folder holds"):
        load_suite(folder)


@pytest.mark.parametrize("part", ["corpus.jsonl", "queries.jsonl"])
def test_an_empty_file_is_an_error(tmp_path, part):
    folder = write_suite(tmp_path / "s")
    (folder / part).write_text("\n")
    with pytest.raises(UsageError, match=rf"{part}: no rows"):
        load_suite(folder)


def test_suites_are_found_given_themselves_in_a_folder_or_one_level_deeper(tmp_path):
    b, a = write_suite(tmp_path / "beir" / "b"), write_suite(tmp_path / "beir" / "a")
    nested = write_suite(tmp_path / "beir" / "cqadupstack" / "android")
    (tmp_path / "beir" / "notes").mkdir()
    assert find_suites([b]) == [b]
    assert find_suites([tmp_path / "beir"]) == [a, b, nested]
    assert find_suites([b, tmp_path / "beir"]) == [b, a, nested]


def test_an_incomplete_suite_is_found_so_that_loading_it_fails(tmp_path):
    folder = write_suite(tmp_path / "beir" / "a")
    (folder / "queries.jsonl").unlink()
    assert find_suites([tmp_path / "beir"]) == [folder]


def test_no_suite_where_one_was_promised_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for paths in ([], [tmp_path / "empty"], [tmp_path / "absent"]):
        with pytest.raises(UsageError, match=r"a suite folder holds corpus\.jsonl"):
            find_suites(paths)
    with pytest.raises(UsageError, match="no folder"):
        load_suite(tmp_path / "absent")


def test_two_suites_of_one_name_are_an_error(tmp_path):
    paths = [write_suite(tmp_path / "x" / "same"), write_suite(tmp_path / "y" / "same")]
    with pytest.raises(UsageError, match="two suites are called 'same'"):
        find_suites(paths)

from __future__ import annotations

import hashlib
import json

import pyarrow as pa

from mixture.suites.documents import Columns, Documents, not_there, rows_of
from mixture.suites.suite import Suite
from mixture.text.strings import Strings

ROWS = [("Tea", "leaves"), ("", "beans"), ("Milk", ""), ("", "")]
JOINED = ["Tea leaves", "beans", "Milk", ""]


def suite(corpus: object, ids: object = ("a", "b", "c", "d")) -> Suite:
    return Suite("s", ids, corpus, ["q"], ["what"], {"q": {"a": 1}})  # type: ignore[arg-type]


def test_documents_are_read_like_a_list_of_pairs() -> None:
    documents = Documents.of(ROWS)
    assert documents == ROWS and list(documents) == ROWS and len(documents) == 4
    assert documents[-2] == ("Milk", "") and documents[1:3] == ROWS[1:3]
    assert documents != ROWS[:3] and documents != [*ROWS[:3], ("", "x")]
    assert Documents.of(documents) is documents


def test_a_suite_joins_titles_and_texts_of_lists_and_of_arrow_alike() -> None:
    assert suite(ROWS).documents == suite(Documents.of(ROWS)).documents == JOINED
    chunks = [Strings(pa.chunked_array([pa.array(c[:3], pa.large_string()), pa.array(c[3:], pa.large_string())]))
              for c in map(list, zip(*ROWS, strict=True))]  # fmt: skip
    assert suite(Documents(*chunks)).documents == JOINED
    assert suite(Documents.of([])).documents == []


def test_without_titles_no_text_is_copied() -> None:
    documents = Documents.of([("", "a"), ("", "b")])
    assert documents.joined is documents.texts


def test_the_digest_is_that_of_one_list_of_json() -> None:
    for rows in (ROWS, []):
        ids = [str(n) for n in range(len(rows))]
        body = json.dumps([ids, rows, ["q"], ["what"], [("q", {"a": 1})]])
        found = suite(Documents.of(rows), Strings(pa.chunked_array([ids], pa.large_string()))).digest
        assert found == suite(rows, ids).digest == hashlib.sha256(body.encode()).hexdigest()[:16]


def test_columns_keep_rows_in_order_however_they_come() -> None:
    columns = Columns(2)
    for number in range(20_001):
        columns.append(str(number), "x")
    columns.extend(pa.array(["a", "b"]), pa.array(["y", "z"]))
    columns.append("last", "w")
    ids, texts = columns.strings
    assert list(ids) == [*map(str, range(20_001)), "a", "b", "last"]
    assert list(texts[-4:]) == ["x", "y", "z", "w"]


def test_rows_are_found_by_id_in_the_order_of_the_corpus() -> None:
    ids, documents = rows_of(["a", "b", "c", "d"], ROWS, ["c", "a", "gone"])
    assert (ids, documents) == (["a", "c"], [ROWS[0], ROWS[2]])


def test_what_is_not_there_is_counted_as_often_as_it_comes() -> None:
    ids = ["a", "b"]
    held = Strings(pa.chunked_array([ids], pa.large_string()))
    assert not_there(["a", "c", "c"], ids) == not_there(["a", "c", "c"], held) == 2
    assert not_there([], held) == not_there(["a"], held) == 0

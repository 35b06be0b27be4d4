"""Every layout of a row, from JSON lines and from Parquet, gives the same example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.ingest.damage import BadRow
from mixture.ingest.formats import jsonl
from mixture.ingest.read import read_file
from mixture.ingest.reading import Reading
from mixture.ingest.shapes import table_shape
from mixture.rows import RawExample, RawPassage, Reject

P = RawPassage

OBJECTS: list[tuple[dict[str, Any], RawExample]] = [
    (
        {
            "query": "q", "pos": ["p1", "p2"], "neg": ["n1", "n2"], "pos_scores": [0.9, 2], "neg_scores": [0.25, None],
            "prompt": "find it", "type": "normal",
        },
        RawExample(1, "q", (P("p1", score=0.9), P("p2", score=2.0)), (P("n1", score=0.25), P("n2")), prompt="find it"),
    ),
    ({"query": "q", "pos": "p", "neg": "n"}, RawExample(1, "q", (P("p"),), (P("n"),))),
    ({"query": "q", "pos": ["p"]}, RawExample(1, "q", (P("p"),))),
    ({"query": "q", "pos": ["p"], "neg": None, "pos_scores": []}, RawExample(1, "q", (P("p"),))),
    (
        {
            "query_id": "7", "query": "q", "language": "zh",
            "positive_passages": [{"docid": "1", "title": "T", "text": "p"}],
            "negative_passages": [{"docid": "2", "title": None, "text": "n"}],
        },
        RawExample(1, "q", (P("p", "T"),), (P("n"),), language="zh"),
    ),
    (
        {
            "messages": [{"role": "system", "content": "find it"}, {"role": "user", "content": "q"}],
            "positive_messages": [[{"role": "user", "content": "p1"}], [{"role": "assistant", "content": "p2"}]],
            "negative_messages": [[{"role": "system", "content": "not read"}, {"role": "user", "content": "n"}]],
        },
        RawExample(1, "q", (P("p1"), P("p2")), (P("n"),), prompt="find it"),
    ),
    (
        {"messages": [{"role": "user", "content": "q"}], "positive_messages": [[{"role": "user", "content": "p"}]],
         "label": 2},
        RawExample(1, "q", (P("p", score=2.0),)),
    ),
    ({"set": ["a", "b", "c"]}, RawExample(1, "a", (P("b"), P("c")))),
    ({"anchor": "q", "positive": "p", "negative": "n"}, RawExample(1, "q", (P("p"),), (P("n"),))),
    (
        {"negative_10": "n10", "negative_2": "n2", "anchor": "q", "positive": "p", "negative_1": "n1"},
        RawExample(1, "q", (P("p"),), (P("n1"), P("n2"), P("n10"))),
    ),
    ({"question": "q", "answer": "p", "source": "web"}, RawExample(1, "q", (P("p"),))),
    ({"query": "q", "passage": "p", "title": "not used"}, RawExample(1, "q", (P("p"),))),
    ({"sentence1": "a", "sentence2": "b"}, RawExample(1, "a", (P("b"),))),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), OBJECTS, ids=[",".join(row) for row, _ in OBJECTS])
def test_object_is_the_same_example_from_json_and_from_parquet(
    tmp_path: Path, row: dict[str, Any], expected: RawExample
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert list(read_file(tmp_path / "rows.jsonl")) == [expected]
    assert list(read_file(tmp_path / "rows.parquet")) == [expected]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (["a", "p"], RawExample(3, "a", (P("p"),))),
        (["a", "p", "n"], RawExample(3, "a", (P("p"),), (P("n"),))),
        (["a", "p", "n1", "n2", "n3"], RawExample(3, "a", (P("p"),), (P("n1"), P("n2"), P("n3")))),
    ],
)
def test_list_is_query_positive_negatives(row: list[str], expected: RawExample) -> None:
    assert Reading().example(row, 3) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"pos": ["p"]}, "missing key 'query'"),
        ({"query": "q", "neg": ["n"]}, "missing key 'pos'"),
        ({"query": "q", "negative_passages": []}, "missing key 'positive_passages'"),
        ({"positive_passages": []}, "missing key 'query'"),
        ({"anchor": "q", "negative": "n"}, "missing key 'positive'"),
        ({"positive": "p"}, "missing key 'anchor'"),
        ({"foo": 1, "bar": 2}, "no known keys; found 'foo', 'bar'; say which is which, as in `columns=query=NAME"),
        ({"query": "q", "pos": []}, "'pos' is an empty list"),
        ({"query": "q", "pos": None}, "'pos' is null"),
        ({"query": None, "pos": ["p"]}, "'query' is null; expected text"),
        ({"query": 7, "pos": ["p"]}, "'query' is a number; expected text"),
        ({"query": "q", "pos": ["p", None]}, "'pos' item 2 is null"),
        ({"query": "q", "pos": 3}, "'pos' is a number; expected a text or a list"),
        ({"query": "q", "pos": ["p"], "pos_scores": [1, 2]}, "'pos_scores' has 2 numbers for 1 passages"),
        ({"query": "q", "pos": ["p"], "pos_scores": [True]}, "'pos_scores' item 1 is true or false"),
        ({"query": "q", "pos": ["p"], "pos_scores": [float("nan")]}, "'pos_scores' item 1 is not a finite number"),
        ({"query": "q", "pos": ["p"], "neg": ["n"], "neg_scores": [10**400]}, "'neg_scores' item 1 is not a finite"),
        ({"query": "q", "positive_passages": [{"title": "t"}]}, "'positive_passages' item 1 has no 'text'"),
        ({"query": "q", "positive_passages": [{"text": 1}]}, "'text' of 'positive_passages' item 1 is a number"),
        ({"messages": [], "negative_messages": []}, "missing key 'positive_messages'"),
        ({"messages": [{"role": "user", "content": "q"}], "positive_messages": []}, "'positive_messages' is null or"),
        ({"messages": "q", "positive_messages": []}, "'messages' is not a list of messages"),
        ({"messages": [{"role": "user", "content": "q"}], "positive_messages": "p"}, "'positive_messages' is text"),
        ({"messages": [{"role": "user", "content": None}], "positive_messages": []}, "'content' in 'messages' is null"),
        ({"messages": [{"role": "user", "content": "q"}] * 2, "positive_messages": []}, "'messages' has 2 messages"),
        ({"set": ["a"]}, "'set' has 1 text; expected two"),
        ({"set": "a"}, "'set' is text"),
        (["a"], "list has 1 text;"),
        (["a", ["b"]], "item 2 is a list"),
        ("text", "line is text; expected a JSON list or object"),
        ({"question": "q", "answer": "a", "context": "c"}, "more than one pair of keys fits: question + answer or"),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, "come with key 'label', so not every row is a positive"),
    ],
)
def test_bad_row_says_why(row: Any, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        Reading().example(row, 1)
    assert reason in str(caught.value)


@pytest.mark.parametrize("names", [("question_text", "answer_text"), ("user_query", "Doc"), ("q", "a")])
def test_words_in_two_columns_decide_whichever_stands_first(names: tuple[str, str]) -> None:
    query, positive = names
    for order in (names, names[::-1]):
        shape = table_shape([name.lower() for name in order])
        assert shape.build({query.lower(): "q", positive.lower(): "p"}, 1) == RawExample(1, "q", (P("p"),))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (["id", "text"], "no known columns"),
        (["query", "extra"], "no known columns"),
        (["frage", "antwort"], "no known columns; found 'frage', 'antwort'"),
        (["name", "email"], "no known columns"),
        (["question", "question_id"], "no known columns"),
        (["question_answer", "answer"], "no known columns"),
        (["a", "a"], "column 'a' appears more than once"),
        (["a", "b", "c"], "no known columns; found 'a', 'b', 'c'"),
        (["how do magnets work in a motor", "they turn"], "the first line does not look like a header"),
    ],
)
def test_columns_are_not_guessed(columns: list[str], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        table_shape(columns)


def test_two_columns_that_are_not_text_are_not_sides() -> None:
    with pytest.raises(BadRow, match="no known columns"):
        table_shape(["user_question", "answer_text"], text_only=False)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=6))
def test_any_unicode_text_survives_json_lines(texts: list[str]) -> None:
    for line in (json.dumps(texts), json.dumps(texts, ensure_ascii=False)):
        example = jsonl.example(line.encode(), 1, Reading())
        assert [example.query, *(passage.text for passage in (*example.positives, *example.negatives))] == texts


def test_parquet_rows_with_nulls_and_extra_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    table = pa.table({"vector": [[0.5], [1.5], [2.5]], "Anchor": ["a", None, "c"], "positive": ["x", "y", "z"]})
    pq.write_table(table, path, row_group_size=1)
    first, second, third = read_file(path)
    assert first == RawExample(1, "a", (P("x"),))
    assert second == Reject(2, "'anchor' is null; expected text", '{"anchor": null, "positive": "y"}')
    assert third == RawExample(3, "c", (P("z"),))

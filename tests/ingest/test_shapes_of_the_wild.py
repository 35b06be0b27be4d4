"""Files as people have them: twenty layouts of columns in seven formats, with columns beside them that mean nothing.

Each is stored as its truth says, or refused with a reason; nothing is taken for what it is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.ingest.read import read_items
from mixture.ingest.reading import Reading
from mixture.ingest.units import read_unit
from mixture.rows import RawExample, Reject
from tests.ingest.reading import examples_of

DOCS = Path(__file__).parents[2] / "docs/ingest.md"
DECOYS = {"id": ["7", "8", "9"], "source": ["web", "mail", "web"], "created_at": ["2024-01-01", "2024-01-02", ""]}
Q, P, N = ["q one", "q two", "q three"], ["p one", "p two", "p three"], ["n one", "n two", "n three"]
Truth = list[tuple[str, list[str], list[str]]]
PAIRS: Truth = [(q, [p], []) for q, p in zip(Q, P, strict=True)]
TRIPLES: Truth = [(q, [p], [n]) for q, p, n in zip(Q, P, N, strict=True)]

# Columns, the user's word, and what must be stored: None for a refusal.
LAYOUTS: dict[str, tuple[Mapping[str, Sequence[Any]], str | None, Truth | None]] = {
    "question, answer": ({"question": Q, "answer": P}, None, PAIRS),
    "answer before question": ({"answer": P, "question": Q}, None, PAIRS),
    "anchor, positive, negative": ({"anchor": Q, "positive": P, "negative": N}, None, TRIPLES),
    "query, passage, hard_negative_1": ({"query": Q, "passage": P, "hard_negative_1": N}, None, TRIPLES),
    "question, answer, bad_answer": ({"question": Q, "answer": P, "bad_answer": N}, None, TRIPLES),
    "prompt, chosen, rejected": ({"prompt": Q, "chosen": P, "rejected": N}, None, TRIPLES),
    "instruction, output": ({"instruction": Q, "output": P}, None, PAIRS),
    "Query, Document": ({"Query": Q, "Document": P}, None, None),  # keys of JSON are told apart by case
    "title, body": ({"title": Q, "body": P}, None, PAIRS),
    "unknown names": ({"frage": Q, "antwort": P}, None, None),
    "unknown names, told": ({"frage": Q, "antwort": P}, "query=frage,positive=antwort", PAIRS),
    "unknown names and negatives, told": (
        {"gut": P, "frage": Q, "schlecht": N}, "query=frage,positive=gut,negative=schlecht", TRIPLES
    ),
    "a name that is not there": ({"frage": Q, "antwort": P}, "query=frage,positive=antwrt", None),
    "two pairs": ({"question": Q, "answer": P, "context": N}, None, None),
    "two pairs, told": ({"question": Q, "answer": P, "context": N}, "query=question,positive=context",
                        [(q, [n], []) for q, n in zip(Q, N, strict=True)]),
    "query, passage, label": (
        {"query": ["q", "q", "r"], "passage": P, "label": ["0", "1", "1"]}, None,
        [("q", ["p two"], ["p one"]), ("r", ["p three"], [])],
    ),
    "query, answer, is_answer in words": (
        {"query": ["q", "q", "q"], "answer": P, "is_answer": ["no", "Yes", "false"]}, None,
        [("q", ["p two"], ["p one", "p three"])],
    ),
    "query, document, a score with a fraction": ({"query": Q, "document": P, "score": ["0", "0.7", "1"]}, None, None),
    "sentence1, sentence2, label": ({"sentence1": Q, "sentence2": P, "label": ["0", "1", "1"]}, None, None),
    "sentence1, sentence2, label, told": (
        {"sentence1": ["q", "q", "r"], "sentence2": P, "label": ["0", "1", "1"]},
        "query=sentence1,positive=sentence2,label=label", [("q", ["p two"], ["p one"]), ("r", ["p three"], [])],
    ),
    "a triple with a label": (
        {"query": Q, "positive": P, "negative": N, "label": ["1", "0", "1"]}, None, None
    ),
    "the same language for all": ({"question": Q, "answer": P, "lang": ["de", "de", "de"]}, None, PAIRS),
}  # fmt: skip
FORMATS = ("csv", "tsv", "semicolons", "jsonl", "json", "parquet", "arrow", "xlsx")


def write(path: Path, columns: Mapping[str, Sequence[Any]], kind: str) -> Path:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if kind in ("csv", "tsv", "semicolons"):
        delimiter = {"csv": ",", "tsv": "\t", "semicolons": ";"}[kind]
        lines = [delimiter.join(columns), *(delimiter.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=2))
    elif kind == "parquet":
        pq.write_table(pa.table(dict(columns)), path)
    elif kind == "arrow":
        table = pa.table(dict(columns))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
        book = openpyxl.Workbook()
        for row in (list(columns), *(list(row.values()) for row in rows)):
            book.active.append(row)
        book.save(path)
    return path


@pytest.mark.parametrize("decoys", [False, True], ids=["alone", "decoys"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_stored_as_its_truth_says_or_refused(tmp_path: Path, layout: str, kind: str, decoys: bool) -> None:
    columns, told, truth = LAYOUTS[layout]
    if decoys:
        columns = {"id": DECOYS["id"], **columns, **{name: DECOYS[name] for name in ("source", "created_at")}}
    path = write(tmp_path / "file", columns, kind)
    rows = list(read_items(path, reading=Reading(told)))
    if truth is None and not (layout == "Query, Document" and kind not in ("json", "jsonl")):
        assert rows and all(isinstance(row, Reject) for row in rows)
        if layout != "a name that is not there":
            assert "`columns=" in rows[0].reason or "`min_label`" in rows[0].reason
        return
    assert examples_of(rows) == (PAIRS if truth is None else truth)


NAMES = st.sampled_from(
    ["query", "question", "anchor", "passage", "document", "answer", "positive", "text", "title", "context", "body",
     "sentence1", "sentence2", "response", "id", "source", "pos", "neg", "negative", "instruction", "output", "prompt"]
)  # fmt: skip
LABELS = st.sampled_from(
    ["label", "Label", "labels", "score", "relevance", "is_relevant", "isRelevant", "relevance_score", "gold_label",
     "is_duplicate", "similarity", "rating", "is_answer", "binary label", "rel_score", "grade", "target", "judgement"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(NAMES, min_size=2, max_size=5, unique=True), LABELS, st.sampled_from([0, "0", False, "false", "no", 0.0])
)
def test_a_label_of_0_never_makes_a_positive(names: list[str], label: str, zero: Any) -> None:
    for place in range(len(names) + 1):
        row: dict[str, Any] = {name: f"text of {name}" for name in (*names[:place], label, *names[place:])}
        row[label] = zero
        reading = Reading()
        for look in (
            lambda row=row, reading=reading: reading.example(row, 1),
            lambda row=row, reading=reading: reading.table([n.lower() for n in row]).build(
                {n.lower(): v for n, v in row.items()}, 1
            ),
        ):
            try:
                example = look()
            except Exception as refused:
                assert type(refused).__name__ in ("BadRow", "UnknownNames")
                continue
            assert example.label == 0  # `by_query` makes a negative of it


def test_the_table_of_shapes_in_the_docs_is_true() -> None:
    """Each line: names in backticks, and what they are taken for."""
    table = DOCS.read_text("utf-8").partition("<!-- shapes -->")[2].partition("<!-- end -->")[0]
    lines = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    assert len(lines) > 12
    for names, words in lines:
        reading = Reading()
        reading.shape(tuple(re.findall(r"`([^`]+)`", names)), "column")
        assert str(reading) == words.strip().replace("`", ""), names


def test_nested_json_by_paths(tmp_path: Path) -> None:
    row = {"data": {"ask": "q", "ctxs": [{"text": "p", "title": "T"}, {"text": "p2", "title": ""}], "v.1": "n"},
           "bad": [{"body": "n1"}, {"body": "n2"}], "meta": {"lang": "de"}}  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    said = "query=data.ask,positive=data.ctxs,negative=bad.body,negative=data.v.1,language=meta.lang"
    for name in ("rows.jsonl", "rows.parquet"):
        (found,) = read_items(tmp_path / name, reading=Reading(said))
        assert isinstance(found, RawExample)
        assert [(p.title, p.text) for p in found.positives] == [("T", "p"), ("", "p2")]
        assert [p.text for p in found.negatives] == ["n1", "n2", "n"]
        assert (found.query, found.language) == ("q", "de")
    (first,) = read_items(tmp_path / "rows.jsonl", reading=Reading("query=data.ask,positive=data.ctxs.1.text"))
    assert isinstance(first, RawExample) and first.positives[0].text == "p2"


def test_a_name_that_no_row_has_is_an_error_though_rows_may_lack_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "p": "b"}\n{"q": "c", "p": "d", "n": "e"}\n')
    rows = list(read_items(tmp_path / "rows.jsonl", reading=Reading("query=q,positive=p,negative=n")))
    assert examples_of(rows) == [("a", ["b"], []), ("c", ["d"], ["e"])]
    with pytest.raises(UsageError, match="`columns` or the datacard names 'm', which no row has; found 'q', 'p', 'n'"):
        list(read_items(tmp_path / "rows.jsonl", reading=Reading("query=q,positive=p,negative=m")))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("quary=a", "no role in `columns` 'quary'; did you mean 'query'"),
        ("query", "`columns` is 'query'; write `columns=query=NAME"),
        ("query=a,query=b", "`columns` gives query twice: 'a' and 'b'"),
        ("query=,positive=b", "gives no name for query"),
    ],
)
def test_a_mistake_in_columns_is_said(said: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Reading(said)


def test_a_name_with_a_comma_or_an_equals_sign() -> None:
    assert Reading("query=Question, in full,positive=a=b").columns == {
        "query": ("Question, in full",), "positive": ("a=b",),
    }  # fmt: skip


def test_the_lowest_label_of_a_positive(tmp_path: Path) -> None:
    path = write(tmp_path / "f", {"query": ["q"] * 3, "text": P, "score": ["-1.5", "0.2", "3"]}, "csv")
    (refused,) = read_items(path)
    assert isinstance(refused, Reject) and refused.rows == 3 and refused.line == 2
    (found,) = read_items(path, reading=Reading(min_label=0.2))
    assert isinstance(found, RawExample) and found.rows == 3
    assert [(p.text, p.score) for p in found.positives] == [("p two", 0.2), ("p three", 3.0)]
    assert [(p.text, p.score) for p in found.negatives] == [("p one", -1.5)]


def test_labelled_rows_of_a_query_need_not_be_neighbours_and_one_without_a_positive_is_refused(tmp_path: Path) -> None:
    columns = {"query": ["a", "b", "a ", "c"], "passage": [*P, "p four"], "relevance": [0, 2, 1, 0]}
    for kind in ("jsonl", "parquet"):
        rows = list(read_items(write(tmp_path / kind, columns, kind)))
        assert examples_of(rows) == [("a ", ["p three"], ["p one"]), ("b", ["p two"], [])]
        assert [p.score for row in rows if isinstance(row, RawExample) for p in row.positives] == [1.0, 2.0]
        assert [(row.line, row.rows) for row in rows if isinstance(row, Reject)] == [(4, 1)]


def test_dpr_alpaca_and_texts(tmp_path: Path) -> None:
    dpr = [{"dataset": "nq", "question": "q", "answers": ["x"],
            "positive_ctxs": [{"title": "T", "text": "p", "score": 1000, "passage_id": "1"}],
            "negative_ctxs": [{"title": "U", "text": "n2", "score": 0}],
            "hard_negative_ctxs": [{"title": "V", "text": "n1", "score": 9.5}]}]  # fmt: skip
    (tmp_path / "dpr.json").write_text(json.dumps(dpr, indent=4))
    (found,) = read_items(tmp_path / "dpr.json")
    assert isinstance(found, RawExample)
    assert [(p.title, p.text, p.score) for p in found.positives] == [("T", "p", None)]
    assert [(p.text, p.score) for p in found.negatives] == [("n1", 9.5), ("n2", 0.0)]
    (tmp_path / "alpaca.jsonl").write_text('{"instruction": "sum", "input": "1 2", "output": "3"}\n'
                                           '{"instruction": "hi", "input": "", "output": "ho"}\n')  # fmt: skip
    rows = list(read_items(tmp_path / "alpaca.jsonl"))
    assert examples_of(rows) == [("sum\n1 2", ["3"], []), ("hi", ["ho"], [])]
    (tmp_path / "texts.jsonl").write_text('{"texts": ["q", "p", "n"]}\n' * 40)
    assert examples_of(list(read_items(tmp_path / "texts.jsonl"))) == [("q", ["p"], ["n"])] * 40


def test_excel_numbers_are_text_and_two_sheets_are_not_guessed_at(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
    book = openpyxl.Workbook()
    for row in (["question", "answer", None], ["how many", 42, None], [None, None, None], ["and", 1.5, None]):
        book.active.append(row)
    book.create_sheet("empty")
    book.save(tmp_path / "book")
    rows = list(read_items(tmp_path / "book"))
    assert examples_of(rows) == [("how many", ["42"], []), ("and", ["1.5"], [])]
    book["empty"].append(["note"])
    book.save(tmp_path / "book")
    (refused,) = read_items(tmp_path / "book")
    assert isinstance(refused, Reject) and "several sheets with rows (Sheet, empty)" in refused.reason
    (tmp_path / "book").write_bytes((tmp_path / "book").read_bytes()[:-40])
    (refused,) = read_items(tmp_path / "book")
    assert isinstance(refused, Reject)


@pytest.mark.parametrize("kind", ["rows", "arrow", "pandas", "polars", "dataset", "dataset dict", "batch"])
def test_rows_in_memory(kind: str) -> None:
    from mixture.ingest.sources import discover

    rows = [{"question": q, "answer": p, "bad_answer": n} for q, p, n in zip(Q, P, N, strict=True)]
    source: Any = rows
    if kind in ("arrow", "batch"):
        source = pa.Table.from_pylist(rows)
        source = source.to_batches()[0] if kind == "batch" else source
    elif kind in ("pandas", "polars"):
        source = pytest.importorskip(kind).DataFrame(rows)
    elif kind.startswith("dataset"):
        datasets = pytest.importorskip("datasets")
        source = datasets.Dataset.from_list(rows).select([0, 1, 2])
        if kind == "dataset dict":
            source = datasets.DatasetDict({"test": source.select([0]), "train": source})
    (unit,) = discover([source], "mine")
    assert (unit.collection, unit.location) == ("mine", "memory:mine")
    assert examples_of(list(read_unit(unit))) == TRIPLES
    with pytest.raises(UsageError, match="rows in memory have no name; give the collection's in `name`"):
        discover([source], None)

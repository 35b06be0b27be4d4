"""One JSON array over the whole file: its elements come one by one, with the line where each starts."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.ingest.read import read_file
from mixture.rows import RawExample, RawPassage, Reject

ROWS: list[Any] = [
    {"query": 'a "quoted" \\ question, [with] {signs}', "pos": ["first", "second"]},
    {"query": "zweite", "pos": ["ü\n\u2028,]"], "neg": []},
    ["third", "positive", "negative"],
]


def read(path: Path, content: str | bytes) -> list[RawExample | Reject]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_file(path))


def texts(rows: list[RawExample | Reject]) -> list[tuple[str, list[str]]]:
    return [(row.query, [p.text for p in row.positives]) for row in rows if isinstance(row, RawExample)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (json.dumps(ROWS), [1, 1, 1]),
        (json.dumps(ROWS, ensure_ascii=False, indent=2), [2, 9, 16]),
        ("\ufeff \n" + json.dumps(ROWS, indent=0, separators=(",", ":")).replace("\n", "\r\n"), [3, 10, 17]),
        ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n\n", [2, 3, 4]),
        ("[" + "\n, ".join(map(json.dumps, ROWS)) + "]", [1, 2, 3]),
    ],
    ids=["one line", "pretty", "crlf and byte order mark", "a line each", "commas first"],
)
def test_layouts(tmp_path: Path, content: str, lines: list[int], packed: bool) -> None:
    data = content.encode()
    rows = read(tmp_path / "rows.csv", gzip.compress(data) if packed else data)
    assert [row.line for row in rows] == lines
    assert texts(rows) == [
        ('a "quoted" \\ question, [with] {signs}', ["first", "second"]),
        ("zweite", ["ü\n\u2028,]"]),
        ("third", ["positive"]),
    ]


values = st.text(max_size=20)


@given(rows=st.lists(st.tuples(values, values), min_size=1, max_size=5), indent=st.none() | st.integers(0, 3))
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "rows"
    assert texts(read(path, json.dumps(rows, indent=indent))) == [(q, [p]) for q, p in rows]


def test_an_element_that_is_no_row_costs_only_itself(tmp_path: Path) -> None:
    content = (
        b'[\n["a", "b"],\n{"query": "no positive", "neg": []},\n7,\n,\n["M\xfc", "b"],\n["a" "b"],\n["c", "d"],\n]\n'
    )
    rows = read(tmp_path / "rows", content)
    assert [row.line for row in rows if isinstance(row, RawExample)] == [2, 8]
    assert [(row.line, row.reason) for row in rows if isinstance(row, Reject)] == [
        (3, "missing key 'pos'"),
        (4, "element is a number; expected a JSON list or object"),
        (4, "element is empty: two commas in a row"),
        (6, "element is not valid UTF-8: byte 0xfc at offset 3"),
        (7, "element is not valid JSON: expecting ',' delimiter at column 6"),
    ]


@pytest.mark.parametrize(
    ("tail", "line", "reason"),
    [
        (',\n["q3", "p', 4, "the JSON array ends early"),
        (",\n", 4, "the JSON array ends early"),
        (',\n["q3, "p3"],\n["q4", "p4"]]', 4, "a string is not closed in its line"),
        (']\n["q3", "p3"]\n', 4, "there is text after the end of the JSON array"),
    ],
)
def test_rows_before_a_damage_are_kept(tmp_path: Path, tail: str, line: int, reason: str) -> None:
    rows = read(tmp_path / "rows", '[\n["q1", "p1"],\n["q2", "p2"]' + tail)
    assert texts(rows) == [("q1", ["p1"]), ("q2", ["p2"])]
    (reject,) = [row for row in rows if isinstance(row, Reject)]
    assert reject.line == line
    assert reject.reason.startswith(reason)


def test_cut_gzip(tmp_path: Path) -> None:
    data = json.dumps([[f"question {n}", f"answer {n * 7919}"] for n in range(20_000)], indent=1).encode()
    packed = gzip.compress(data)
    rows = read(tmp_path / "rows", packed[: len(packed) // 2])
    good = [row for row in rows if isinstance(row, RawExample)]
    assert len(good) > 5000
    assert [row.query for row in good] == [f"question {n}" for n in range(len(good))]
    assert rows[-1].line == 2 + 4 * len(good)
    assert isinstance(rows[-1], Reject)
    assert rows[-1].reason == "gzip stream ends early: the file is cut off in this element"


def test_an_array_without_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "rows", "[]\n") == [Reject(1, "the file has no rows")]


def test_two_megabytes_in_one_text(tmp_path: Path) -> None:
    long = 'wort "\\ ' * 300_000
    assert read(tmp_path / "rows", json.dumps([["q", long]])) == [RawExample(1, "q", (RawPassage(long),))]


def test_reading_streams(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("[" + ",".join(['["query", "' + "x" * 1000 + '"]'] * 20_000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in read_file(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak_bytes < 2_000_000  # of 20 MB

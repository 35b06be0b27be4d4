"""Text files of each format, plain and gzip: line numbers, line ends, quoting, size."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.ingest.lines import BLOCK_BYTES, byte_lines
from mixture.ingest.read import read_file
from mixture.rows import RawExample, RawPassage, Reject


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pair(line: int, query: str, positive: str) -> RawExample:
    return RawExample(line, query, (RawPassage(positive),))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        '["a", "b"]\n["c", "d"]\n',
        '["a", "b"]\r\n["c", "d"]',
        '\ufeff["a", "b"]\n["c", "d"]\n\n  \n',
    ],
    ids=["plain", "crlf-and-no-last-newline", "byte-order-mark-and-blank-end"],
)
def test_json_lines(tmp_path: Path, content: str, packed: bool) -> None:
    data = content.encode()
    path = written(tmp_path / "misleading.csv", gzip.compress(data) if packed else data)
    assert list(read_file(path)) == [pair(1, "a", "b"), pair(2, "c", "d")]


def test_blank_line_in_the_middle_is_a_reject(tmp_path: Path) -> None:
    path = written(tmp_path / "rows", '["a", "b"]\n\n \n["c", "d"]\n\n')
    assert list(read_file(path)) == [
        pair(1, "a", "b"), Reject(2, "line is empty"), Reject(3, "line is empty", " "), pair(4, "c", "d"),
    ]  # fmt: skip


@pytest.mark.parametrize("sign", [",", ";", "|"])
def test_delimiters_of_csv(tmp_path: Path, sign: str) -> None:
    content = f'\n Question {sign}answer\n"a{sign} b"{sign}c\nd{sign}"e\nf"\ng\n'
    path = written(tmp_path / "rows", content)
    short = Reject(6, "record has 1 field; the header has 2", "g")
    assert list(read_file(path)) == [pair(3, f"a{sign} b", "c"), pair(4, "d", "e\nf"), short]


@pytest.mark.parametrize("packed", [False, True])
def test_csv_with_line_breaks_quotes_and_separators(tmp_path: Path, packed: bool) -> None:
    content = '\ufeffQuestion , answer\r\n"a, or ""b""?","one\r\ntwo\n\nthree"\r\nplain,text\r\n\r\n'
    data = gzip.compress(content.encode()) if packed else content.encode()
    path = written(tmp_path / "rows.jsonl", data)
    # The record of line 2 ends in line 5.
    assert list(read_file(path)) == [pair(2, 'a, or "b"?', "one\ntwo\n\nthree"), pair(6, "plain", "text")]


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = written(tmp_path / "rows", 'query\tpassage\n"open\tquote, and comma\nsecond\t"row"\n')
    assert list(read_file(path)) == [pair(2, '"open', "quote, and comma"), pair(3, "second", '"row"')]


def test_csv_triple(tmp_path: Path) -> None:
    path = written(tmp_path / "rows", "anchor,positive,negative_1,negative_2\nq,p,n1,n2\n")
    negatives = (RawPassage("n1"), RawPassage("n2"))
    assert list(read_file(path)) == [RawExample(2, "q", (RawPassage("p"),), negatives)]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff"), max_size=30)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("question", "answer"), *rows])
    path = written(tmp_path_factory.mktemp("csv") / "rows", text.getvalue())
    read = read_file(path, format="csv")
    assert [(row.query, row.positives[0].text) for row in read if isinstance(row, RawExample)] == rows


def test_several_gzip_members_and_padding(tmp_path: Path) -> None:
    members = gzip.compress(b'["a", "b"]\n["c",') + gzip.compress(b' "d"]\n') + b"\0" * 100
    assert list(read_file(written(tmp_path / "rows", members))) == [pair(1, "a", "b"), pair(2, "c", "d")]


@given(st.lists(st.binary(max_size=8).filter(lambda line: b"\n" not in line and b"\r" not in line)), st.booleans())
def test_lines_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], packed: bool
) -> None:
    data = b"#" * (BLOCK_BYTES - 2) + b"\n" + b"".join(line + b"\n" for line in lines)
    path = written(tmp_path_factory.mktemp("lines") / "rows", gzip.compress(data, 1) if packed else data)
    assert [line for _, line in byte_lines(path)][1:] == lines
    assert [number for number, _ in byte_lines(path)] == list(range(1, len(lines) + 2))


@pytest.mark.parametrize("layout", ["jsonl", "csv", "tsv"])
def test_two_megabytes_in_one_field(tmp_path: Path, layout: str) -> None:
    long = "wort " * 400_000
    content = {
        "jsonl": json.dumps(["q", long]),
        "csv": f'query,passage\nq,"{long}"',
        "tsv": f"query\tpassage\nq\t{long}",
    }[layout]
    (row,) = read_file(written(tmp_path / "rows", content))
    assert isinstance(row, RawExample)
    assert row.positives[0].text == long


@pytest.mark.parametrize("packed", [False, True])
def test_reading_streams(tmp_path: Path, packed: bool) -> None:
    data = b'["query", "' + b"x" * 1000 + b'"]\n'
    path = written(tmp_path / "rows", gzip.compress(data * 20_000, 1) if packed else data * 20_000)
    tracemalloc.start()
    count = sum(1 for _ in read_file(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak_bytes < 2_000_000  # of 20 MB


def test_format_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path / "rows", "query,a\tpassage\nx,y\tz\n")
    assert list(read_file(path, format="csv")) != list(read_file(path, format="tsv"))
    with pytest.raises(UsageError, match=r"`format` is 'jsnl'; allowed: arrow, .*jsonl, "):
        read_file(path, format="jsnl")


def test_path_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*nowhere: No such file"):
        read_file(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is a folder"):
        read_file(tmp_path)

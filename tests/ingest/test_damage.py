"""Damaged files: each bad row is one reject with its line and reason, each good row comes through."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixture.ingest.read import read_file
from mixture.rows import RawExample, Reject


def read(path: Path, content: bytes) -> tuple[list[int], list[Reject]]:
    path.write_bytes(content)
    rows = list(read_file(path))
    return [row.line for row in rows if isinstance(row, RawExample)], [row for row in rows if isinstance(row, Reject)]


def lines(count: int) -> bytes:
    return b"".join(b'["question %d", "answer %d"]\n' % (number, number) for number in range(1, count + 1))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'["a", "b', "line is not valid JSON: unterminated string at column 7"),
        (b'["a" "b"]', "line is not valid JSON: expecting ',' delimiter at column 6"),
        (b'["a", "b"] x', "line is not valid JSON: extra data at column 12"),
        (b'["a", "m\xfcde"]', "line is not valid UTF-8: byte 0xfc at offset 8"),
        (b"[" * 100_000, "line is not usable JSON: nested too deeply"),
        (b'["a", ' + b"9" * 5000 + b"]", "line is not usable JSON: Exceeds the limit"),
    ],
)
def test_one_bad_json_line(tmp_path: Path, line: bytes, reason: str) -> None:
    good, rejects = read(tmp_path / "rows", lines(2) + line + b"\n" + lines(1))
    assert good == [1, 2, 4]
    (reject,) = rejects
    assert reject.line == 3
    assert reject.reason.startswith(reason)
    assert reject.raw == line.decode("utf-8", "replace")[:200]


def test_raw_is_the_first_200_characters(tmp_path: Path) -> None:
    _, (reject,) = read(tmp_path / "rows", lines(1) + ("{" + "界" * 500).encode())
    assert reject.raw == "{" + "界" * 199


@pytest.mark.parametrize("kept_share", [0.3, 0.6, 0.99])
def test_cut_gzip_gives_every_whole_line(tmp_path: Path, kept_share: float) -> None:
    content = lines(20_000)
    packed = gzip.compress(content)
    cut = packed[: int(len(packed) * kept_share)]
    whole = zlib.decompressobj(31).decompress(cut).count(b"\n")
    good, rejects = read(tmp_path / "rows", cut)
    assert whole > 1000
    assert good == list(range(1, whole + 1))
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (whole + 1, "gzip stream ends early: the file is cut off in this line")
    ]


def test_cut_between_lines_and_cut_in_the_trailer(tmp_path: Path) -> None:
    good, rejects = read(tmp_path / "rows", gzip.compress(lines(50))[:-4])
    assert good == list(range(1, 51))
    assert [reject.line for reject in rejects] == [51]


def test_empty_lines_before_a_cut_are_kept(tmp_path: Path) -> None:
    good, rejects = read(tmp_path / "rows", gzip.compress(lines(1) + b"\n\n")[:-4])
    assert good == [1]
    assert [reject.reason for reject in rejects[:2]] == ["line is empty"] * 2
    assert [reject.line for reject in rejects] == [2, 3, 4]


def test_gzip_with_wrong_bytes(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(lines(20_000)))
    packed[-8] ^= 0xFF  # the checksum
    good, rejects = read(tmp_path / "rows", bytes(packed))
    assert len(good) >= 15_000
    assert good == list(range(1, len(good) + 1))
    (reject,) = rejects
    assert reject.line == len(good) + 1
    assert reject.reason.startswith("gzip data is damaged here (incorrect data check)")


def test_cut_csv_record_is_not_taken_for_a_row(tmp_path: Path) -> None:
    content = b'question,answer\nq1,a1\nq2,"an answer\nthat goes, on, and on'
    good, rejects = read(tmp_path / "rows", gzip.compress(content))
    assert good == [2]
    reason = "a quote opened in this record is never closed; lines 3 to 4 were skipped"
    assert [(reject.line, reject.reason) for reject in rejects] == [(3, reason)]


def test_stray_quote_costs_one_csv_row(tmp_path: Path) -> None:
    rows = [b"question %d,answer %d" % (number, number) for number in range(2, 30)]
    rows[3] = b'"question 5,answer 5'
    good, rejects = read(tmp_path / "rows", b"\n".join([b"question,answer", *rows]))
    assert good == [line for line in range(2, 30) if line != 5]
    reason = "a quote opened in this record is never closed"
    assert [(reject.line, reject.reason, reject.raw) for reject in rejects] == [(5, reason, rows[3].decode())]


def test_ragged_csv(tmp_path: Path) -> None:
    content = b'question,answer\none field\nq,a\n"q","a\nb",c,d\n\nq,a\nq,"a\xff\nb"\nq,"a"b\nq,a\n\n\n'
    good, rejects = read(tmp_path / "rows", content)
    assert good == [3, 7, 11]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (2, "record has 1 field; the header has 2"),
        (4, "record has 4 fields; the header has 2"),
        (6, "line is empty"),
        (8, "line is not valid UTF-8: byte 0xff at offset 4"),
        (10, "record is not valid CSV: ',' expected after '\"'"),
    ]


def test_ragged_tsv(tmp_path: Path) -> None:
    good, rejects = read(tmp_path / "rows", b"question\tanswer\nq\ta\tb\nq\t\xe4\n\nq\ta\r\n")
    assert good == [5]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (2, "record has 3 fields; the header has 2"),
        (3, "line is not valid UTF-8: byte 0xe4 at offset 2"),
        (4, "line is empty"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b,c\n1,2,3\n1,2,3\n", "no known columns; found 'a', 'b', 'c'; say which is which"),
        (b"how do magnets work in a motor\tthey turn\n" * 3, "the first line does not look like a header"),
        (b"question,answer\n", "the file has no rows"),
        (b"fr\xe4ge,answer\nq,a\n", "header cannot be read: line is not valid UTF-8"),
    ],
)
def test_table_without_usable_header_is_one_reject(tmp_path: Path, content: bytes, reason: str) -> None:
    good, (reject,) = read(tmp_path / "rows", content)
    assert good == []
    assert reject.line == 1
    assert reject.reason.startswith(reason)


def parquet(path: Path, columns: dict[str, Sequence[object]]) -> bytes:
    pq.write_table(pa.table(columns), path, compression="none", row_group_size=1000, write_statistics=False)
    return path.read_bytes()


def test_parquet_with_other_columns_is_one_reject(tmp_path: Path) -> None:
    content = parquet(tmp_path / "rows", {"text": ["a"] * 50, "n_words": [1] * 50})
    good, (reject,) = read(tmp_path / "rows", content)
    assert good == []
    assert (reject.line, reject.raw) == (1, "text, n_words")
    assert "found 'text', 'n_words'; say which is which" in reject.reason


def test_parquet_with_a_column_twice_is_one_reject(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["anchor", "positive", "anchor"]), path)
    assert list(read_file(path)) == [Reject(1, "column 'anchor' appears more than once", "anchor, positive, anchor")]


def test_cut_parquet_is_one_reject(tmp_path: Path) -> None:
    content = parquet(tmp_path / "rows", {"anchor": ["a"], "positive": ["b"]})
    good, (reject,) = read(tmp_path / "rows", content[:-10])
    assert good == []
    assert reject.reason.startswith("Parquet file is damaged")


def test_damaged_parquet_group_costs_no_row_of_the_others(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(3000)]
    content = bytearray(parquet(tmp_path / "rows", {"anchor": texts, "positive": texts}))
    start = content.rindex(b"text number 1000")
    content[start - 60 : start + 2000] = b"\xff" * 2060
    good, (reject,) = read(tmp_path / "rows", bytes(content))
    assert good == [*range(1, 1001), *range(2001, 3001)]
    assert reject.line == 1001
    assert reject.reason.startswith("Parquet data is damaged, rows 1001 to 2000 cannot be read: ")


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    content = parquet(tmp_path / "rows", {"anchor": ["first", "M_ller", "third"], "positive": ["a", "b", "c"]})
    good, rejects = read(tmp_path / "rows", content.replace(b"M_ller", b"M\xfcller"))
    assert good == [1, 3]
    assert [(reject.line, reject.reason) for reject in rejects] == [(2, "row is not valid UTF-8")]


def test_parquet_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    pq.write_table(pa.schema([("anchor", pa.string()), ("positive", pa.string())]).empty_table(), path)
    assert list(read_file(path)) == [Reject(1, "the file has no rows")]

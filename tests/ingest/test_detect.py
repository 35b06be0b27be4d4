"""The format comes from the content, whatever the name; what is unknown is said by name."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixture.errors import UsageError
from mixture.ingest.detect import detect
from mixture.ingest.read import read_file
from mixture.rows import Reject


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"anchor": ["a"], "positive": ["b"]}), sink)
    return sink.getvalue()


KNOWN = {
    "list": (b'["a", "b"]\n', "jsonl"),
    "object, blank lines first": (b'\n\n {"query": "a", "pos": ["b"]}\n', "jsonl"),
    "object, byte order mark": (b'\xef\xbb\xbf{"query": "a", "pos": ["b"]}\n', "jsonl"),
    "json with tabs": (b'{"query":\t"a",\t"pos": ["b"]}\n', "jsonl"),
    "first line damaged": (b'uery": "a", "pos": ["b"]}\n{"query": "a", "pos": ["b"]}\n', "jsonl"),
    "latin-1 json": (b'["M\xfcller", "b"]\n', "jsonl"),
    "array of objects": (b'[{"query": "a", "pos": ["b"]}]', "json"),
    "array of lists, spaces": (b'\xef\xbb\xbf [ ["a", "b"] ]', "json"),
    "pretty array": (b'[\n  {\n    "query": "a"', "json"),
    "empty array": (b"[]", "json"),
    "semicolons": (b"question;answer\na, b;c\n", "csv"),
    "unknown semicolons": (b"frage;antwort\na;b\n", "csv"),
    "bars": (b'"question"|"answer"\na|b\n', "csv"),
    "csv": (b"question,answer\na,b\n", "csv"),
    "csv, quoted header": (b'"question","answer"\r\n"a","b"\r\n', "csv"),
    "csv whose answers are JSON": (b'question,answer\n{"a,b\n', "csv"),
    "tsv": (b"question\texplanation\na, and b\tc\n", "tsv"),
    "csv header with a tab in it": (b"question,answer\t\na,b\n", "csv"),
    "csv with a stray NUL": (b"question,answer\n" + b"many words, " * 50 + b"\0\n", "csv"),
    "two unknown columns": (b"frage\tantwort\na\tb\n", "tsv"),
    "unknown columns, commas and a tab": (b"frage, kurz\tantwort\na\tb\n", "tsv"),
    "unknown columns": (b"a,b,c\n1,2,3\n", "csv"),
}


@pytest.mark.parametrize(("content", "expected"), KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("packed", [False, True])
def test_known_content(tmp_path: Path, content: bytes, expected: str, packed: bool) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert detect(path) == expected


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(parquet_bytes())
    assert detect(path) == "parquet"


def test_head_of_a_cut_gzip_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(b'["a", "b"]\n' * 5000)[:-20])
    assert detect(path) == "jsonl"


UNKNOWN = {
    "nothing": (b"", "the file is empty"),
    "packed nothing": (gzip.compress(b""), "the gzip file holds no data"),
    "blank": (b"\n \n", "the file has only blank lines"),
    "prose": (b"Call me Ishmael.\nSome years ago", "neither JSON nor columns: the first line is 'Call me Ishmael.'"),
    "pretty json": (b'{\n  "query": "a"\n', "one JSON object over many lines; write one JSON value a line, or one arr"),
    "zip": (b"PK\x03\x04....", "a zip archive"),
    "not really zstd": (b"\x28\xb5\x2f\xfd....", "zstandard data is damaged"),
    "zstd header only": (b"\x28\xb5\x2f\xfd", "zstandard stream ends early"),
    "zstd of nothing": (zstandard.ZstdCompressor().compress(b""), "the zstandard file holds no data"),
    "utf-16": ('["a", "b"]'.encode("utf-16"), "UTF-16 text"),
    "binary": (b"ab\0\0cd", "binary data"),
    "packed parquet": (gzip.compress(parquet_bytes()), "gzip around Parquet"),
    "parquet in zstd": (zstandard.ZstdCompressor().compress(parquet_bytes()), "zstandard around Parquet"),
    "gzip header only": (b"\x1f\x8b\x08\x00", "gzip stream ends early"),
    "not really gzip": (b"\x1f\x8bgarbage", "gzip data is damaged"),
}


@pytest.mark.parametrize(("content", "seen"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_content_is_an_error_here_and_one_reject_when_read(tmp_path: Path, content: bytes, seen: str) -> None:
    path = tmp_path / "thing.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        detect(path)
    message = str(caught.value)
    assert str(path) in message
    assert seen in message
    assert "formats: arrow, csv, excel, json, jsonl, parquet, triples, tsv" in message
    (row,) = read_file(path)
    assert isinstance(row, Reject)
    assert row.line == 1
    assert seen in row.reason


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        detect(tmp_path / "nowhere")

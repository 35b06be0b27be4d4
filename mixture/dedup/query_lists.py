"""Lists of test queries as people have them: JSON Lines, text, TSV, a folder in BEIR layout."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from mixture.errors import UsageError

TEST_QUERIES = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("simhash", pa.uint64()),
    ]
)
SUFFIXES = (".jsonl", ".txt", ".tsv")

Row = tuple[str, str, str]


def _kind(path: Path) -> tuple[str, str]:
    """The file's suffix without .gz, and its name without suffixes (the suite of a file that names none)."""
    name = path.name.removesuffix(".gz")
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix, name.removesuffix(suffix)
    raise UsageError(
        f"{path}: not a list of test queries; expected {', '.join(SUFFIXES)} (or one of them with .gz), "
        "or a folder with queries.jsonl"
    )


def _unpacked(file: IO[bytes], path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.name.endswith(".gz") else file


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines that are not empty. What cannot be read is a UsageError with file and line."""
    number = 0
    try:
        with path.open("rb") as raw_file, _unpacked(raw_file, path) as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}, after line {number}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def _field(row: dict[str, Any], names: tuple[str, ...], default: str | None, place: str) -> str:
    """The first of the named fields as text (numbers allowed for ids)."""
    for name in names:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and "query" not in names:
            return str(value)
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{place}: {name!r} is {type(value).__name__}, expected text")
        if value and value.strip():
            return str(value)
    if default is not None:
        return default
    raise UsageError(f"{place}: no {' or '.join(map(repr, names))}, or it is empty")


def _json_rows(path: Path, suite: str) -> Iterator[Row]:
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(row, dict):
            raise UsageError(f"{place}: {type(row).__name__}, expected an object with suite, query_id and query")
        identifier = _field(row, ("query_id", "_id"), None, place)
        yield _field(row, ("suite",), suite, place), identifier, _field(row, ("query", "text"), None, place)


def _text_rows(path: Path, suite: str, *, tabs: bool) -> Iterator[Row]:
    """Plain text: a query a line, numbered by line. TSV: id, tab, query (further tabs belong to the query).

    A TSV whose first line has no tab has no ids and is read as plain text.
    """
    first = True
    for number, line in _lines(path):
        tabs, first = tabs and not (first and "\t" not in line), False
        identifier, query = str(number), line.strip()
        if tabs:
            identifier, _, query = (side.strip() for side in line.partition("\t"))
            if not identifier or not query:
                raise UsageError(f"{path}, line {number}: expected 'id<TAB>query' with both sides filled, got {line!r}")
        yield suite, identifier, query


def read_test_queries(path: str | Path) -> pa.Table:
    """A list of test queries as a table (suite, query_id, query, simhash); simhash is null here.

    path: JSON Lines with query_id (or _id), query (or text) and, if it has several suites, suite; a TSV of
    id<TAB>query (or of queries alone); plain text with a query a line (the line number is its id); each also with .gz;
    or a folder in BEIR layout, of which queries.jsonl is read. Where lines name no suite it is the file's name without
    suffix, or the folder's name. Empty lines are passed over; a line that cannot be read or a list without queries is
    a UsageError that names file and line.
    """
    path = Path(path)
    if path.is_dir():
        suite, path = path.resolve().name, path / "queries.jsonl"
        kind = ".jsonl"
        if not path.is_file():
            raise UsageError(f"{path.parent}: no queries.jsonl in this folder; expected BEIR layout or a file")
    else:
        if not path.is_file():
            raise UsageError(f"{path}: no such file or folder")
        kind, suite = _kind(path)
    rows = list(_json_rows(path, suite) if kind == ".jsonl" else _text_rows(path, suite, tabs=kind == ".tsv"))
    if not rows:
        raise UsageError(f"{path}: no queries in it")
    columns = list(zip(*rows, strict=True))
    return pa.table([*map(list, columns), [None] * len(rows)], schema=TEST_QUERIES)

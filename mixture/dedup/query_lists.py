"""Test queries and test passages as people have them: JSON Lines, text, TSV, suites in BEIR layout."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
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
TEST_PASSAGES = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
SUFFIXES = (".jsonl", ".txt", ".tsv")
SPLITS = ("test", "dev")
"""The judgements that an evaluation uses: the first of these that a suite has."""

Row = tuple[str, str, str]
Names = tuple[tuple[str, ...], tuple[str, ...]]
_QUERY: Names = (("query_id", "_id"), ("query", "text"))
_PASSAGE: Names = (("doc_id", "_id"), ("text", "title"))  # some suites have documents that are a title alone


def _kind(path: Path) -> tuple[str, str]:
    """The file's suffix without .gz, and its name without suffixes (the suite of a file that names none)."""
    name = path.name.removesuffix(".gz")
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix, name.removesuffix(suffix)
    raise UsageError(
        f"{path}: not a list of test queries or passages; expected {', '.join(SUFFIXES)} (or one of them with .gz), "
        "or a folder in BEIR layout"
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


def _field(row: dict[str, Any], names: tuple[str, ...], default: str | None, place: str, *, numbers: bool) -> str:
    """The first of the named fields that is not blank, as text; whole numbers are allowed for ids."""
    for name in names:
        value = row.get(name)
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{place}: {name!r} is {type(value).__name__}, expected text")
        if value and value.strip():
            return str(value)
    if default is not None:
        return default
    raise UsageError(f"{place}: no {' or '.join(map(repr, names))}, or it is empty")


def _json_rows(path: Path, suite: str, names: Names, *, blank: str | None = None) -> Iterator[Row]:
    """blank: stands for a text that is missing or empty; None: that is an error."""
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(row, dict):
            raise UsageError(f"{place}: {type(row).__name__}, expected an object with {names[0][0]} and {names[1][0]}")
        yield (
            _field(row, ("suite",), suite, place, numbers=False),
            _field(row, names[0], None, place, numbers=True),
            _field(row, names[1], blank, place, numbers=False),
        )


def _text_rows(path: Path, suite: str, *, tabs: bool) -> Iterator[Row]:
    """Plain text: a text a line, numbered by line. TSV: id, tab, text (further tabs belong to the text).

    A TSV whose first line has no tab has no ids and is read as plain text.
    """
    first = True
    for number, line in _lines(path):
        tabs, first = tabs and not (first and "\t" not in line), False
        identifier, text = str(number), line.strip()
        if tabs:
            identifier, _, text = (side.strip() for side in line.partition("\t"))
            if not identifier or not text:
                raise UsageError(f"{path}, line {number}: expected 'id<TAB>text' with both sides filled, got {line!r}")
        yield suite, identifier, text


def _packed(folder: Path, name: str) -> Path | None:
    """The file of that name in the folder, plain or with .gz."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _suites(folder: Path, name: str) -> list[tuple[str, Path]]:
    """(suite, folder) of a folder that holds `name`, else of its folders that do."""
    if _packed(folder, name):
        return [(folder.resolve().name, folder)]
    suites = [(inner.name, inner) for inner in sorted(folder.iterdir()) if inner.is_dir() and _packed(inner, name)]
    if not suites:
        raise UsageError(f"{folder}: no {name} in this folder or in one of its folders; expected BEIR layout or a file")
    return suites


def _judgements(suite: Path) -> tuple[Path | None, list[Path]]:
    """The qrels file that an evaluation uses (None: there is none), and those of the other splits."""
    splits = {path.name.removesuffix(".gz").removesuffix(".tsv"): path for path in (suite / "qrels").glob("*.tsv*")}
    single = _packed(suite, "qrels.tsv")
    if single:
        splits.setdefault("test", single)
    name = next((name for name in SPLITS if name in splits), next(iter(splits)) if len(splits) == 1 else None)
    if splits and name is None:
        raise UsageError(
            f"{suite / 'qrels'}: there are {', '.join(sorted(splits))}; expected {' or '.join(SPLITS)}.tsv"
        )
    return (splits.pop(name) if name else None), list(splits.values())


def _judged(path: Path) -> Iterator[tuple[str, str, float]]:
    """Query, document and grade of each line of a qrels file."""
    for number, line in _lines(path):
        fields = line.split("\t")
        try:
            query, document, grade = fields[0].strip(), fields[1].strip(), float(fields[2])
        except (IndexError, ValueError):
            if number == 1:  # names of the columns
                continue
            raise UsageError(f"{path}, line {number}: expected 'query<TAB>document<TAB>grade', got {line!r}") from None
        yield query, document, grade


def _suite_queries(name: str, folder: Path) -> Iterator[Row]:
    """The queries of a suite, without those that only other splits (train) judge."""
    used, others = _judgements(folder)
    foreign = {query for path in others for query, _, _ in _judged(path)}
    if foreign and used:
        foreign -= {query for query, _, _ in _judged(used)}
    path = cast(Path, _packed(folder, "queries.jsonl"))
    return (row for row in _json_rows(path, name, _QUERY) if row[1] not in foreign)


def _suite_passages(name: str, folder: Path, *, judged_only: bool) -> Iterator[Row]:
    path = cast(Path, _packed(folder, "corpus.jsonl"))
    rows = (row for row in _json_rows(path, name, _PASSAGE, blank="") if row[2])
    if not judged_only:
        return rows
    used = _judgements(folder)[0]
    if used is None:
        raise UsageError(f"{folder}: no qrels/test.tsv, which says what is relevant; add it, or ask for all documents")
    relevant = {document for _, document, grade in _judged(used) if grade > 0}
    return (row for row in rows if row[1] in relevant)


def _table(
    path: Path, names: Names, suite_file: str, of_suite: Callable[[str, Path], Iterator[Row]]
) -> list[list[str]]:
    """The columns suite, id and text of a file or a folder, at least one row."""
    if path.is_dir():
        rows = [row for name, folder in _suites(path, suite_file) for row in of_suite(name, folder)]
    elif path.is_file():
        kind, suite = _kind(path)
        rows = list(
            _json_rows(path, suite, names) if kind == ".jsonl" else _text_rows(path, suite, tabs=kind == ".tsv")
        )
    else:
        raise UsageError(f"{path}: no such file or folder")
    if not rows:
        raise UsageError(f"{path}: no {'queries' if names is _QUERY else 'passages'} in it")
    return [list(column) for column in zip(*rows, strict=True)]


def read_test_queries(path: str | Path) -> pa.Table:
    """A list of test queries as a table (suite, query_id, query, simhash); simhash is null here.

    path: JSON Lines with query_id (or _id), query (or text) and, if it has several suites, suite; a TSV of
    id<TAB>query (or of queries alone); plain text with a query a line (the line number is its id); a suite in BEIR
    layout, of which queries.jsonl is read; or a folder of such suites; each file also with .gz. Of a suite the queries
    that only other splits judge (qrels/train.tsv) are left out: they are there to be trained on. Where lines name no
    suite it is the file's name without suffix, or the folder's name. Empty lines are passed over; a line that cannot be
    read or a list without queries is a UsageError that names file and line.
    """
    columns = _table(Path(path), _QUERY, "queries.jsonl", _suite_queries)
    return pa.table([*columns, [None] * len(columns[0])], schema=TEST_QUERIES)


def read_test_passages(path: str | Path, *, judged_only: bool = True) -> pa.Table:
    """The passages of a suite in BEIR layout, or of a folder of suites, as a table (suite, doc_id, text).

    judged_only: only the documents that the judgements used (qrels/test.tsv, else dev.tsv) call relevant, with a grade
    above 0; those that the corpus lacks do not count. path may also be a file of passages, all of which are taken: JSON
    Lines with doc_id (or _id), text and, if it has several suites, suite; a TSV of id<TAB>text; plain text with a
    passage a line. A document without text is its title, one without either is left out. Errors as above.
    """
    columns = _table(Path(path), _PASSAGE, "corpus.jsonl", partial(_suite_passages, judged_only=judged_only))
    return pa.table(columns, schema=TEST_PASSAGES)

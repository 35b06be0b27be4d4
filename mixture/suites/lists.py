"""Test queries and test passages as people have them: JSON Lines, text and TSV, or the folders of suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture.errors import UsageError
from mixture.suites.given import Given, is_named, suites_of
from mixture.suites.layout import PACKED, identifier
from mixture.suites.suite import Suite, json_rows, lines

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
Row = tuple[str, str, str]
Fields = tuple[tuple[str, ...], tuple[str, ...]]
_QUERY: Fields = (("query_id", "_id"), ("query", "text"))
_PASSAGE: Fields = (("doc_id", "_id"), ("text", "title"))  # some suites have documents that are a title alone


def _kind(path: Path) -> tuple[str, str]:
    """The file's suffix without .gz or .zst, and its name without suffixes (the suite of a file that names none)."""
    for suffix in SUFFIXES:
        for ending in (suffix + packed for packed in PACKED):
            if path.name.endswith(ending):
                return suffix, path.name.removesuffix(ending)
    raise UsageError(
        f"{path}: not a list of test queries or passages; expected {', '.join(SUFFIXES)} "
        "(or one of them with .gz or .zst), or a folder in BEIR layout"
    )


def _field(row: dict[str, Any], names: tuple[str, ...], default: str | None, place: str, *, numbers: bool) -> str:
    """The first of the named fields that is not blank, as text; whole numbers are allowed for ids."""
    for name in names:
        value = row.get(name)
        if numbers:
            value = identifier(value) or value
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{place}: {name!r} is {type(value).__name__}, expected text")
        if value and value.strip():
            return value
    if default is not None:
        return default
    raise UsageError(f"{place}: no {' or '.join(map(repr, names))}, or it is empty")


def _json_rows(path: Path, suite: str, names: Fields) -> Iterator[Row]:
    for number, row in json_rows(path):
        place = f"{path}, line {number}"
        yield (
            _field(row, ("suite",), suite, place, numbers=False),
            _field(row, names[0], None, place, numbers=True),
            _field(row, names[1], None, place, numbers=False),
        )


def _text_rows(path: Path, suite: str, *, tabs: bool) -> Iterator[Row]:
    """Plain text: a text a line, numbered by line. TSV: id, tab, text (further tabs belong to the text).

    A TSV whose first line has no tab has no ids and is read as plain text.
    """
    first = True
    for number, line in lines(path):
        tabs, first = tabs and not (first and "\t" not in line), False
        key, text = str(number), line.strip()
        if tabs:
            key, _, text = (side.strip() for side in line.partition("\t"))
            if not key or not text:
                raise UsageError(f"{path}, line {number}: expected 'id<TAB>text' with both sides filled, got {line!r}")
        yield suite, key, text


def _table(path: Path, names: Fields, of_suite: Callable[[Given], Iterator[tuple[str, str]]]) -> list[list[str]]:
    """The columns suite, id and text of a file, a folder or a named suite, at least one row."""
    if path.is_dir() or (not path.exists() and is_named(str(path))):
        rows = [(given.name, *row) for given in suites_of(path) for row in of_suite(given)]
    elif path.is_file():
        kind, suite = _kind(path)
        rows = list(
            _json_rows(path, suite, names) if kind == ".jsonl" else _text_rows(path, suite, tabs=kind == ".tsv")
        )
    else:
        raise UsageError(f"{path}: no such file or folder")
    if not rows and path.exists():
        raise UsageError(f"{path}: no {'queries' if names is _QUERY else 'passages'} in it")
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], []]


def read_test_queries(path: str | Path) -> pa.Table:
    """A list of test queries as a table (suite, query_id, query, simhash); simhash is null here.

    path: JSON Lines with query_id (or _id), query (or text) and, if it has several suites, suite; a TSV of
    id<TAB>query (or of queries alone); plain text with a query a line (the line number is its id); a folder of
    suites in BEIR layout or the name of some (`suites_of`), whose queries are read; each file also with .gz or .zst.
    Where lines name no suite it is the file's name without suffix; a suite's name is its folder's. Empty lines
    are passed over; a line that cannot be read or a list without queries is a UsageError that names file and line.
    """
    columns = _table(Path(path), _QUERY, lambda suite: suite.queries())
    return pa.table([*columns, [None] * len(columns[0])], schema=TEST_QUERIES)


def read_test_passages(path: str | Path, *, judged_only: bool = True) -> pa.Table:
    """The passages of suites in BEIR layout, or of named ones (`suites_of`), as a table (suite, doc_id, text).

    judged_only: only the documents that the judgements to test on call relevant, with a grade above 0; those that the
    corpus lacks do not count (`suite_passages`). path may also be a file of passages, all of which are taken: JSON
    Lines with doc_id (or _id), text and, if it has several suites, suite; a TSV of id<TAB>text; plain text with a
    passage a line. A document without text is its title, one without either is left out. A named suite that is judged
    by answers has none. Errors as above.
    """
    columns = _table(Path(path), _PASSAGE, lambda suite: suite.passages(judged_only=judged_only))
    return pa.table(columns, schema=TEST_PASSAGES)


def tables_of(suites: Sequence[Suite]) -> tuple[pa.Table, pa.Table]:
    """The queries (suite, query_id, query) and the relevant documents (suite, doc_id, text) of suites that are read, by
    their titles."""
    queries = [(one.title, *row) for one in suites for row in zip(one.query_ids, one.queries, strict=True)]
    passages = [(one.title, *row) for one in suites for row in one.relevant]
    columns = ([list(column) for column in zip(*rows, strict=True)] or [[], [], []] for rows in (queries, passages))
    schemas = pa.schema(list(TEST_QUERIES)[:3]), TEST_PASSAGES
    own, documents = (pa.table(part, schema=schema) for part, schema in zip(columns, schemas, strict=True))
    return own, documents


def check_suite_names(lists: Mapping[Path, pa.Table]) -> None:
    """Raise UsageError where two files, folders or names claim one suite: the second would replace what the first
    registered.

    lists: the paths with the test queries that were read from them
    """
    files = [path for path in lists if path.is_file()]
    others = [path for path in lists if path not in files]
    claimed = {suite.name: Path(suite.key) for suite in suites_of(others)} if others else {}
    for file in files:
        for suite in lists[file]["suite"].unique().to_pylist():
            known = claimed.setdefault(suite, file)
            if known.resolve() != file.resolve():
                raise UsageError(f"two lists claim the suite {suite!r}: {known} and {file}; give one at a time")

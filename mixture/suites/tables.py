"""Documents, queries and judgements as benchmarks publish them: JSON Lines or Parquet, under several names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import UsageError
from mixture.suites.documents import Columns, Documents
from mixture.suites.layout import identifier
from mixture.suites.suite import grades_of, json_rows
from mixture.text.strings import Strings

Names = tuple[str, ...]
ID: Names = ("_id", "id", "docid")
TITLE: Names = ("title",)
TEXT: Names = ("text", "content", "query")
_QUERY, _DOCUMENT, _GRADE = "query-id", "corpus-id", "score"


@lru_cache(maxsize=1)  # the parts of some benchmarks share one corpus
def documents(files: tuple[Path, ...]) -> tuple[Strings, Documents]:
    """Ids and documents of the files, one after the other. What is missing is empty."""
    ids, titles, texts = columns(files, (ID, TITLE, TEXT))
    return ids, Documents(titles, texts)


def queries(files: Sequence[Path]) -> dict[str, str]:
    """The text of each query by its id, in the order of the files."""
    ids, texts = columns(files, (ID, TEXT))
    return dict(zip(ids, texts, strict=True))


def columns(files: Sequence[Path], wanted: Sequence[Names]) -> list[Strings]:
    """Columns of text, each under the first of its names that a file has; a value that is not there is empty."""
    found = Columns(len(wanted))
    for file in files:
        if file.suffix == ".parquet":
            for batch in _batches(file, wanted):
                found.extend(*(_first(batch, names) for names in wanted))
        else:
            for line, row in json_rows(file):
                found.append(*(_value(row, names, file, line) for names in wanted))
    return found.strings


def judgements(files: Sequence[Path]) -> dict[str, dict[str, int]]:
    """query id -> document id -> grade, of TSV as BEIR writes it, JSON Lines or Parquet; without grades each is 1."""
    qrels: dict[str, dict[str, int]] = {}
    for file in files:
        if ".tsv" in file.suffixes:
            qrels |= grades_of(file)
            continue
        for place, row in _rows(file):
            query, document = identifier(row.get(_QUERY)), identifier(row.get(_DOCUMENT))
            grade = row.get(_GRADE, 1)
            if query is None or document is None or not isinstance(grade, int | float) or int(grade) != grade:
                raise UsageError(f"{file}, row {place}: expected {_QUERY}, {_DOCUMENT} and a whole {_GRADE}")
            qrels.setdefault(query, {})[document] = int(grade)
    return qrels


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if file.suffix != ".parquet":
        yield from json_rows(file)
        return
    place = 0
    for batch in parquet_batches(file):
        for row in batch.to_pylist():
            place += 1
            yield place, row


def parquet_batches(file: Path, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, some at a time. A damaged file is a `UsageError`."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            yield from opened.iter_batches(columns=None if names is None else list(names))
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{file}: cannot be read: {str(error).splitlines()[0]}; fetch it again") from error


def _batches(file: Path, wanted: Sequence[Names]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    try:
        there = set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{file}: cannot be read: {str(error).splitlines()[0]}; fetch it again") from error
    if not there & set(wanted[0]) or not there & set(wanted[-1]):
        raise UsageError(f"{file} has the columns {', '.join(sorted(there))}; expected {wanted[0]} and {wanted[-1]}")
    yield from parquet_batches(file, [name for names in wanted for name in names if name in there])


def _first(batch: pa.RecordBatch, names: Names) -> pa.Array:
    name = next((name for name in names if name in batch.schema.names), None)
    if name is None:
        return pa.array([""] * batch.num_rows, pa.large_string())
    return pc.fill_null(batch[name].cast(pa.large_string()), "")


def _value(row: dict[str, Any], names: Names, file: Path, line: int) -> str:
    value = next((row[name] for name in names if name in row), None)
    if names is ID:
        value = identifier(value)
        if value is None:
            raise UsageError(f"{file}, line {line}: expected an id in {' or '.join(names)}")
    if not isinstance(value, str | None):
        raise UsageError(f"{file}, line {line}: {names[0]!r} must be a string, got {value!r}")
    return value or ""

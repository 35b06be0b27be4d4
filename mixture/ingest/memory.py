"""Rows that are in memory: Arrow tables, data frames, datasets, lists of dictionaries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mixture.errors import UsageError
from mixture.ingest.damage import BadRow, start_of, survive
from mixture.ingest.labels import by_query
from mixture.ingest.reading import Reading
from mixture.ingest.splits import choose_split
from mixture.ingest.table_rows import layout_of, rows_of
from mixture.rows import RawExample, Reject

BATCH_ROWS = 10_000


@dataclass(frozen=True)
class InMemory:
    """A table that the caller gave, the collection that it is for, and the part of a DatasetDict that was asked for."""

    table: pa.Table = field(repr=False, compare=False)
    name: str
    split: str | None = None

    def __str__(self) -> str:
        return f"memory:{self.name}" + (f" {self.split}" if self.split else "")


def is_rows(source: object) -> bool:
    """Whether a source is rows rather than where rows are."""
    if isinstance(source, pa.Table | pa.RecordBatch) or hasattr(source, "__arrow_c_stream__") or _is_dataset(source):
        return True
    return isinstance(source, list | tuple) and bool(source) and all(isinstance(row, Mapping) for row in source)


def table_from(source: Any, split: str | None = None) -> pa.Table:
    """Rows as an Arrow table: one, a data frame of pandas or polars, a `datasets.Dataset` (of a DatasetDict the split
    to train on), or a list of dictionaries, whose keys may differ.

    Raises UsageError for rows that Arrow cannot hold in one column.
    """
    try:
        if isinstance(source, Mapping) and _is_dataset(source):
            source = choose_split(source, "the DatasetDict", split)
        if isinstance(source, list | tuple):
            names = dict.fromkeys(str(name) for row in source for name in row)
            return pa.table({name: [row.get(name) for row in source] for name in names})
        if _is_dataset(source):
            return source.with_format("arrow")[:]
        if isinstance(source, pa.RecordBatch):
            return pa.Table.from_batches([source])
        return source if isinstance(source, pa.Table) else pa.table(source)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UsageError(f"the rows in memory cannot be read as a table: {str(error).partition(chr(10))[0]}") from None


def sha256_of_table(table: pa.Table) -> str:
    """64 hexadecimal digits that change when names, types or values change."""
    digest = hashlib.sha256()
    for batch in table.replace_schema_metadata(None).to_batches(max_chunksize=BATCH_ROWS):
        part = pa.BufferOutputStream()
        with pa.ipc.new_stream(part, batch.schema) as stream:  # unlike `serialize` with what a dictionary holds
            stream.write_batch(batch)
        digest.update(memoryview(part.getvalue()))
    return digest.hexdigest()


def read_memory(rows: InMemory, reading: Reading) -> Iterator[RawExample | Reject]:
    """The rows of a table, counted from 1; each without use is a Reject with the reason."""
    return by_query(survive(_rows(rows.table, reading)), reading.min_label)


def _rows(table: pa.Table, reading: Reading) -> Iterable[RawExample | Reject]:
    try:
        layout = layout_of(table.schema, reading)
    except BadRow as bad:
        yield Reject(1, str(bad), start_of(", ".join(table.schema.names)), rows=max(table.num_rows, 1))
        return
    row = 1
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from rows_of(batch, layout, row)
        row += batch.num_rows


def _is_dataset(source: object) -> bool:
    return type(source).__module__.split(".")[0] == "datasets" and hasattr(source, "with_format")

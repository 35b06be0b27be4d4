"""Rows of tables with typed columns, from Parquet, Arrow and the hub, in any shape that has names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mixture.ingest.damage import BadRow, start_of
from mixture.ingest.reading import Reading
from mixture.ingest.shapes import Shape
from mixture.rows import RawExample, Reject

BATCH_ROWS = 512  # small, because one row may hold a hundred long negatives


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table's columns mean: its shape, and the columns that the shape reads under the shape's names."""

    shape: Shape
    wanted: Mapping[str, str]  # the file's name: the shape's


def layout_of(schema: pa.Schema, reading: Reading) -> Layout:
    """The layout of a table. Raises BadRow with the columns found and those expected."""
    names = [name.strip().lower() for name in schema.names]
    shape = reading.table(names, text_only=all(map(is_text, schema.types)))
    return Layout(shape, {name: short for name, short in zip(schema.names, names, strict=True) if short in shape.names})


def rows_of(batch: pa.RecordBatch, layout: Layout, first_row: int) -> Iterator[RawExample | Reject]:
    """The rows of a batch that has the wanted columns (others are passed over); rows count from `first_row`."""
    batch = batch.select(list(layout.wanted)).rename_columns(list(layout.wanted.values()))
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield from _rows(batch.slice(start, BATCH_ROWS), layout.shape, first_row + start)


def row_example(value: Mapping[str, Any], shape: Shape, row: int) -> RawExample | Reject:
    """One row under the shape's names."""
    try:
        return shape.build(value, row)
    except BadRow as bad:
        return Reject(row, str(bad), start_of(json.dumps(value, ensure_ascii=False, default=str)))


def first_line(error: Exception) -> str:
    """Arrow's messages go on for lines about its own source; the first says what happened."""
    return str(error).partition("\n")[0]


def _rows(batch: pa.RecordBatch, shape: Shape, first_row: int) -> Iterator[RawExample | Reject]:
    try:
        values: Sequence[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        values = [_single(batch, index) for index in range(batch.num_rows)]
    for row, value in enumerate(values, start=first_row):
        yield Reject(row, "row is not valid UTF-8") if value is None else row_example(value, shape, row)


def _single(batch: pa.RecordBatch, index: int) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return None
    return row


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of this type holds one text a row."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)

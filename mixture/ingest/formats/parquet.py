"""Parquet: one row a row, in any shape that has names; lists and structs may be nested."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixture.ingest.formats.damage import BadRow, StreamDamaged, start_of
from mixture.ingest.formats.shapes import Shape, table_shape
from mixture.rows import RawExample, Reject

BATCH_ROWS = 512  # small, because one row may hold a hundred long negatives


def read(path: Path) -> Iterator[RawExample | Reject]:
    """Rows of a Parquet file; only the columns that its shape uses are read.

    Raises StreamDamaged when the file as a whole cannot be opened; a damaged row group is one Reject.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise StreamDamaged(f"Parquet file is damaged: {_first_line(error)}") from None
    with file:
        schema = file.schema_arrow
        compared = [name.strip().lower() for name in schema.names]
        try:
            shape = table_shape(compared, in_order=all(map(_is_text, schema.types)))
        except BadRow as bad:
            yield Reject(1, str(bad), start_of(", ".join(schema.names)))
            return
        names = dict(zip(schema.names, compared, strict=True))
        wanted = {name: short for name, short in names.items() if short in shape.names}
        first_row = 1
        for group in range(file.num_row_groups):
            yield from _group(file, group, wanted, shape, first_row)
            first_row += file.metadata.row_group(group).num_rows


def _group(
    file: pq.ParquetFile, group: int, wanted: Mapping[str, str], shape: Shape, first_row: int
) -> Iterator[RawExample | Reject]:
    # Group by group, so that damage in one costs no row of the others.
    row, end = first_row, first_row + file.metadata.row_group(group).num_rows
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=list(wanted)):
            yield from _rows(batch.rename_columns([wanted[name] for name in batch.schema.names]), shape, row)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        yield Reject(row, f"Parquet data is damaged, rows {row} to {end - 1} cannot be read: {_first_line(error)}")


def _rows(batch: pa.RecordBatch, shape: Shape, first_row: int) -> Iterator[RawExample | Reject]:
    try:
        values: Sequence[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        values = [_single(batch, index) for index in range(batch.num_rows)]
    for row, value in enumerate(values, start=first_row):
        try:
            if value is None:
                raise BadRow("row is not valid UTF-8")
            yield shape.build(value, row)
        except BadRow as bad:
            yield Reject(row, str(bad), start_of(json.dumps(value, ensure_ascii=False, default=str) if value else ""))


def _single(batch: pa.RecordBatch, index: int) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return None
    return row


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

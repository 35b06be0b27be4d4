"""Parquet: one row a row, row group by row group, from a local file or any file system that Arrow knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mixture.errors import MixtureError
from mixture.ingest.damage import BadRow, StreamDamaged, start_of
from mixture.ingest.format import Format
from mixture.ingest.reading import Reading
from mixture.ingest.table_rows import BATCH_ROWS, Layout, first_line, layout_of, rows_of
from mixture.rows import RawExample, Reject

if TYPE_CHECKING:
    import pyarrow.fs
    import pyarrow.parquet as pq


def read(
    path: Path | str, reading: Reading | None = None, filesystem: pyarrow.fs.FileSystem | None = None
) -> Iterator[RawExample | Reject]:
    """Rows of a Parquet file; only the columns that its shape uses are read. `path` is one of `filesystem`, if given.

    Raises StreamDamaged when the file as a whole cannot be opened; a damaged row group is one Reject. A file system
    that cannot be reached any more is no damage: raises MixtureError, so that the file can be read again later.
    """
    import pyarrow.parquet as pq  # takes a third of the time of all formats, whose names the command line asks for

    try:
        file = pq.ParquetFile(path, filesystem=filesystem)
    except (pa.ArrowException, OSError) as error:
        _check_connection(path, filesystem, error)
        raise StreamDamaged(f"Parquet file is damaged: {first_line(error)}") from None
    with file:
        schema = file.schema_arrow
        try:
            layout = layout_of(schema, reading or Reading())
        except BadRow as bad:
            yield Reject(1, str(bad), start_of(", ".join(schema.names)), rows=max(file.metadata.num_rows, 1))
            return
        first_row = 1
        for group in range(file.num_row_groups):
            yield from _group(file, group, layout, first_row, lambda error: _check_connection(path, filesystem, error))
            first_row += file.metadata.row_group(group).num_rows


def _group(
    file: pq.ParquetFile, group: int, layout: Layout, first_row: int, check: Callable[[Exception], None]
) -> Iterator[RawExample | Reject]:
    # Group by group, so that damage in one costs no row of the others.
    row, end = first_row, first_row + file.metadata.row_group(group).num_rows
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=list(layout.wanted)):
            yield from rows_of(batch, layout, row)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        check(error)
        yield Reject(row, f"Parquet data is damaged, rows {row} to {end - 1} cannot be read: {first_line(error)}",
                     rows=max(end - row, 1))  # fmt: skip


def _check_connection(path: Path | str, filesystem: pyarrow.fs.FileSystem | None, error: Exception) -> None:
    if filesystem is None:
        return
    import pyarrow.fs

    try:
        gone = filesystem.get_file_info(str(path)).type is pyarrow.fs.FileType.NotFound
    except OSError:
        gone = True
    if gone:
        raise MixtureError(f"{path} cannot be reached any more, run the command again: {first_line(error)}") from error


FORMATS = (Format("parquet", read, (".parquet", ".pq"), {b"PAR1": "Parquet"}, read_remote=read),)

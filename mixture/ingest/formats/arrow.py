"""Arrow: IPC files and streams (what `datasets` writes), and the folders of `datasets.save_to_disk`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture.errors import UsageError
from mixture.ingest.damage import BadRow, StreamDamaged, start_of, survive_in
from mixture.ingest.format import Folder, Format
from mixture.ingest.reading import Reading
from mixture.ingest.splits import choose_split
from mixture.ingest.table_rows import Layout, first_line, is_text, layout_of, rows_of
from mixture.rows import RawExample, Reject

FILE_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"  # the mark before the length of the first message, which is the schema
DICTIONARY, DATASET = "dataset_dict.json", "state.json"


def read(path: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of an Arrow IPC file or stream, batch by batch.

    Raises StreamDamaged where the file breaks. The batches of an IPC file stand alone, so one that is damaged is one
    Reject there; what follows the damage in a stream cannot be found.
    """
    with pa.memory_map(str(path)) as source:
        start = source.read_buffer(len(FILE_MAGIC)).to_pybytes()
        source.seek(0)
        yield from (_file if start == FILE_MAGIC else _stream)(source, reading)


def _stream(source: pa.NativeFile, reading: Reading | None) -> Iterator[RawExample | Reject]:
    row = 1
    try:
        reader = pa.ipc.open_stream(source)
        layout = _layout(reader.schema, reading)
        if isinstance(layout, Reject):
            yield replace(layout, rows=max(sum(batch.num_rows for batch in reader), 1))
            return
        for batch in reader:
            _check(batch, layout)
            yield from rows_of(batch, layout, row)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = f"Arrow stream is damaged or ends early, no row from here on can be read: {first_line(error)}"
        raise StreamDamaged(reason, row) from None


def _file(source: pa.NativeFile, reading: Reading | None) -> Iterator[RawExample | Reject]:
    try:
        reader = pa.ipc.open_file(source)
        layout = _layout(reader.schema, reading)
    except (pa.ArrowException, OSError) as error:
        raise StreamDamaged(f"Arrow file is damaged: {first_line(error)}") from None
    if isinstance(layout, Reject):
        yield replace(layout, rows=max(_count(reader), 1))
        return
    row = 1
    for index in range(reader.num_record_batches):
        num_rows = 0  # not known of a batch that does not open; rows after it then count from too low
        try:
            batch = reader.get_batch(index)
            num_rows = batch.num_rows
            _check(batch, layout)
            yield from rows_of(batch, layout, row)
        except (pa.ArrowException, OSError) as error:
            yield Reject(row, f"Arrow data is damaged, batch {index + 1} cannot be read: {first_line(error)}")
        row += num_rows


def _count(reader: pa.RecordBatchFileReader) -> int:
    try:
        return int(reader.count_rows())
    except (pa.ArrowException, OSError):
        return 1


def _layout(schema: pa.Schema, reading: Reading | None) -> Layout | Reject:
    try:
        return layout_of(schema, reading or Reading())
    except BadRow as bad:
        return Reject(1, str(bad), start_of(", ".join(schema.names)))


def _check(batch: pa.RecordBatch, layout: Layout) -> None:
    """Damaged offsets would be followed wherever they point, out of the file or to the end of the process."""
    for name in layout.wanted:
        try:
            batch.column(name).validate(full=True)
        except pa.ArrowInvalid as error:
            # The offsets of a text column are checked first: here they are sound, and only single rows are not.
            if not (is_text(batch.column(name).type) and "UTF8" in str(error)):
                raise


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return (folder / DICTIONARY).is_file() or (folder / DATASET).is_file()


def data_files(folder: Path, split: str | None = None) -> list[Path]:
    """The Arrow files of a saved Dataset, in their order; of a saved DatasetDict those of one split (`choose_split`).

    Raises UsageError when the folder's own record of its files cannot be read, and when no split can be chosen.
    """
    if (folder / DICTIONARY).is_file():
        splits = _record(folder / DICTIONARY, "splits")
        folder = folder / choose_split({name: name for name in map(str, splits)}, folder, split)
    files = _record(folder / DATASET, "_data_files")
    return [folder / str(entry.get("filename") if isinstance(entry, dict) else entry) for entry in files]


def _record(file: Path, key: str) -> list[Any]:
    try:
        value = json.loads(file.read_text("utf-8"))[key]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); save the dataset again with save_to_disk") from None
    return value if isinstance(value, list) else []


def read_folder(folder: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of a folder that `datasets.save_to_disk` wrote. Rejects name the file and count rows within it."""
    reading = reading or Reading()
    files = data_files(folder, reading.split)
    if (folder / DICTIONARY).is_file() and files:
        others = sorted({str(name) for name in _record(folder / DICTIONARY, "splits")} - {files[0].parent.name})
        reading.note(f"split {files[0].parent.name}" + (f", not {', '.join(others)}" if others else ""))
    for file in files:
        yield from survive_in(file, folder, lambda path: read(path, reading))


FORMATS = (
    Format(
        "arrow", read, (".arrow",), {FILE_MAGIC: "an Arrow IPC file", STREAM_MAGIC: "an Arrow IPC stream"},
        folder=Folder(is_saved_dataset, data_files, read_folder),
    ),
)  # fmt: skip

"""Reading one file or one folder, whatever it is: every row comes out as an example or as a reject with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.columns import Columns
from mixture.ingest.damage import survive
from mixture.ingest.detect import first_bytes, folder_format, look
from mixture.ingest.formats import FOLDERS, FORMATS, READERS, check_name
from mixture.ingest.labels import by_query
from mixture.ingest.reading import Reading
from mixture.rows import RawExample, Reject


def read_items(
    path: Path, *, format: str | None = None, reading: Reading | None = None
) -> Iterator[Columns | RawExample | Reject]:
    """`read_file` for those who take blocks of rows: some formats give them many times faster."""
    check_name(format)
    reading = reading or Reading()
    if path.is_file() and not reading.columns:
        format = format or look(path)[0]
        if format is not None and (read := FORMATS[format].read_columns):
            return by_query(survive(read(path, reading)), reading.min_label)
    return read_file(path, format=format, reading=reading)


def read_file(
    path: Path, *, format: str | None = None, reading: Reading | None = None
) -> Iterator[RawExample | Reject]:
    """Stream the rows of a file, or of a folder that is read as a whole (BEIR, MS MARCO, a saved dataset).

    format:  overrides what the content looks like
    reading: which column is which, where the names do not say it; what they were taken for is noted there

    A damaged row is one Reject and the rows around it come through. A file that nobody can interpret, or that is
    empty, is one Reject for line 1: among others in a folder it must not stop them.

    Raises UsageError, before the first row, when the path cannot be read, the format does not exist or is not one for
    folders (or files), or a folder lacks a file of its layout; and after the last row when `reading` names a column
    that no row had.
    """
    check_name(format)
    reading = reading or Reading()
    if path.is_dir():
        rows = _read_folder(path, format or folder_format(path), reading)
    else:
        if format is None:
            format, seen = look(path, reading.columns)
            if format is None:
                return iter([Reject(1, seen)])
        elif format not in READERS:
            raise UsageError(f"{path} is a file; format {format!r} is one of folders: give the folder")
        else:
            first_bytes(path)  # raises for a file that cannot be opened
        rows = survive(READERS[format](path, reading))
    return _checked(by_query(rows, reading.min_label), reading)


def _checked(rows: Iterator[RawExample | Reject], reading: Reading) -> Iterator[RawExample | Reject]:
    yield from rows
    reading.check_names()


def _read_folder(folder: Path, format: str | None, reading: Reading) -> Iterator[RawExample | Reject]:
    found = FOLDERS.get(format or "")
    if found is None:
        raise UsageError(
            f"{folder} is a folder; give its files" + (f", or leave out format {format!r}" if format else "")
        )
    found.data_files(folder, reading.split)  # raises for a folder that lacks one
    return survive(found.read(folder, reading))

"""Reading one file or one folder, whatever it is: every row comes out as an example or as a reject with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.columns import Columns
from mixture.ingest.damage import survive
from mixture.ingest.detect import first_bytes, folder_format, look
from mixture.ingest.formats import FOLDERS, FORMATS, READERS, check_name
from mixture.ingest.renaming import Renaming
from mixture.rows import RawExample, Reject


def read_items(
    path: Path, *, format: str | None = None, columns: Renaming | None = None
) -> Iterator[Columns | RawExample | Reject]:
    """`read_file` for those who take blocks of rows: some formats give them many times faster."""
    check_name(format)
    if path.is_file() and not columns:
        format = format or look(path)[0]
        if format is not None and (read := FORMATS[format].read_columns):
            return survive(read(path))
    return read_file(path, format=format, columns=columns)


def read_file(
    path: Path, *, format: str | None = None, columns: Renaming | None = None
) -> Iterator[RawExample | Reject]:
    """Stream the rows of a file, or of a folder that is read as a whole (BEIR, MS MARCO, a saved dataset).

    format:  overrides what the content looks like
    columns: our names to the file's, for names that we do not know: {"query": "Frage", "positive": "Antwort"}

    A damaged row is one Reject and the rows around it come through. A file that nobody can interpret, or that is
    empty, is one Reject for line 1: among others in a folder it must not stop them.

    Raises UsageError, before the first row, when the path cannot be read, the format does not exist or is not one for
    folders (or files), or a folder lacks a file of its layout.
    """
    check_name(format)
    if path.is_dir():
        return _read_folder(path, format or folder_format(path), columns)
    if format is None:
        format, seen = look(path, columns)
        if format is None:
            return iter([Reject(1, seen)])
    elif format not in READERS:
        raise UsageError(f"{path} is a file; format {format!r} is one of folders: give the folder")
    else:
        first_bytes(path)  # raises for a file that cannot be opened
    return survive(READERS[format](path, columns))


def _read_folder(folder: Path, format: str | None, columns: Renaming | None) -> Iterator[RawExample | Reject]:
    found = FOLDERS.get(format or "")
    if found is None:
        raise UsageError(
            f"{folder} is a folder; give its files" + (f", or leave out format {format!r}" if format else "")
        )
    found.data_files(folder)  # raises for a folder that lacks one
    return survive(found.read(folder, columns))

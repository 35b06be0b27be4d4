"""Reading one file or one folder, whatever it is: every row comes out as an example or as a reject with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixture.errors import UsageError, unknown_name
from mixture.ingest import chunks
from mixture.ingest.columns import Columns
from mixture.ingest.damage import survive
from mixture.ingest.detect import folder_format, look
from mixture.ingest.formats import FOLDERS, FORMATS, READERS
from mixture.ingest.renaming import Renaming
from mixture.rows import RawExample, Reject


def read_items(
    path: Path, *, format: str | None = None, columns: Renaming | None = None
) -> Iterator[Columns | RawExample | Reject]:
    """`read_file` for those who take blocks of rows: JSON lines come as columns, many times faster."""
    if path.is_file() and not columns and (format or look(path, columns)[0]) == "jsonl":
        return survive(chunks.read(path))
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
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if path.is_dir():
        return _read_folder(path, format or folder_format(path), columns)
    if format is not None and format not in READERS:
        raise UsageError(f"{path} is a file; format {format!r} is one of folders: give the folder")
    found, seen = look(path, columns)
    chosen = format or found
    if chosen is None:
        return iter([Reject(1, seen)])
    return survive(READERS[chosen](path, columns))


def _read_folder(folder: Path, format: str | None, columns: Renaming | None) -> Iterator[RawExample | Reject]:
    found = FOLDERS.get(format or "")
    if found is None:
        raise UsageError(
            f"{folder} is a folder; give its files" + (f", or leave out format {format!r}" if format else "")
        )
    found.data_files(folder)  # raises for a folder that lacks one
    return survive(found.read(folder, columns))

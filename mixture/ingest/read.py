"""Reading one file, whatever it is: every row comes out as an example or as a reject with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixture.errors import UsageError, unknown_name
from mixture.ingest.detect import look
from mixture.ingest.formats import READERS
from mixture.ingest.formats.damage import survive
from mixture.rows import RawExample, Reject


def read_file(path: Path, *, format: str | None = None) -> Iterator[RawExample | Reject]:
    """Stream the rows of a file; `format` overrides what the content looks like.

    A damaged row is one Reject and the rows around it come through. A file that nobody can interpret, or that is
    empty, is one Reject for line 1: among others in a folder it must not stop them.

    Raises UsageError, before the first row, when the path is no readable file or the format does not exist.
    """
    if format is not None and format not in READERS:
        raise unknown_name("format", format, READERS)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give its files")
    found, seen = look(path)
    chosen = format or found
    if chosen is None:
        return iter([Reject(1, seen)])
    return survive(READERS[chosen](path))

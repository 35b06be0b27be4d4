"""How readers speak about damage: one reason for one row, and what to do when the stream itself breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mixture.rows import RawExample, Reject

Row = TypeVar("Row")
RAW_CHARS = 200
EMPTY_LINE = "line is empty"


class BadRow(Exception):
    """One row cannot be used; the message is the reason, in words a data owner understands."""


class StreamDamaged(Exception):
    """The bytes of the file end or break at `line`; every whole line before it has been delivered."""

    def __init__(self, reason: str, line: int = 1, raw: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.raw = raw


def start_of(data: bytes | str) -> str:
    """The first characters of a row, for the record of rejects. Bytes that are not UTF-8 show as U+FFFD."""
    if isinstance(data, bytes):
        # UTF-8 takes at most 4 bytes a character, so this much holds enough of them.
        data = data[: 4 * RAW_CHARS].decode("utf-8", "replace")
    return data[:RAW_CHARS]


def check_utf8(data: bytes) -> str:
    """Decode one row.

    Raises BadRow with the first wrong byte and its offset from the start of the row.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise BadRow(f"line is not valid UTF-8: byte 0x{byte:02x} at offset {error.start}") from None


def survive(rows: Iterable[Row | Reject]) -> Iterator[Row | Reject]:
    """Pass rows on, and turn what concerns the whole file into rejects.

    A broken stream becomes one last Reject, and so does a file without a row. Empty lines at the end of the file are
    dropped; in the middle an empty line stays a reject, as it may be a row that somebody lost.
    """
    empty: list[Reject] = []
    any_row = False
    try:
        for row in rows:
            if isinstance(row, Reject) and row.reason == EMPTY_LINE:
                empty.append(row)
                continue
            yield from empty
            empty.clear()
            any_row = True
            yield row
    except StreamDamaged as damage:
        yield from empty
        yield Reject(damage.line, damage.reason, damage.raw)
        return
    if not any_row:
        yield Reject(1, "the file has no rows")


def survive_in(
    file: Path, folder: Path, read: Callable[[Path], Iterable[RawExample | Reject]]
) -> Iterator[RawExample | Reject]:
    """`survive` for one file of a folder that is read as a whole: its rejects say which file, and a file that is not
    there is one of them."""
    name = file.relative_to(folder).as_posix()
    if not file.is_file():
        yield Reject(1, "the file is missing", file=name)
        return
    for row in survive(read(file)):
        yield replace(row, file=name) if isinstance(row, Reject) else row

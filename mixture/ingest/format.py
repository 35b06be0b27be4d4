"""What a format is. Each module of `mixture.ingest.formats` ends with its own; `FORMATS` there has them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mixture.ingest.mapping import ColumnMap
from mixture.ingest.reading import Reading
from mixture.rows import RawExample, Reject

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from mixture.ingest.columns import Columns

Reader = Callable[[Path, Reading | None], Iterator[RawExample | Reject]]


class Sure(IntEnum):
    """How sure a format is of a text, by what it saw there. The surest format is taken."""

    DELIMITER = 1  # a character that may stand between its columns
    LAYOUT = 2  # lines that are laid out as its rows are
    LINE = 3  # a later line that can only be its own
    HEADER = 4  # a first line with names of columns that are known
    START = 5  # a first line that can only be its own


@dataclass(frozen=True, slots=True)
class Seen:
    """What a format saw in a text, in words. A text that is `refused` is almost of this format, and the words say what
    to do about it."""

    sure: Sure
    words: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of an unpacked text file.

    lines:   one or more, without line ends and blank lines; the last may be cut off
    columns: the user's word on which column is which: these names count as known
    """

    lines: Sequence[str]
    columns: ColumnMap = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The first line without white space around it."""
        return self.lines[0].strip()


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is read as a whole: how it is known, which of its files count for a split (None: the one to train
    on), and how it is read."""

    is_one: Callable[[Path], bool]
    data_files: Callable[[Path, str | None], list[Path]]
    read: Reader


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files, of folders that are read as a whole, or of both.

    read:         a file's rows, one by one, each with the reason where it is none; None for a format of folders only.
                  A damaged file raises StreamDamaged after its last good row
    extensions:   endings of its files' names, lower case, with the dot. They are no part of a collection's name, and
                  say nothing about the content
    magic:        the first bytes of its files (at most 16), and what they are, in words. For what is no text: such a
                  file is not read when it is packed once more
    is_one:       whether a file with these first bytes is really of the format, where others begin so as well
    sniff:        what it sees in the first lines of a text; None when they are none of its own
    read_columns: `read` without a column mapping, with most rows as blocks of columns, where that is faster
    read_remote:  `read` for a file of an Arrow file system, where it can be read in parts
    folder:       how a folder in this format is read
    """

    name: str
    read: Reader | None = None
    extensions: tuple[str, ...] = ()
    magic: Mapping[bytes, str] = field(default_factory=dict)
    sniff: Callable[[Head], Seen | None] | None = None
    read_columns: Callable[[Path, Reading | None], Iterator[Columns | RawExample | Reject]] | None = None
    read_remote: Callable[[str, Reading | None, FileSystem], Iterator[RawExample | Reject]] | None = None
    is_one: Callable[[Path], bool] | None = None
    folder: Folder | None = None

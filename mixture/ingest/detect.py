"""Which format a file has, by what is in it: names lie, and often there is no extension."""

from __future__ import annotations

from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.damage import StreamDamaged
from mixture.ingest.format import Head
from mixture.ingest.formats import FOLDERS, FORMATS, READERS
from mixture.ingest.lines import BYTE_ORDER_MARK, blocks
from mixture.ingest.mapping import ColumnMap
from mixture.ingest.unpack import packing

MAGIC = [(start, name, words) for name, format in FORMATS.items() for start, words in format.magic.items()]
MAGIC_BYTES = 16
# What people hand over by mistake; a name for it says more than "binary data".
FOREIGN_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Office file (save it as .xlsx or CSV)"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"SQLite format 3", "a SQLite database"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xff\xfe", "UTF-16 text (convert it to UTF-8)"),
    (b"\xfe\xff", "UTF-16 text (convert it to UTF-8)"),
)
HEAD_BYTES = 1 << 16
HEAD_LINES = 20
MAX_NUL_SHARE = 0.01  # scraped text has a stray NUL now and then, binary data is full of them


def detect(path: Path) -> str:
    """The format of a file: a name of `mixture.ingest.formats.READERS`.

    Raises UsageError, naming the file, what was seen and the formats there are, when the content is none of them, and
    when there is no such file.
    """
    name, seen = look(path)
    if name is None:
        raise UsageError(f"{path}: {seen}; formats: {', '.join(sorted(READERS))}, text also as gzip or zstandard")
    return name


def look(path: Path, columns: ColumnMap | None = None) -> tuple[str | None, str]:
    """The format (None when unknown) and, in words, what was seen. Names in `columns` count as known.

    Raises UsageError when the file does not exist or cannot be opened.
    """
    magic = first_bytes(path)
    if not magic:
        return None, "the file is empty"
    for start, name, words in MAGIC:
        is_one = FORMATS[name].is_one
        if magic.startswith(start) and (is_one is None or is_one(path)):
            return name, words
    head = _head(path, packing(magic))
    if isinstance(head, str):
        return None, head
    for start, words in FOREIGN_MAGIC:
        if head.startswith(start):
            return None, f"the file is {words}"
    for start, _, words in MAGIC:
        if packing(magic) and head.startswith(start):
            return None, f"the file is {packing(magic)} around {words} (unpack it first)"
    if head.count(0) > len(head) * MAX_NUL_SHARE:
        return None, "the file is binary data"
    return _look_at_text(head.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace"), columns)


def first_bytes(path: Path) -> bytes:
    """As many bytes as a format's magic has. Raises UsageError when the file cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def folder_format(folder: Path) -> str | None:
    """The format of a folder that is read as a whole: a name of `mixture.ingest.formats.FOLDERS`; None for others."""
    return next((name for name, format in FOLDERS.items() if format.is_one(folder)), None)


def _head(path: Path, packed: str | None) -> bytes | str:
    head = b""
    try:
        for block in blocks(path):
            head += block
            if len(head) >= HEAD_BYTES:
                break
    except StreamDamaged as damage:
        if not head:
            return damage.reason
    return head or f"the {packed} file holds no data"


def _look_at_text(text: str, columns: ColumnMap | None) -> tuple[str | None, str]:
    lines = [line.removesuffix("\r") for line in text.split("\n")[:HEAD_LINES] if line.strip()]
    if not lines:
        return None, "the file has only blank lines"
    head = Head(lines, columns or {})
    answers = {name: seen for name, format in FORMATS.items() if format.sniff and (seen := format.sniff(head))}
    if not answers:
        return None, f"neither JSON nor columns: the first line is {head.first[:60]!r}"
    surest = max(answers, key=lambda name: answers[name].sure)  # of equals the first
    return None if answers[surest].refused else surest, answers[surest].words

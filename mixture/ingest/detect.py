"""Which format a file has, by what is in it: names lie, and often there is no extension."""

from __future__ import annotations

from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.formats import READERS
from mixture.ingest.formats.damage import BadRow, StreamDamaged
from mixture.ingest.formats.delimited import header_columns
from mixture.ingest.formats.lines import BYTE_ORDER_MARK, blocks
from mixture.ingest.formats.shapes import shape_of

PARQUET_MAGIC = b"PAR1"
# What people hand over by mistake; a name for it says more than "binary data".
FOREIGN_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"ARROW1", "an Arrow IPC file"),
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
        raise UsageError(f"{path}: {seen}; formats: {', '.join(sorted(READERS))}, text also as gzip")
    return name


def look(path: Path) -> tuple[str | None, str]:
    """The format (None when unknown) and, in words, what was seen.

    Raises UsageError when the file does not exist or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not magic:
        return None, "the file is empty"
    if magic.startswith(PARQUET_MAGIC):
        return "parquet", "a Parquet file"
    head = _head(path)
    if isinstance(head, str):
        return None, head
    for start, what in FOREIGN_MAGIC:
        if head.startswith(start):
            return None, f"the file is {what}"
    if head.startswith(PARQUET_MAGIC):
        return None, "the file is gzip around Parquet (unpack it first)"
    if head.count(0) > len(head) * MAX_NUL_SHARE:
        return None, "the file is binary data"
    return _look_at_text(head.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace"))


def _head(path: Path) -> bytes | str:
    head = b""
    try:
        for block in blocks(path):
            head += block
            if len(head) >= HEAD_BYTES:
                break
    except StreamDamaged as damage:
        if not head:
            return damage.reason
    return head or "the gzip file holds no data"


def _look_at_text(head: str) -> tuple[str | None, str]:
    lines = [line for line in head.split("\n")[:HEAD_LINES] if line.strip()]
    if not lines:
        return None, "the file has only blank lines"
    first = lines[0].strip()
    if first in ("[", "{") or first.startswith(("[{", "[[")):
        return None, "the file is one JSON document over the whole file; write one JSON value a line"
    if _is_json_line(first):
        return "jsonl", "JSON lines"
    by_delimiter = [(name, sign) for name, sign in (("tsv", "\t"), ("csv", ",")) if sign in first]
    for name, sign in by_delimiter:
        if _has_known_columns(lines[0], sign):
            return name, f"a header line of {name.upper()}"
    # The first line may be the damaged one.
    if any(_is_json_line(line.strip()) for line in lines[1:]):
        return "jsonl", "JSON lines after a damaged first line"
    if by_delimiter:
        name = by_delimiter[0][0]
        return name, f"text with the delimiter of {name.upper()}"
    return None, f"neither JSON nor columns: the first line is {first[:60]!r}"


def _is_json_line(line: str) -> bool:
    return line.startswith(("{", "["))


def _has_known_columns(line: str, delimiter: str) -> bool:
    try:
        shape_of(tuple(header_columns(line.removesuffix("\r"), delimiter)), "column")
    except BadRow:
        return False
    return True

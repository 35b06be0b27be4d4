"""Which format a file has, by what is in it: names lie, and often there is no extension."""

from __future__ import annotations

import re
from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.damage import BadRow, StreamDamaged
from mixture.ingest.formats import FOLDERS, READERS, arrow
from mixture.ingest.formats.delimited import header_columns, known_delimiter
from mixture.ingest.lines import BYTE_ORDER_MARK, blocks
from mixture.ingest.renaming import Renaming
from mixture.ingest.shapes import HEADER_MAX_CHARS, HEADER_MAX_WORDS, shape_of
from mixture.ingest.unpack import packing

# Files that are tables as a whole: they are no text, and not read when packed once more.
TABLE_MAGIC = (
    (b"PAR1", "parquet", "Parquet"),
    (arrow.FILE_MAGIC, "arrow", "an Arrow IPC file"),
    (arrow.STREAM_MAGIC, "arrow", "an Arrow IPC stream"),
)
# What people hand over by mistake; a name for it says more than "binary data".
FOREIGN_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
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
NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*")
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


def look(path: Path, columns: Renaming | None = None) -> tuple[str | None, str]:
    """The format (None when unknown) and, in words, what was seen. Names in `columns` count as known.

    Raises UsageError when the file does not exist or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not magic:
        return None, "the file is empty"
    for start, name, what in TABLE_MAGIC:
        if magic.startswith(start):
            return name, what
    head = _head(path, packing(magic))
    if isinstance(head, str):
        return None, head
    for start, what in FOREIGN_MAGIC:
        if head.startswith(start):
            return None, f"the file is {what}"
    for start, _, what in TABLE_MAGIC:
        if head.startswith(start):
            return None, f"the file is {packing(magic)} around {what} (unpack it first)"
    if head.count(0) > len(head) * MAX_NUL_SHARE:
        return None, "the file is binary data"
    return _look_at_text(head.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace"), columns)


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


def _look_at_text(head: str, columns: Renaming | None) -> tuple[str | None, str]:
    lines = [line for line in head.split("\n")[:HEAD_LINES] if line.strip()]
    if not lines:
        return None, "the file has only blank lines"
    first = lines[0].strip()
    if first == "{":
        return None, "the file is one JSON object over many lines; write one JSON value a line, or one array"
    if re.match(r"\[\s*([\[{\]]|$)", first):
        return "json", "a JSON array"
    if _is_json_line(first):
        return "jsonl", "JSON lines"
    if "\t" in first and _has_known_columns(lines[0]):
        return "tsv", "a header line of TSV"
    if known_delimiter(lines[0], columns):
        return "csv", "a header line of CSV"
    # The first line may be the damaged one.
    if any(_is_json_line(line.strip()) for line in lines[1:]):
        return "jsonl", "JSON lines after a damaged first line"
    if "\t" in first:
        return _look_at_columns([line.removesuffix("\r").split("\t") for line in lines])
    if "," in first:
        return "csv", "text with the delimiter of CSV"
    return None, f"neither JSON nor columns: the first line is {first[:60]!r}"


def _look_at_columns(lines: list[list[str]]) -> tuple[str | None, str]:
    whole = lines[:-1] or lines  # the last line may be cut off
    if all(len(fields) == 3 for fields in whole):
        if all(field.isdecimal() for fields in whole for field in fields):
            layout = "collection.tsv and queries*.tsv"
            return None, f"the file is triples of ids; give the folder that holds it together with {layout}"
        # A label or an id beside two texts is no negative, and a header is no row.
        texts = not any(NUMBER.fullmatch(field) for fields in whole for field in fields)
        passages = [[fields[side] for fields in whole] for side in (1, 2)]
        if texts and any(map(_is_long, lines[0])) and all(any(map(_is_long, side)) for side in passages):
            return "triples", "three texts a line without a header"
    return "tsv", "text with the delimiter of TSV"


def _is_long(text: str) -> bool:
    """Longer than the name of a column."""
    return len(text) > HEADER_MAX_CHARS or len(text.split()) > HEADER_MAX_WORDS


def _is_json_line(line: str) -> bool:
    return line.startswith(("{", "["))


def _has_known_columns(line: str) -> bool:
    try:
        shape_of(tuple(header_columns(line.removesuffix("\r"), "\t")), "column")
    except BadRow:
        return False
    return True

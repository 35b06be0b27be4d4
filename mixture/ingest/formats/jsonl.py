"""JSON lines: one JSON list or object a line, in any of the known shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mixture.ingest.damage import EMPTY_LINE, BadRow, check_utf8, start_of
from mixture.ingest.format import Format, Head, Seen, Sure
from mixture.ingest.lines import byte_lines
from mixture.ingest.reading import Reading
from mixture.rows import RawExample, Reject

if TYPE_CHECKING:
    from mixture.ingest.columns import Columns


def read(path: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of a JSON lines file, plain or packed, one by one.

    Raises StreamDamaged when the packed data is cut or damaged.
    """
    reading = reading or Reading()
    for number, line in byte_lines(path):
        try:
            yield example(line, number, reading)
        except BadRow as bad:
            yield Reject(number, str(bad), start_of(line))


def read_columns(path: Path, reading: Reading | None = None) -> Iterator[Columns | RawExample | Reject]:
    """`read` by the chunk."""
    from mixture.ingest import chunks  # it reads single lines by this module

    return chunks.read(path, reading or Reading())


def example(line: bytes, number: int, reading: Reading) -> RawExample:
    """The example in one line, or in one JSON value of an array. Raises BadRow."""
    text = check_utf8(line)
    if not text.strip():
        raise BadRow(EMPTY_LINE)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problem = error.msg[:1].lower() + error.msg[1:].removesuffix(" starting at")
        raise BadRow(f"line is not valid JSON: {problem} at column {error.colno}") from None
    except RecursionError:
        raise BadRow("line is not usable JSON: nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise BadRow(f"line is not usable JSON: {error}") from None
    return reading.example(value, number)


def sniff(head: Head) -> Seen | None:
    """Whether lines start as JSON values do. The first one may be damaged."""
    if head.first == "{":
        words = "the file is one JSON object over many lines; write one JSON value a line, or one array"
        return Seen(Sure.START, words, refused=True)
    if _is_json_line(head.first):
        return Seen(Sure.START, "JSON lines")
    if any(_is_json_line(line.strip()) for line in head.lines[1:]):
        return Seen(Sure.LINE, "JSON lines after a damaged first line")
    return None


def _is_json_line(line: str) -> bool:
    return line.startswith(("{", "["))


FORMATS = (Format("jsonl", read, (".jsonl", ".ndjson"), sniff=sniff, read_columns=read_columns),)

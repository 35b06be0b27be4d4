"""JSON lines: one JSON list or object a line, in any of the known shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mixture.ingest.damage import EMPTY_LINE, BadRow, check_utf8, start_of
from mixture.ingest.lines import byte_lines
from mixture.ingest.shapes import example_from
from mixture.rows import RawExample, Reject


def read(path: Path) -> Iterator[RawExample | Reject]:
    """Rows of a JSON lines file, plain or gzip, one by one.

    Raises StreamDamaged when the gzip data is cut or damaged.
    """
    for number, line in byte_lines(path):
        try:
            yield example(line, number)
        except BadRow as bad:
            yield Reject(number, str(bad), start_of(line))


def example(line: bytes, number: int) -> RawExample:
    """The example in one line. Raises BadRow."""
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
    return example_from(value, number)

"""A mapping of our names to those of a file (`{"query": "Frage", "positive": "Antwort"}`), for rows whose own names
do not say what they hold. With a mapping only the names in it are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixture.ingest.damage import BadRow, check_utf8, start_of
from mixture.ingest.formats import jsonl
from mixture.ingest.lines import byte_lines
from mixture.ingest.shapes import example_from
from mixture.rows import RawExample, Reject

Renaming = Mapping[str, str]  # our name: the file's name
NEEDED = ("query", "positive", "pos", "set", "positive_passages")


def our_names(names: Sequence[str], columns: Renaming | None) -> dict[str, str]:
    """For the columns of a table that may be read, in order: the file's name and ours (lower case without a mapping).

    Raises BadRow when a column is there twice and when the mapping names one that is not there.
    """
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadRow(f"column {twice!r} appears more than once")
    if not columns:
        return {name: name.strip().lower() for name in names}
    if missing := [theirs for theirs in columns.values() if theirs not in names]:
        raise BadRow(f"no column {missing[0]!r}; found {', '.join(map(repr, names[:12])) or 'none'}")
    return {theirs: ours for ours, theirs in columns.items()}


def renamed(value: Any, columns: Renaming) -> dict[str, Any]:
    """An object under our names. A negative, language or prompt may be absent; raises BadRow for another name."""
    if not isinstance(value, dict):
        raise BadRow(f"line is no object; the column mapping asks for {', '.join(map(repr, columns.values()))}")
    for ours, theirs in columns.items():
        if ours in NEEDED and theirs not in value:
            raise BadRow(f"missing key {theirs!r} (mapped to {ours})")
    return {ours: value[theirs] for ours, theirs in columns.items() if theirs in value}


def json_example(data: bytes, line: int, columns: Renaming | None) -> RawExample:
    """The example in one JSON value. Raises BadRow."""
    if not columns:
        return jsonl.example(data, line)
    try:
        value = json.loads(check_utf8(data))
    except (ValueError, RecursionError):
        return jsonl.example(data, line)  # it says what is wrong
    return example_from(renamed(value, columns), line)


def read_json_lines(path: Path, columns: Renaming | None = None) -> Iterator[RawExample | Reject]:
    """Rows of a JSON lines file, plain or packed. Raises StreamDamaged when the packed data is cut or damaged."""
    if not columns:
        yield from jsonl.read(path)
        return
    for number, line in byte_lines(path):
        try:
            yield json_example(line, number, columns)
        except BadRow as bad:
            yield Reject(number, str(bad), start_of(line))

"""A mapping of our names to those of a file (`{"query": "Frage", "positive": "Antwort"}`), for rows whose own names
do not say what they hold. With a mapping only the names in it are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixture.ingest.damage import BadRow

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

"""What tests say about rows that were read."""

from __future__ import annotations

from collections.abc import Sequence

from mixture.ingest.columns import Columns
from mixture.rows import RawExample, Reject

Texts = tuple[str, list[str], list[str]]


def examples_of(rows: Sequence[Columns | RawExample | Reject]) -> list[Texts]:
    """Query, positives and negatives of each example, whichever way it was read."""
    found: list[Texts] = []
    for row in rows:
        if isinstance(row, RawExample):
            found.append((row.query, [p.text for p in row.positives], [p.text for p in row.negatives]))
        elif isinstance(row, Columns):
            sides = [
                [side.texts[int(start) : int(end)].to_pylist()
                 for start, end in zip(side.offsets[:-1], side.offsets[1:], strict=True)]
                for side in (row.positives, row.negatives)
            ]  # fmt: skip
            found += list(zip(row.queries.to_pylist(), *sides, strict=True))
    return found

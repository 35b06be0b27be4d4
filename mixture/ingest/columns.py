"""Rows as columns: what every reader's output becomes before it is cleaned, checked and given ids.

Legend: n rows, p passages of one side of those rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.ingest.damage import start_of
from mixture.rows import RawExample, RawPassage, Reject, clean


@dataclass(frozen=True)
class Side:
    """The positives, or the negatives, of n rows. Row i has passages `offsets[i]` to `offsets[i + 1]`."""

    offsets: NDArray[np.int64]  # (n + 1,), from 0
    titles: pa.StringArray  # (p,), nulls for none
    texts: pa.StringArray  # (p,), no nulls
    scores: pa.DoubleArray  # (p,), nulls where the file has none

    def rows(self) -> NDArray[np.int64]:
        """The row of each passage, (p,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True)
class Columns:
    """n rows that a reader understood, in the order of the file. Texts are as the file has them, valid UTF-8."""

    lines: NDArray[np.int64]  # (n,)
    queries: pa.StringArray  # (n,), no nulls
    positives: Side
    negatives: Side
    languages: pa.StringArray | None = None  # (n,), nulls where the row does not say
    prompts: tuple[str, ...] = ()  # distinct, in order of appearance
    merged: int = 0  # rows of the file that went into one of these

    def __len__(self) -> int:
        return len(self.lines)


def from_rows(rows: Sequence[RawExample]) -> tuple[Columns, list[Reject]]:
    """Rows read one by one as columns, and those whose texts cannot be stored, with the reason."""
    try:
        return _columns(rows), []
    except UnicodeEncodeError:
        rejects = {index: Reject(row.line, reason, _start(row)) for index, row in enumerate(rows)
                   if (reason := _broken(row))}  # fmt: skip
        return _columns([row for index, row in enumerate(rows) if index not in rejects]), list(rejects.values())


def _columns(rows: Sequence[RawExample]) -> Columns:
    return Columns(
        np.array([row.line for row in rows], np.int64),
        pa.array([row.query for row in rows], pa.string()),
        _side([row.positives for row in rows]),
        _side([row.negatives for row in rows]),
        pa.array([row.language for row in rows], pa.string()),
        tuple(dict.fromkeys(row.prompt for row in rows if row.prompt is not None and row.prompt.encode())),
        sum(row.rows - 1 for row in rows),
    )


def _side(passages: Sequence[Sequence[RawPassage]]) -> Side:
    flat = [passage for row in passages for passage in row]
    offsets = np.zeros(len(passages) + 1, np.int64)
    np.cumsum([len(row) for row in passages], out=offsets[1:])
    return Side(
        offsets,
        pa.array([passage.title for passage in flat], pa.string()),
        pa.array([passage.text for passage in flat], pa.string()),
        pa.array([passage.score for passage in flat], pa.float64()),
    )


def _broken(row: RawExample) -> str | None:
    """Which text of the row is no valid Unicode, in words; None when all are."""
    named = [("query", row.query), ("prompt", row.prompt or ""), ("language", row.language or "")]
    for side, passages in (("positive", row.positives), ("negative", row.negatives)):
        for passage in passages:
            named += [(f"title of a {side}", passage.title), (side, passage.text)]
    for what, text in named:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            return f"{what} is not valid Unicode: \\u{half:04x} is half of a surrogate pair"
    return None


def _start(row: RawExample) -> str:
    texts = map(clean, (row.query, *(passage.text for passage in row.positives)))
    return start_of(next(filter(None, texts), ""))

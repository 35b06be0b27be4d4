"""Record batches with known column names as `Columns`, without a Python object a row.

Only rows without any doubt are taken. The rest (a null, a list of another length, an object without text) goes to the
row-by-row reader of the format, which knows the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.ingest.columns import Columns, Side
from mixture.ingest.names import LANGUAGE_NAMES
from mixture.ingest.shapes import Sides


class NotColumns(Exception):
    """A column has a type that only the row-by-row reader understands."""


@dataclass(frozen=True)
class _Cells:
    """The passages in one column: their rows in ascending order, and which rows of the column are in doubt."""

    row: NDArray[np.int64]
    titles: pa.Array
    texts: pa.Array
    scores: pa.Array
    doubtful: NDArray[np.bool_]


def columns_of(table: pa.RecordBatch, sides: Sides, first_line: int) -> tuple[Columns, NDArray[np.int64]]:
    """The rows of a batch, and the indices of those that were left out because they need a closer look.

    table: columns named as the shape of `sides` has them; row i is line `first_line` + i.
    Raises NotColumns when a column's type is none that this understands.
    """
    n = table.num_rows
    have = set(table.schema.names)
    if sides.packed:
        queries, positives, negatives = _unpacked(table.column(sides.packed), sides.packed_negatives)
    else:
        queries = _text(table.column(sides.query))
        positives = [_cells(table, name, sides.scores.get(name), n) for name in sides.positives]
        negatives = [_cells(table, name, sides.scores.get(name), n) for name in sides.negatives if name in have]
    doubtful = pc.is_null(queries).to_numpy(zero_copy_only=False)
    for cells in (*positives, *negatives):
        doubtful = doubtful | cells.doubtful
    doubtful = doubtful | (sum((np.bincount(c.row, minlength=n) for c in positives), np.zeros(n, np.int64)) == 0)
    kept = np.flatnonzero(~doubtful)
    place = np.where(doubtful, -1, np.cumsum(~doubtful) - 1)
    columns = Columns(
        first_line + kept,
        queries.take(pa.array(kept)),
        _side(positives, place, len(kept)),
        _side(negatives, place, len(kept)),
        _languages(table, have, kept),
        _prompts(table, kept) if "prompt" in have else (),
    )
    return columns, np.flatnonzero(doubtful)


def _text(values: pa.Array) -> pa.StringArray:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not _is_text(values.type):
        raise NotColumns(f"a column of {values.type}")
    return values.cast(pa.string())


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def _cells(table: pa.RecordBatch, name: str, scores: str | None, n: int) -> _Cells:
    values = table.column(name)
    null = pc.is_null(values).to_numpy(zero_copy_only=False)
    own_scores = table.column(scores) if scores and scores in table.schema.names else None
    if pa.types.is_dictionary(values.type) or _is_text(values.type):
        if own_scores is not None and own_scores.null_count < n:
            raise NotColumns("scores beside single texts")
        row = np.flatnonzero(~null)
        texts = _text(values).drop_null()
        return _Cells(row, _nothing(len(row), pa.string()), texts, _nothing(len(row), pa.float64()), np.zeros(n, bool))
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise NotColumns(f"a column of {values.type}")
    counts = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(n), counts)
    items = values.flatten()
    titles, numbers = _nothing(len(items), pa.string()), _nothing(len(items), pa.float64())
    if pa.types.is_struct(items.type):
        fields = {field.name for field in items.type}
        flat = dict(zip((field.name for field in items.type), items.flatten(), strict=True))
        titles = _text(flat["title"]) if "title" in fields else titles
        numbers = _numbers(flat["score"]) if "score" in fields else numbers
        if "text" not in fields:
            raise NotColumns("passages without text")
        items = flat["text"]
    texts = _text(items)
    doubtful = np.zeros(n, bool)
    if own_scores is not None:
        numbers, wrong = _own_scores(own_scores, counts, numbers)
        doubtful |= wrong
    finite = pc.is_finite(numbers).fill_null(True).to_numpy(zero_copy_only=False)
    bad = pc.is_null(texts).to_numpy(zero_copy_only=False) | ~finite
    doubtful[row[bad]] = True
    return _Cells(row, titles, texts, numbers, doubtful)


def _own_scores(scores: pa.Array, counts: NDArray[np.int64], before: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Scores that stand in a list beside the passages; rows whose list has another length are in doubt."""
    if pa.types.is_null(scores.type):
        return before, np.zeros(len(counts), bool)
    if not (pa.types.is_list(scores.type) or pa.types.is_large_list(scores.type)):
        raise NotColumns(f"scores of {scores.type}")
    given = pc.list_value_length(scores).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    fits = given == counts
    # Of each passage the place of its number; where the lists differ there is none.
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    at = inside + np.repeat(np.cumsum(given) - given, counts)
    none = np.repeat(~fits, counts)
    taken = _numbers(scores.flatten()).take(pa.array(np.where(none, 0, at), mask=none))
    return pc.coalesce(taken, before), ~fits & (given > 0)


def _numbers(values: pa.Array) -> pa.Array:
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
        raise NotColumns(f"scores of {values.type}")
    return values.cast(pa.float64())


def _nothing(n: int, type_: pa.DataType) -> pa.Array:
    return pa.nulls(n, type_)


def _unpacked(lists: pa.Array, with_negatives: bool) -> tuple[pa.StringArray, list[_Cells], list[_Cells]]:
    """[query, positive, negative…], or a set: the first is the query, all others its positives."""
    n = len(lists)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise NotColumns(f"a column of {lists.type}")
    counts = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    texts = _text(lists.flatten())
    row = np.repeat(np.arange(n), counts)
    at = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    doubtful = counts < 2
    doubtful[row[pc.is_null(texts).to_numpy(zero_copy_only=False)]] = True
    first = np.full(n, -1)
    first[row[at == 0]] = np.flatnonzero(at == 0)
    queries = texts.take(pa.array(first, mask=first < 0))

    def part(mask: NDArray[np.bool_]) -> _Cells:
        count = int(mask.sum())
        return _Cells(row[mask], _nothing(count, pa.string()), texts.filter(pa.array(mask)),
                      _nothing(count, pa.float64()), doubtful)  # fmt: skip

    if with_negatives:
        return queries, [part(at == 1)], [part(at > 1)]
    return queries, [part(at > 0)], []


def _side(parts: list[_Cells], place: NDArray[np.int64], n: int) -> Side:
    if not parts:
        return Side(np.zeros(n + 1, np.int64), *(_nothing(0, t) for t in (pa.string(), pa.string(), pa.float64())))
    row = place[np.concatenate([part.row for part in parts])]
    columns = [pa.concat_arrays([getattr(part, name) for part in parts]) for name in ("titles", "texts", "scores")]
    order = np.argsort(row, kind="stable")
    order = order[row[order] >= 0]
    if len(order) != len(row) or len(parts) > 1:
        columns = [column.take(pa.array(order)) for column in columns]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[order], minlength=n))])
    return Side(offsets, *columns)


def _languages(table: pa.RecordBatch, have: set[str], kept: NDArray[np.int64]) -> pa.StringArray | None:
    found = [_text(table.column(name)) for name in LANGUAGE_NAMES if name in have]
    if not found:
        return None
    empty = pa.scalar(None, pa.string())
    return pc.coalesce(*(pc.if_else(pc.equal(one, ""), empty, one) for one in found)).take(pa.array(kept))


def _prompts(table: pa.RecordBatch, kept: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(_text(table.column("prompt")).take(pa.array(kept)).drop_null().unique().to_pylist())

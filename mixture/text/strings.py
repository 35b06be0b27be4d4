"""Texts that stay in Arrow and are read like a list of str: millions of them are no Python objects."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.text.form import Texts, check_arrow, text_list

_AT_ONCE = 4096  # made Python objects of while iterating


class Strings(Sequence[str]):
    """n texts: rows of an Arrow column, or all of it. A slice is such a sequence again, and copies no text.

    >>> texts = Strings(arrow_texts(["a", "b", "c"]), np.array([2, 0]))
    >>> texts[0], list(texts[1:]), texts == ["c", "a"]
    ('c', ['a'], True)
    """

    __slots__ = ("_column", "_rows")

    def __init__(self, column: pa.ChunkedArray, rows: NDArray[np.int64] | None = None) -> None:
        """column: strings without nulls, (N,); rows: (n,) numbers below N, None for all."""
        self._column, self._rows = column, rows

    def __len__(self) -> int:
        return len(self._column) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Strings: ...
    def __getitem__(self, place: int | slice) -> str | Strings:
        if isinstance(place, slice):
            if self._rows is not None:
                return Strings(self._column, self._rows[place])
            start, stop, step = place.indices(len(self))
            if step == 1:
                return Strings(self._column.slice(start, max(0, stop - start)))
            return Strings(self._column, np.arange(start, stop, step))
        number = operator.index(place)
        if not -len(self) <= number < len(self):
            raise IndexError(f"text {number} of {len(self)}")
        number %= len(self)
        return str(self._column[number if self._rows is None else int(self._rows[number])].as_py())

    def __iter__(self) -> Iterator[str]:
        for part in self.parts(_AT_ONCE):
            yield from part.to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Strings({list(self[:3])!r}, {len(self)} in all)"

    def take(self, places: NDArray[np.int64]) -> Strings:
        """Those at these places, (k,), in this order."""
        return Strings(self._column, places if self._rows is None else self._rows[places])

    @property
    def arrow(self) -> pa.ChunkedArray:
        """The texts as an Arrow column, (n,); copies those of chosen rows."""
        if self._rows is None:
            return self._column
        rows = self._rows
        if not len(rows):
            return self._column.slice(0, 0)
        if (np.diff(rows) >= 0).all():  # of a column in many chunks Arrow takes near rows quicker from a slice
            near = self._column.slice(int(rows[0]), int(rows[-1] - rows[0]) + 1)
            return near.take(pa.array(rows - rows[0]))
        return self._column.take(pa.array(rows))

    def parts(self, size: int) -> Iterator[pa.ChunkedArray]:
        """The texts as Arrow columns of at most `size` texts each, one after the other."""
        for start in range(0, len(self), size):
            yield self[start : start + size].arrow


def arrow_texts(texts: Texts | Strings, *, what: str = "texts") -> pa.ChunkedArray:
    """Texts as one Arrow column of large strings, whose bytes are not copied where they are in Arrow already.

    A null, another type, or half of a surrogate pair is a UsageError that begins with `what`.
    """
    if isinstance(texts, Strings):
        texts = texts.arrow
    if isinstance(texts, pa.Array):
        texts = pa.chunked_array([texts])
    if isinstance(texts, pa.ChunkedArray):
        check_arrow(texts, what)
        return texts.cast(pa.large_string())
    try:
        return pa.chunked_array([pa.array(text_list(texts, what=what), pa.large_string())])
    except UnicodeEncodeError as error:
        raise UsageError(f"{what}: {error.object[:60]!r} holds half of a surrogate pair, no character") from error

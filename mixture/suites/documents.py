"""The documents of a suite in Arrow: millions of them are no Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixture.text.strings import Strings, arrow_texts

_AT_ONCE = 20_000  # rows held as Python objects while they are read


class Documents(Sequence[tuple[str, str]]):
    """Title and text of n documents, either of which may be empty. A slice is such a sequence again.

    >>> documents = Documents.of([("Tea", "leaves"), ("", "beans"), ("Milk", "")])
    >>> documents[1], list(documents.joined)
    (('', 'beans'), ['Tea leaves', 'beans', 'Milk'])
    """

    __slots__ = ("texts", "titles")

    def __init__(self, titles: Strings, texts: Strings) -> None:
        self.titles, self.texts = titles, texts

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str]]) -> Documents:
        """Of pairs; such a sequence stays what it is."""
        if isinstance(rows, cls):
            return rows
        return cls(*(Strings(arrow_texts([row[place] for row in rows], what="documents")) for place in (0, 1)))

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, place: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, place: slice) -> Documents: ...
    def __getitem__(self, place: int | slice) -> tuple[str, str] | Documents:
        if isinstance(place, slice):
            return Documents(self.titles[place], self.texts[place])
        return self.titles[place], self.texts[place]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.titles, self.texts, strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Documents({list(self[:3])!r}, {len(self)} in all)"

    @property
    def joined(self) -> Strings:
        """Title and text with a space between, one alone where the other is empty; without titles no text is copied."""
        titles, texts = self.titles.arrow, self.texts.arrow
        if not pc.any(pc.not_equal(titles, "")).as_py():
            return self.texts
        parts = pa.table([titles, texts], ["title", "text"]).to_batches()
        return Strings(pa.chunked_array([_joined(part["title"], part["text"]) for part in parts], pa.large_string()))


def _joined(titles: pa.Array, texts: pa.Array) -> pa.Array:
    both = pc.binary_join_element_wise(titles, texts, pa.scalar(" ", pa.large_string()))
    return pc.if_else(pc.equal(titles, ""), texts, pc.if_else(pc.equal(texts, ""), titles, both))


class Columns:
    """Rows of `width` texts, kept in Arrow as they come."""

    def __init__(self, width: int) -> None:
        self._parts: list[list[pa.Array]] = [[] for _ in range(width)]
        self._rows: list[tuple[str, ...]] = []

    def append(self, *row: str) -> None:
        self._rows.append(row)
        if len(self._rows) == _AT_ONCE:
            self._keep()

    def extend(self, *columns: pa.Array) -> None:
        """Many rows that are in Arrow already, as texts of any width without nulls."""
        self._keep()
        for part, column in zip(self._parts, columns, strict=True):
            part.append(column.cast(pa.large_string()))

    @property
    def strings(self) -> list[Strings]:
        """The columns, with the rows so far."""
        self._keep()
        return [Strings(pa.chunked_array(part, pa.large_string())) for part in self._parts]

    def _keep(self) -> None:
        if self._rows:
            for part, column in zip(self._parts, zip(*self._rows, strict=True), strict=True):
                part.append(pa.array(column, pa.large_string()))
            self._rows.clear()


def rows_of(
    ids: Sequence[str], documents: Sequence[tuple[str, str]], wanted: Sequence[str]
) -> tuple[Strings, Documents]:  # fmt: skip
    """Ids and documents of those whose id is wanted, in the order of the corpus."""
    held, all_of = Strings(arrow_texts(ids)), Documents.of(documents)
    found = pc.is_in(held.arrow, pa.array(wanted, pa.large_string())).to_numpy()
    places = np.flatnonzero(found)
    return held.take(places), Documents(all_of.titles.take(places), all_of.texts.take(places))


def not_there(wanted: Iterable[str], ids: Sequence[str]) -> int:
    """How many of `wanted`, each counted as often as it comes, are none of `ids`."""
    column = pa.array(list(wanted), pa.large_string())
    return len(column) - int(pc.sum(pc.is_in(column, arrow_texts(ids))).as_py() or 0)

"""One collection as miners see it: queries, distinct passages, and what may never be a negative.

Never a negative of an example are: its positives, the positives of any example with the same normalised query, and
passages whose normalised text equals one of these. Passages that are equal after `normalise_text` count as one, the one
with the smallest id; so an example never gets the same text twice as a negative.

Texts and ids stay in Arrow, the rest is in NumPy: a passage costs its text and 24 bytes, and no Python object. Normal
forms are told apart by 128 bits of SHA-256 (`mixture.text.digests`).

Shapes: n examples, m distinct passages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.text.columns import normalise_texts
from mixture.text.digests import Digests, digests_of, numbered, text_digests
from mixture.text.form import Texts, normalise_text
from mixture.text.strings import Strings, arrow_texts

_AT_ONCE = 65_536  # texts whose normal forms are in memory
_FEW = 10_000  # texts that are normalised one by one before the compiled kernels are loaded, which takes a second
_SETS_KEPT = 64  # an answer to many equal queries is not made a set again for each of them

Lists: TypeAlias = Sequence[Sequence[str]] | pa.Array | pa.ChunkedArray
"""n lists of ids."""


class Rows(Sequence[NDArray[np.int64]]):
    """n rows of numbers of different length, one after the other in one array."""

    __slots__ = ("_ends", "_numbers")

    def __init__(self, numbers: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """numbers: all rows; ends: (n + 1,), where each begins and ends."""
        self._numbers, self._ends = numbers, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> NDArray[np.int64]: ...
    @overload
    def __getitem__(self, row: slice) -> list[NDArray[np.int64]]: ...
    def __getitem__(self, row: int | slice) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return self._numbers[self._ends[row] : self._ends[row + 1]]

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where each row begins and ends among all numbers, (n + 1,)."""
        return self._ends

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, number) of every number, as two arrays."""
        return np.repeat(np.arange(len(self)), np.diff(self._ends)), self._numbers

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """These rows, in this order."""
        lengths = np.diff(self._ends)[rows]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self._ends[rows] - ends[:-1], lengths) + np.arange(ends[-1])
        return Rows(self._numbers[places], ends)


class Blocked(Sequence[frozenset[int]]):
    """For each of n examples the passages that it must not get, as a set, made when it is asked for."""

    __slots__ = ("_groups", "_made", "_rows")

    def __init__(self, groups: NDArray[np.int64], rows: Rows) -> None:
        """groups: (n,), which of the rows is each example's."""
        self._groups, self._rows = groups, rows
        self._made: dict[int, frozenset[int]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, example: int) -> frozenset[int]: ...
    @overload
    def __getitem__(self, example: slice) -> Blocked: ...
    def __getitem__(self, example: int | slice) -> frozenset[int] | Blocked:
        if isinstance(example, slice):
            return Blocked(self._groups[example], self._rows)
        group = int(self._groups[example])
        if group not in self._made:
            if len(self._made) == _SETS_KEPT:
                del self._made[next(iter(self._made))]
            self._made[group] = frozenset(self._rows[group].tolist())
        return self._made[group]

    def __iter__(self) -> Iterator[frozenset[int]]:
        return (self[example] for example in range(len(self)))


@dataclass(frozen=True, slots=True)
class MiningPool:
    """One collection, checked and numbered: m distinct passages in the order of their ids, n examples.

    passage_ids, passages: the m passages that stand for all with their normalised text. positives: for each example
    the numbers of its own positives. blocked: for each example the numbers of all passages that it must not get.
    """

    example_ids: Strings
    queries: Strings
    passage_ids: Strings
    passages: Strings
    positives: Rows
    blocked: Blocked

    @classmethod
    def build(
        cls, example_ids: Texts, queries: Texts, positives: Lists, passage_ids: Texts, passages: Texts,
        wanted: Collection[str] | pa.Array | pa.ChunkedArray | None = None,
    ) -> MiningPool:  # fmt: skip
        """From n' example ids, n' queries, n' lists of positive passage ids, m' passage ids and m' passage texts.

        Columns of Arrow are taken as they are. wanted: the n examples to mine for, None for all; the others still say
        what answers an equal query
        """
        if not len(example_ids) == len(queries) == len(positives):
            raise UsageError(
                f"{len(example_ids)} example ids, {len(queries)} queries, {len(positives)} lists of positives: "
                "there must be equally many"
            )
        examples, asked = arrow_texts(example_ids, what="example ids"), arrow_texts(queries, what="queries")
        if repeated := len(examples) - len(pc.unique(examples)):
            raise UsageError(f"{repeated} example ids are repeated; make them unique")
        if len(passage_ids) != len(passages):
            raise UsageError(f"{len(passage_ids)} passage ids and {len(passages)} passages: must be equally many")
        ids, texts = arrow_texts(passage_ids, what="passage ids"), arrow_texts(passages, what="passages")
        order = _order(ids)
        in_order = Strings(texts, order)
        numbers, firsts = numbered(_normal_digests(in_order))
        own = _own(examples, positives, Strings(ids, order).arrow, numbers, len(firsts))
        groups, leaders = numbered(_normal_digests(Strings(asked)))
        rows, found = own.pairs()
        blocked = _distinct(groups[rows], found, len(leaders), len(firsts))
        chosen = Strings(ids, order).take(firsts), in_order.take(firsts)
        if len(firsts) == len(ids) and order is None:  # as they came
            chosen = Strings(ids), Strings(texts)
        if wanted is None:
            return cls(Strings(examples), Strings(asked), *chosen, own, Blocked(groups, blocked))
        names = wanted if isinstance(wanted, pa.Array | pa.ChunkedArray) else pa.array(list(wanted), pa.large_string())
        if isinstance(names, pa.ChunkedArray):
            names = names.combine_chunks()
        kept = np.flatnonzero(pc.is_in(examples, names.cast(pa.large_string())).to_numpy())
        return cls(Strings(examples, kept), Strings(asked, kept), *chosen, own.take(kept),
                   Blocked(groups[kept], blocked))  # fmt: skip


def _order(ids: pa.ChunkedArray) -> NDArray[np.int64] | None:
    """The rows in the order of their ids, None where they are in it; a repeated id is a UsageError."""
    order = None
    if not _ascending(ids):
        order = pc.sort_indices(ids).to_numpy().astype(np.int64)
        ids = Strings(ids, order).arrow
        if not _ascending(ids):
            again = pc.value_counts(ids)
            name = again.field("values")[pc.index(pc.greater(again.field("counts"), 1), True).as_py()].as_py()
            raise UsageError(f"passage id {name!r} occurs more than once; make the ids unique")
    return order


def _ascending(ids: pa.ChunkedArray) -> bool:
    return len(ids) < 2 or bool(pc.all(pc.less(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py())


def _normal_digests(texts: Strings) -> Digests:
    """The digest of the normal form of each of n texts, (n, 2)."""
    if len(texts) <= _FEW:
        return text_digests([normalise_text(text) for text in texts])
    parts = [text_digests(normalise_texts(part)) for part in texts.parts(_AT_ONCE)]
    return np.concatenate(parts) if parts else digests_of(b"")


def _own(
    examples: pa.ChunkedArray, positives: Lists, ids: pa.ChunkedArray, numbers: NDArray[np.int64], num_passages: int
) -> Rows:
    """The numbers of each example's positives, ascending and distinct.

    ids: (m',), in their order; numbers: (m',), what each is called
    """
    if not isinstance(positives, pa.Array | pa.ChunkedArray):
        positives = pa.array([list(row) for row in positives], pa.large_list(pa.large_string()))
    if isinstance(positives, pa.Array):
        positives = pa.chunked_array([positives])
    if not len(positives):
        return Rows(np.empty(0, np.int64), np.zeros(1, np.int64))
    named = pc.list_flatten(positives).cast(pa.large_string())
    rows = np.repeat(np.arange(len(positives)), pc.fill_null(pc.list_value_length(positives), 0).to_numpy())
    places = pc.index_in(named, ids.combine_chunks())
    if places.null_count:
        row = pc.index(pc.is_null(places), True).as_py()
        raise UsageError(
            f"example {examples[int(rows[row])].as_py()!r}: its positive {named[row].as_py()!r} is not among the "
            "passages"
        )
    return _distinct(rows, numbers[places.to_numpy()], len(positives), num_passages)


def _distinct(rows: NDArray[np.int64], numbers: NDArray[np.int64], num_rows: int, num_numbers: int) -> Rows:
    """Rows of ascending, distinct numbers from pairs of row and number in any order."""
    pairs = np.unique(rows * max(1, num_numbers) + numbers)
    rows, numbers = np.divmod(pairs, max(1, num_numbers))
    return Rows(numbers, np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))]))

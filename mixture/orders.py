"""The order of an epoch's rows in which no batch has a positive twice, as far as its batches allow. Pure functions.

`mixture.sampling` says what this is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple, overload

import numpy as np

Positives = Mapping[str, Sequence[Sequence[int] | np.ndarray]]

# How many batches are searched for a row to change places with.
TRIES = 32


class Lists(Sequence[np.ndarray]):
    """n lists of numbers as two arrays: millions of rows open at once, where a Python object a row takes minutes.

    values:  (m,) integers, list after list
    offsets: (n + 1,) integers, where each list begins and ends in `values`
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, row: slice) -> list[np.ndarray]: ...

    def __getitem__(self, row: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def firsts(self) -> np.ndarray:
        """The first number of each list, −1 where it is empty; (n,) int64."""
        starts = self.offsets[:-1]
        filled = starts < self.offsets[1:]
        if filled.all():
            return self.values[starts].astype(np.int64)
        found = np.full(len(self), -1, dtype=np.int64)
        found[filled] = self.values[starts[filled]]
        return found


class Cuts(NamedTuple):
    """Where batches cut an epoch: `head` rows complete a batch, batches of `width` follow, `tail` rows begin one."""

    size: int
    head: int
    width: int
    tail: int

    @property
    def whole(self) -> bool:
        return self.head + self.width + self.tail <= self.size

    def number(self, place: int) -> int:
        """Which batch a place falls in; the head is 0, even where it has no rows."""
        return (place - self.head) // self.width + 1

    def places(self, number: int) -> range:
        first = self.head + (number - 1) * self.width
        return range(max(first, 0), min(first + self.width, self.size))


def exchange(
    rows: np.ndarray, places: Iterable[int], cuts: Cuts, last: int, ids: Callable[[int], set[int]], before: set[int]
) -> None:
    """Exchanges rows that would repeat an id in their batch with the next that would not, in place.

    places: where rows may repeat one
    last:   the number of the last batch that rows may come from; after it comes the first
    ids:    what of a row must not come twice in a batch
    before: ids that batch 0, the head, holds already
    A row for which `TRIES` batches have none stays where it is.
    """
    batches: dict[int, Counter[int]] = {}
    hopeless: set[int] = set()

    def held(number: int) -> Counter[int]:
        if number not in batches:
            batches[number] = Counter(
                chain(before if number == 0 else (), *(ids(rows[p]) for p in cuts.places(number)))
            )
        return batches[number]

    for place in places:
        if len(batches) > 4 * TRIES:  # some memory, not the whole collection's
            batches.clear()
        number, row, own = cuts.number(place), rows[place], ids(rows[place])
        others = held(number)
        others.subtract(own)
        clashing = {i for i in own if others[i] > 0}
        if not clashing or not hopeless.isdisjoint(clashing):
            others.update(own)
            continue
        for other in islice(chain(range(number + 1, last + 1), range(number)), TRIES):
            there = held(other)
            if any(there[i] > 0 for i in own):
                continue
            found = next((p for p in cuts.places(other) if not any(others[i] > 0 for i in ids(rows[p]))), None)
            if found is not None:
                others.update(ids(rows[found]))
                there.subtract(ids(rows[found]))
                there.update(own)
                rows[place], rows[found] = rows[found], row
                break
        else:
            others.update(own)
            hopeless |= clashing


def labels(positives: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """One number a row, equal where the first positive is equal; −1 where no other row has it. (size,) int64."""
    if isinstance(positives, Lists):
        first = positives.firsts()
    else:
        numbers = (int(ids[0]) if len(ids) else -1 for ids in positives)
        first = np.fromiter(numbers, dtype=np.int64, count=len(positives))
    if not len(first) or first.min() < -1 or first.max() > 8 * len(first) + 1024:  # too sparse to count in an array
        first = np.unique(first, return_inverse=True)[1]
        return np.where(np.bincount(first)[first] > 1, first, -1) if len(first) else first
    shifted = first + 1
    counts = np.bincount(shifted)
    return np.where(counts[shifted] > 1, shifted, -1)


def shared(positives: Sequence[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where a positive of several rows is one of a row's: the rows and the positives, numbered, (m,) int64 each."""
    if isinstance(positives, Lists):
        values = positives.values[positives.offsets[0] : positives.offsets[-1]].astype(np.int64)
        lengths = np.diff(positives.offsets)
    else:
        values = np.fromiter((int(p) for ids in positives for p in ids), dtype=np.int64)
        lengths = np.array([len(ids) for ids in positives], dtype=np.int64)
    if len(values) and (values.min() < 0 or values.max() > 8 * len(values) + 1024):  # too sparse to count in an array
        values = np.unique(values, return_inverse=True)[1]
    several = np.bincount(values, minlength=1)[values] > 1
    return np.repeat(np.arange(len(lengths)), lengths)[several], values[several]


def clashes(rows: np.ndarray, owners: np.ndarray, shared: np.ndarray, cuts: Cuts) -> list[int]:
    """The places of rows that have a positive of an earlier row of their batch; `owners` and `shared`: `shared`."""
    if not len(shared):
        return []
    places = np.empty(len(rows), dtype=np.int64)
    places[rows] = np.arange(len(rows))
    places = places[owners]
    keys = cuts.number(places) * (shared.max() + 1) + shared
    ordered = np.sort(keys)
    twice = np.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]])
    keys, places = keys[twice], places[twice]
    order = np.lexsort((places, keys))
    keys, places = keys[order], places[order]
    return [int(p) for p in np.unique(places[1:][keys[1:] == keys[:-1]])]


def spread(rows: np.ndarray, labels: np.ndarray, batch_size: int) -> np.ndarray:
    """`rows` (a permutation) reordered so that rows of one label lie a batch or more apart where their number allows.

    Rows are laid out label by label in the random order in which labels first come, and dealt like cards to
    floor(n / batch_size) piles: neighbours of one label fall on different piles, which are then put behind each other.
    """
    piles = len(rows) // batch_size
    labels = labels[rows]
    shared = np.flatnonzero(labels >= 0)
    if piles < 2 or not len(shared):
        return rows
    # Where each row's label comes first; a row without a rival is a label of its own.
    places = np.arange(len(rows))
    first = places.copy()
    firsts = np.empty(labels.max() + 1, dtype=np.int64)
    firsts[labels[shared[::-1]]] = shared[::-1]  # of several values for one place NumPy keeps the last
    first[shared] = firsts[labels[shared]]
    # A stable sort by `first`: with the place packed into the number, NumPy sorts ten times as fast as with argsort.
    by_label = rows[np.sort(first * len(rows) + places) % len(rows)]
    dealt = np.full(-(-len(rows) // piles) * piles, -1)
    dealt[: len(rows)] = by_label
    in_piles = dealt.reshape(-1, piles).T.ravel()  # one pile behind the other
    return in_piles[in_piles >= 0]

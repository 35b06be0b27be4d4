"""BatchPlan: (mixture, batch size, seed, step) -> rows, as a pure function.

Everything is drawn from counter-based random numbers (Philox, Salmon et al. 2011), so that step 100,000 costs no more
than step 1, every rank computes the same global batch, and a plan can be printed before training.

How rows are chosen. A collection's rows form an endless stream: epoch after epoch, each a fresh permutation of all its
rows. A batch takes the stream's next rows, or all rows of a collection that has fewer. No row is twice in a batch:
where a batch spans the border of two epochs, the next rows of the second epoch that are not in it yet come first, and
those that they overtake come later in that epoch.

With `positives` given, no positive is twice in a batch either. An epoch's order spreads examples that share their
first positive over the whole epoch, and the border of two epochs is arranged as above. A row that would still repeat a
positive is left out of that batch and waits for the next epoch; the batch is shorter. That happens where a passage is
the positive of a large share of the rows or a second one of several, and in collections of fewer than two batches.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import overload

import numpy as np

from mixture.errors import UsageError

# How many batches behind the border of two epochs are looked through for rows that fit it.
NEAR = 4

Positives = Mapping[str, Sequence[Sequence[int] | np.ndarray]]


def generator(*key: int | str) -> np.random.Generator:
    """A Philox generator whose stream is a function of `key` alone, the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


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


class BatchPlan:
    """Which rows each step trains on.

    weights:    collection -> sampling probability, sum 1
    sizes:      collection -> number of rows
    batch_size: rows in a global batch, all ranks together
    positives:  collection -> for each row the ids of its positive passages; keeps equal positives apart

    Raises `UsageError` for weights that do not fit the sizes.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        sizes: Mapping[str, int],
        batch_size: int,
        seed: int,
        *,
        positives: Positives | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch size is {batch_size}; allowed: 1 or more")
        if set(weights) != set(sizes):
            raise UsageError(f"weights and sizes differ in: {', '.join(sorted(set(weights) ^ set(sizes)))}")
        if not abs(math.fsum(weights.values()) - 1.0) <= 1e-6 or min(weights.values()) < 0:
            raise UsageError("weights must be 0 or more and sum to 1")
        empty = sorted(name for name, size in sizes.items() if size < 1 and weights[name] > 0)
        if empty:
            raise UsageError(f"collections without rows: {', '.join(empty)}")
        odd = sorted(n for n in sizes if positives is not None and len(positives.get(n, ())) != sizes[n])
        if odd:
            raise UsageError(f"positives are not given for every row of: {', '.join(odd)}")
        self.collections: tuple[str, ...] = tuple(sorted(weights))
        self.batch_size = batch_size
        self.seed = seed
        self.weights = dict(weights)
        self._sizes = dict(sizes)
        self._bounds = np.cumsum([weights[name] for name in self.collections])
        self._uniform_bounds = np.arange(1, len(self.collections) + 1) / len(self.collections)
        self._positives = positives
        self._labels: dict[str, np.ndarray] = {}
        self._orders: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._drawn = np.empty(0, dtype=np.int64)
        self._counted_step, self._counted = 0, np.zeros(len(self.collections), dtype=np.int64)

    def batch(self, step: int) -> tuple[str, np.ndarray]:
        """The homogeneous batch of `step` (from 0): its collection, drawn by weight, and rows (≤ batch_size,)."""
        if step < 0:
            raise UsageError(f"step is {step}; allowed: 0 or more")
        if step >= len(self._drawn):
            # Draws are made in one stream; a longer one begins with the shorter one.
            count = max(step + 1, 2 * len(self._drawn), 1024)
            self._drawn = _pick(generator(self.seed, "collection").random(count), self._bounds)
        index = int(self._drawn[step])
        earlier = int(np.count_nonzero(self._drawn[:step] == index))
        name = self.collections[index]
        count = min(self.batch_size, self._sizes[name])
        return name, self._take(name, earlier * count, count)

    def mixed(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The mixed batch of `step` (tDRO): collection drawn uniformly for each example.

        Returns indices into `collections` (B,) and row indices (B,). Equal rows and positives are not kept apart: each
        example sees its own hard negatives only. A collection without rows is a `UsageError`.
        """
        if step < 0:
            raise UsageError(f"step is {step}; allowed: 0 or more")
        empty = sorted(name for name, size in self._sizes.items() if size < 1)
        if empty:
            raise UsageError(f"collections without rows: {', '.join(empty)}")
        now = self._mixed_groups(step * self.batch_size, self.batch_size)
        before = self._mixed_before(step)
        rows = np.empty(self.batch_size, dtype=np.int64)
        for index in np.unique(now):
            here = np.flatnonzero(now == index)
            rows[here] = self._stream(self.collections[index], int(before[index]), len(here), self._shuffled)
        return now, rows

    def _mixed_groups(self, start: int, count: int) -> np.ndarray:
        """Elements [start, start + count) of the endless stream of uniform draws, without drawing what is before."""
        random = generator(self.seed, "mixed")
        # Philox gives four numbers a counter.
        random.bit_generator.advance(start // 4)  # type: ignore[attr-defined]
        values = random.random(start % 4 + count)[start % 4 :]
        return _pick(values, self._uniform_bounds)

    def _mixed_before(self, step: int) -> np.ndarray:
        """How often each collection was drawn before `step`; steps in order cost one batch each."""
        if step < self._counted_step:
            self._counted_step, self._counted = 0, np.zeros_like(self._counted)
        place, end = self._counted_step * self.batch_size, step * self.batch_size
        while place < end:
            count = min(1_000_000, end - place)
            self._counted += np.bincount(self._mixed_groups(place, count), minlength=len(self._counted))
            place += count
        self._counted_step = step
        return self._counted

    def _take(self, name: str, start: int, count: int) -> np.ndarray:
        rows = self._stream(name, start, count, self._order)
        if self._positives is None:
            return rows
        kept = []
        seen: set[int] = set()
        for row in rows:
            ids = self._ids(name, row)
            if seen.isdisjoint(ids):
                kept.append(row)
                seen |= ids
        return np.asarray(kept, dtype=np.int64)

    def _stream(self, name: str, start: int, count: int, order: Callable[[str, int], np.ndarray]) -> np.ndarray:
        """Rows [start, start + count) of the collection's endless stream, with the `order` of each epoch."""
        size = self._sizes[name]
        parts = []
        while count > 0:
            epoch, offset = divmod(start, size)
            part = order(name, epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def _ids(self, name: str, row: int | np.integer) -> set[int]:
        """What no two rows of a batch may share: the row itself, and its positives; numbers below 0 are rows."""
        own = {-1 - int(row)}
        return own if self._positives is None else own.union(map(int, self._positives[name][int(row)]))

    def _order(self, name: str, epoch: int) -> np.ndarray:
        """The order of all rows in one epoch, (size,): `_shuffled`, with the border to the epoch before arranged."""
        key = (name, epoch)
        if key in self._orders:
            self._orders.move_to_end(key)
            return self._orders[key]
        size = self._sizes[name]
        count = min(self.batch_size, size)
        # Of this epoch's batches the first has so many rows of the one before, and the next epoch's so many of this.
        begun, left = epoch * size % count, (epoch + 1) * size % count
        rows = self._shuffled(name, epoch)
        if size < 2 * count:
            # Too small for two ends that are drawn each for itself: the ends of all epochs up to one without a rest
            # are of the same rows, as many of them as it takes.
            aligned = count // math.gcd(size, count)
            ends = generator(self.seed, "ends", name, epoch // aligned).permutation(size)
            rows = self._with_ends(name, rows, ends[:begun], ends[:left], count)
        elif begun:
            before = self._orders.get((name, epoch - 1))  # ends as its `_shuffled` does
            ended = (self._shuffled(name, epoch - 1) if before is None else before)[size - begun :]
            rows = self._with_border(name, rows, ended, size - left, count)
        self._orders[key] = rows
        # Two epochs of everything: what a batch at the border of two epochs needs.
        while sum(map(len, self._orders.values())) > 2 * sum(self._sizes.values()):
            self._orders.popitem(last=False)
        return rows

    def _shuffled(self, name: str, epoch: int) -> np.ndarray:
        rows = generator(self.seed, "order", name, epoch).permutation(self._sizes[name])
        if self._positives is None:
            return rows
        if name not in self._labels:
            self._labels[name] = _labels(self._positives[name])
        return _spread(rows, self._labels[name], self.batch_size)

    def _with_border(self, name: str, rows: np.ndarray, ended: np.ndarray, end: int, count: int) -> np.ndarray:
        """An epoch's order whose first rows go with `ended`, the last rows of the epoch before, into one batch of
        `count`. Each that does not is exchanged for the next that does, before the place `end`, if there is one.

        Where no positive is shared there is one: as end ≥ count, at least as many of the places between hold other rows
        than `ended` as places at the front hold those.
        """
        rows, head = rows.copy(), count - len(ended)
        taken: set[int] = set().union(*(self._ids(name, row) for row in ended))
        unfit = []
        for place in range(head):
            ids = self._ids(name, rows[place])
            if taken.isdisjoint(ids):
                taken |= ids
            else:
                unfit.append(place)
        later: dict[int, set[int]] = {}  # what the whole batches behind hold, of which only the first few are needed
        spare = list(range(head, min(end, head + NEAR * count)))
        for place in unfit:
            goes, still = self._ids(name, rows[place]), []
            for tried, other in enumerate(spare):
                comes = self._ids(name, rows[other])
                if not taken.isdisjoint(comes):
                    continue  # and never will be
                number = (other - head) // count
                if number not in later:
                    start = head + number * count
                    later[number] = set().union(*(self._ids(name, row) for row in rows[start : start + count]))
                if (later[number] - comes).isdisjoint(goes):
                    taken |= comes
                    later[number] = (later[number] - comes) | goes
                    rows[place], rows[other] = rows[other], rows[place]
                    still += spare[tried + 1 :]
                    break
                still.append(other)
            spare = still
        return rows

    def _with_ends(self, name: str, rows: np.ndarray, ended: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
        """An epoch's order that ends with the rows `ends`, and whose first rows go with `ended` into one batch."""
        last = np.isin(rows, ends)
        front, back = rows[~last], rows[last]
        if not len(ended):
            return np.concatenate([front, back])
        fits = ~np.isin(front, ended)
        taken: set[int] = set().union(*(self._ids(name, row) for row in ended))
        for place in np.flatnonzero(fits):
            ids = self._ids(name, front[place])
            fits[place] = taken.isdisjoint(ids)
            if fits[place]:
                taken |= ids
        chosen = np.flatnonzero(fits)[: count - len(ended)]
        others = np.setdiff1d(np.arange(len(front)), chosen)
        return np.concatenate([front[chosen], front[others], back])


def _pick(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The collection in whose part of [0, 1) each value falls; `bounds` are the parts' upper ends."""
    # A collection of weight 0 at the end must not catch a value above the rounded sum.
    last = int(np.flatnonzero(np.diff(bounds, prepend=0.0))[-1])
    return np.minimum(np.searchsorted(bounds, values, side="right"), last).astype(np.int64)


def _labels(positives: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
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


def _spread(rows: np.ndarray, labels: np.ndarray, batch_size: int) -> np.ndarray:
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


def draw_passages(choices: Sequence[Sequence[int]], count: int, key: tuple[int | str, ...]) -> list[list[int]]:
    """`count` passages for each example, drawn anew for each `key` (seed, purpose, step).

    Without repetition where there are enough, else all of them and the rest drawn again (as the tDRO release does).
    An example without choices gets an empty list.
    """
    random = generator(*key)
    result: list[list[int]] = []
    for options in choices:
        drawn: list[int] = []
        while options and len(drawn) < count:
            missing = count - len(drawn)
            order = random.permutation(len(options))[:missing]
            drawn.extend(int(options[i]) for i in order)
        result.append(drawn)
    return result

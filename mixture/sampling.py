"""BatchPlan: (mixture, batch size, seed, step) -> rows, as a pure function.

Everything is drawn from counter-based random numbers (Philox, Salmon et al. 2011), so that step 100,000 costs no more
than step 1, every rank computes the same global batch, and a plan can be printed before training.

How rows are chosen. A collection's rows form an endless stream: epoch after epoch, each a fresh permutation of all its
rows. A batch takes the stream's next rows. Of a collection with fewer rows than a batch it takes one whole epoch.

No batch has a row twice, and every epoch has every row once. Where a batch spans two epochs, a row of the new epoch
that the batch holds already changes places with the next row of that epoch which it does not hold. The rows of an
epoch's last, incomplete batch are not moved by that: they follow from the epoch's number alone, and an epoch's order
from its number and the one before. In a collection of fewer than two batches an epoch may have no whole batch between
two incomplete ones. Such epochs, one after another, take their last rows from one permutation, each time some more.

With `positives` given, no batch has a positive twice either. An epoch's order spreads examples that share their first
positive over the whole epoch, and a row that would still repeat a positive changes places with one of another batch,
so that both fit. Where none is found, the row is left out: its batch is shorter, and the row waits for the next epoch.
That cannot be helped where a passage is the positive of more rows than an epoch has batches, as any shared one is in a
collection of fewer than two. It happens now and then where one is of just as many, or rows have several shared ones,
since one exchange is tried, with rows of `orders.TRIES` batches. All other batches are full.

A plan may follow others, as the mixtures of a training in phases do: it begins at a later step, and a collection's
stream goes on behind the batches that they drew of it.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from mixture.errors import UsageError
from mixture.orders import Cuts, Positives, clashes, exchange, labels, shared, spread


def generator(*key: int | str) -> np.random.Generator:
    """A Philox generator whose stream is a function of `key` alone, the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


class BatchPlan:
    """Which rows each step trains on.

    weights:    collection -> sampling probability, sum 1
    sizes:      collection -> number of rows
    batch_size: rows in a global batch, all ranks together
    positives:  collection -> for each row the ids of its positive passages; keeps equal positives apart
    batch_sizes: collection -> rows in its homogeneous batches, where they are not `batch_size`
    first:      the step that it begins with; earlier ones are those of other plans
    before:     collection -> batches of its stream that these have drawn; 0 where it is not named
    shared_before: the same of its stream of mixed batches, in examples

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
        batch_sizes: Mapping[str, int] | None = None,
        first: int = 0,
        before: Mapping[str, int] | None = None,
        shared_before: Mapping[str, int] | None = None,
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
        self.first = first
        self._before = [(before or {}).get(name, 0) for name in self.collections]
        self._sizes = dict(sizes)
        self._bounds = np.cumsum([weights[name] for name in self.collections])
        self._uniform_bounds = np.arange(1, len(self.collections) + 1) / len(self.collections)
        self._positives = positives
        self._own_sizes = dict.fromkeys(sizes, batch_size) | dict(batch_sizes or {})
        self._widths = {name: min(self._own_sizes[name], size) for name, size in sizes.items()}
        self._labels: dict[str, np.ndarray] = {}
        self._shared: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._orders: OrderedDict[tuple[str, int, bool], np.ndarray] = OrderedDict()
        self._drawn = np.empty(0, dtype=np.int64)
        self._counted_step, self._counted = 0, np.zeros(len(self.collections), dtype=np.int64)
        self._shared_first = first, np.array([(shared_before or {}).get(name, 0) for name in self.collections])
        self._shared_counted = self._shared_first

    def batch(self, step: int) -> tuple[str, np.ndarray]:
        """The homogeneous batch of `step` (from `first`): its collection, drawn by weight, and rows (≤ batch_size,)."""
        if step < self.first:
            raise UsageError(f"step is {step}; allowed: {self.first} or more")
        index = int(self._draws(step + 1)[step])
        name = self.collections[index]
        count = self._widths[name]
        return name, self._without_repeats(name, self._stream(name, self._earlier(index, step) * count, count))

    def counts(self, step: int) -> dict[str, int]:
        """Batches of each collection's stream that are drawn before `step`, with those of the plans before."""
        return {name: self._earlier(index, step) for index, name in enumerate(self.collections)}

    def shared_counts(self, step: int) -> dict[str, int]:
        """The same of its stream of mixed batches (`shared`), in examples."""
        return dict(zip(self.collections, self._shared_before(step).tolist(), strict=True))

    def _earlier(self, index: int, step: int) -> int:
        draws = self._draws(step)[self.first : step]
        return self._before[index] + int(np.count_nonzero(draws == index))

    def _draws(self, end: int) -> np.ndarray:
        """The collection of each step by number, of `end` steps or more."""
        if end > len(self._drawn):
            # Draws are made in one stream; a longer one begins with the shorter one.
            count = max(end, 2 * len(self._drawn), 1024)
            self._drawn = _pick(generator(self.seed, "collection").random(count), self._bounds)
        return self._drawn

    def mixed(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The mixed batch of `step` (tDRO): collection drawn uniformly for each example.

        Returns indices into `collections` (B,) and row indices (B,). Equal positives are not kept apart: each example
        sees its own hard negatives only. A collection without rows is a `UsageError`. `first` and `before` are not of
        these batches.

        No row comes twice where the collection has as many as were drawn of it, else none more than once oftener than
        another. An epoch shows every row once as long as no batch draws more than a third of the collection; where one
        does, the next rows of the stream stand for those that it holds already, and come again.
        """
        if step < 0:
            raise UsageError(f"step is {step}; allowed: 0 or more")
        empty = sorted(name for name, size in self._sizes.items() if size < 1)
        if empty:
            raise UsageError(f"collections without rows: {', '.join(empty)}")
        now = self._mixed_groups(step * self.batch_size, self.batch_size)
        return now, self._rows_of(now, self._mixed_before(step))

    def shared(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of `step` that all collections share by their weights: indices into `collections` (B,), ascending,
        and rows (B,).

        Of a collection with weight w there are ⌊Bw⌋ or ⌈Bw⌉, Bw in the mean: systematic sampling (Madow 1949), whose
        one number is drawn for each step. Rows are as in `mixed`: equal positives are not kept apart.
        """
        if step < self.first:
            raise UsageError(f"step is {step}; allowed: {self.first} or more")
        now = np.repeat(np.arange(len(self.collections)), self._shares(step, 1)[0])
        return now, self._rows_of(now, self._shared_before(step))

    def _rows_of(self, groups: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Rows for the collections of a mixed batch, (B,), of which so many came `before`, (collections,)."""
        rows = np.empty(len(groups), dtype=np.int64)
        for index in np.unique(groups):
            here = np.flatnonzero(groups == index)
            rows[here] = self._drawn_mixed(self.collections[index], int(before[index]), len(here))
        return rows

    def _shares(self, first: int, steps: int) -> np.ndarray:
        """How many examples of each collection the steps from `first` on have, (steps, collections)."""
        ends = np.concatenate([[0.0], self._bounds[:-1] * self.batch_size, [self.batch_size]])
        passed = np.ceil(ends - self._numbers("shares", first, steps)[:, None])
        return np.diff(np.maximum(passed, 0)).astype(np.int64)

    def _shared_before(self, step: int) -> np.ndarray:
        """How many examples of each collection came before `step`; steps in order cost one batch each."""
        first, counts = self._shared_counted if step >= self._shared_counted[0] else self._shared_first
        while first < step:
            some = min(65_536, step - first)
            first, counts = first + some, counts + self._shares(first, some).sum(axis=0)
        self._shared_counted = first, counts
        return counts

    def _numbers(self, name: str, start: int, count: int) -> np.ndarray:
        """Elements [start, start + count) of an endless stream of numbers in [0, 1), without drawing what is before."""
        random = generator(self.seed, name)
        # Philox gives four numbers a counter.
        random.bit_generator.advance(start // 4)  # type: ignore[attr-defined]
        return random.random(start % 4 + count)[start % 4 :]

    def _mixed_groups(self, start: int, count: int) -> np.ndarray:
        """Elements [start, start + count) of the endless stream of uniform draws."""
        return _pick(self._numbers("mixed", start, count), self._uniform_bounds)

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

    def _drawn_mixed(self, name: str, start: int, count: int) -> np.ndarray:
        """`count` rows of a mixed batch, none twice before all have come: places [start, start + count) of the stream
        where that holds of them, else those and the next."""
        size = self._sizes[name]
        parts = []
        for place in range(0, count, size):
            wanted = min(size, count - place)
            rows = self._stream(name, start + place, wanted, mixed=True)
            if wanted > size // 3 + 1:
                rows = np.concatenate([rows, self._stream(name, start + place + wanted, 2 * size, mixed=True)])
                rows = rows[np.sort(np.unique(rows, return_index=True)[1])][:wanted]
            parts.append(rows)
        return np.concatenate(parts)

    def _without_repeats(self, name: str, rows: np.ndarray) -> np.ndarray:
        """`rows` but those that would repeat a positive."""
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

    def _ids(self, name: str, row: int) -> set[int]:
        """What a batch holds once only: the row's positives; where it has none, the row itself."""
        found = {int(p) for p in self._positives[name][row]} if self._positives is not None else set()
        return found or {-1 - int(row)}

    def _stream(self, name: str, start: int, count: int, *, mixed: bool = False) -> np.ndarray:
        """Rows [start, start + count) of the collection's endless stream, or of that of its mixed batches."""
        size = self._sizes[name]
        parts = []
        while count > 0:
            epoch, offset = divmod(start, size)
            part = self._order(name, epoch, mixed)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def _order(self, name: str, epoch: int, mixed: bool) -> np.ndarray:
        """The order of all rows in one epoch, (size,)."""
        key = (name, epoch, mixed)
        if key in self._orders:
            self._orders.move_to_end(key)
            return self._orders[key]
        rows, cuts = self._own_order(name, epoch), self._cuts(name, epoch, mixed)
        if epoch > 0 and cuts.head > 0 and not cuts.whole:
            # The last rows hold those of the epoch before: what is left for its batch has none of them.
            late = np.isin(rows, self._last(name, epoch, mixed))
            rows = np.concatenate([rows[~late], rows[late]])
        elif epoch > 0 and cuts.head > 0:
            ids = _itself if mixed else partial(self._ids, name)
            before = set().union(*map(ids, self._last(name, epoch - 1, mixed)))
            last = cuts.number(cuts.size - cuts.tail - cuts.width)
            exchange(rows, range(cuts.head), cuts, last, ids, before)
        self._orders[key] = rows
        # Two epochs of everything: what a batch at the border of two epochs needs.
        while sum(map(len, self._orders.values())) > 2 * sum(self._sizes.values()):
            self._orders.popitem(last=False)
        return rows

    def _last(self, name: str, epoch: int, mixed: bool) -> np.ndarray:
        """The rows of an epoch that its last, incomplete batch holds, (cuts.tail,) in no particular order."""
        cuts = self._cuts(name, epoch, mixed)
        if (name, epoch, mixed) in self._orders:
            return self._orders[name, epoch, mixed][cuts.size - cuts.tail :]
        while not self._cuts(name, epoch, mixed).whole:  # fewer steps back than a batch has rows
            epoch -= 1
        return self._own_order(name, epoch)[cuts.size - cuts.tail :]

    def _cuts(self, name: str, epoch: int, mixed: bool) -> Cuts:
        size = self._sizes[name]
        if mixed:
            # Where they cut is not known without counting all draws before, so they may cut anywhere.
            most = min(self.batch_size - 1, size // 3)
            return Cuts(size, most, max(most, 1), most)
        width = self._widths[name]
        return Cuts(size, -epoch * size % width, width, (epoch + 1) * size % width)

    def _own_order(self, name: str, epoch: int) -> np.ndarray:
        """An epoch's order before it looks at the epoch before, (size,)."""
        rows = generator(self.seed, "order", name, epoch).permutation(self._sizes[name])
        if self._positives is None:
            return rows
        if name not in self._labels:
            self._labels[name] = labels(self._positives[name])
            self._shared[name] = shared(self._positives[name])
        rows = spread(rows, self._labels[name], self._own_sizes[name])
        cuts = self._cuts(name, epoch, mixed=False)
        places = clashes(rows, *self._shared[name], cuts)
        exchange(rows, places, cuts, cuts.number(cuts.size - 1), partial(self._ids, name), set())
        return rows


def _itself(row: int) -> set[int]:
    return {int(row)}


def _pick(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The collection in whose part of [0, 1) each value falls; `bounds` are the parts' upper ends."""
    # A collection of weight 0 at the end must not catch a value above the rounded sum.
    last = int(np.flatnonzero(np.diff(bounds, prepend=0.0))[-1])
    return np.minimum(np.searchsorted(bounds, values, side="right"), last).astype(np.int64)


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

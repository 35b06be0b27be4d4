"""The search behind `near_duplicates`: pairs of distinct 64-bit values that differ in at most d bits.

Source: Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling" (WWW 2007), section 3. Choose d + 1
blocks of bits that do not overlap. Two values that differ in at most d bits agree on at least one whole block: for
each block, sort by it and compare only values that agree there. A pair counts for the first block that it agrees on.

Departs from the paper: a group of values that agree on a block is not compared at once when it is large, it is
searched in the same way on bits chosen anew. The bits of a set's blocks are those that split this set best (nearest to
half ones), dealt evenly to the blocks, so values that share most of their bits are no special case. Where splitting
would not save more comparisons than it costs, all pairs are compared: never more work than by brute force.

Shapes: n values, g groups, d + 1 blocks of `width` bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mixture.engine import in_threads
from mixture.text.kernels import compiled

Words: TypeAlias = NDArray[np.uint64]

LEAF = 2048
"""Sets up to this size are compared pair by pair: vector instructions make that cheaper than to sort them again."""

_MAX_WIDTH = 16  # bits of a block: 65,536 groups, whose counters fit the cache
_SMALL_GROUP = 32  # values that agree on a block if bits were random
_SAMPLE = 16_384  # values that choose the bits
_WORK = 2**26  # sum of squared group sizes in one task: some 5 ms
_BUFFER = 2**16  # pairs found before the buffer is emptied
_MOVE = 64  # comparisons that cost as much as to sort one value by one block
_OWN_TASK = 2**20  # a set larger than this is cut up in the calling thread, so that its parts run side by side


@dataclass(frozen=True, slots=True)
class _Set:
    """values: (n,) distinct, with bits in any order; rows: (n,) uint32, ascending; masks: blocks that must differ."""

    values: Words
    rows: NDArray[np.uint32]
    masks: Words


def _popcount_code(context: Any, value: Any) -> Any:
    def code(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), code


popcount: Any = intrinsic(_popcount_code)
"""The number of set bits of a uint64, as the processor's instruction."""


@compiled
def _plan(values: Words, blocks: int, largest: int, table: NDArray[np.uint64]) -> int:
    """Choose the bits of the blocks: fills `table` (8, 256), which `_permuted` uses; returns the width of a block.

    Permuted, block b is the bits b * width up to (b + 1) * width.
    """
    step = max(1, len(values) // _SAMPLE)
    ones = np.zeros(64, dtype=np.int64)
    sampled = 0
    for row in range(0, len(values), step):
        for bit in range(64):
            ones[bit] += np.int64(values[row] >> np.uint64(bit) & np.uint64(1))
        sampled += 1
    balance = np.minimum(ones, sampled - ones)
    order = np.argsort(-balance, kind="mergesort")
    width = max(1, min(largest, int((balance > 0).sum()) // blocks))
    target = np.empty(64, dtype=np.int64)
    for place in range(64):
        turn, block = place // blocks, place % blocks
        if turn < width:  # dealt forth and back, so that no block gets all the better bits
            target[order[place]] = (block if turn % 2 == 0 else blocks - 1 - block) * width + turn
        else:
            target[order[place]] = place
    for byte in range(8):
        table[byte, 0] = 0
        for number in range(1, 256):
            low = 0
            while number >> low & 1 == 0:
                low += 1
            table[byte, number] = table[byte, number & (number - 1)] | np.uint64(1) << np.uint64(target[8 * byte + low])
    return width


@compiled
def _permuted(values: Words, table: NDArray[np.uint64], out: Words) -> None:
    """Reorder the bits of each value."""
    for row in range(len(values)):
        value = values[row]
        word = np.uint64(0)
        for byte in range(8):
            word |= table[byte, value >> np.uint64(8 * byte) & np.uint64(255)]
        out[row] = word


@compiled
def _group_ends(values: Words, blocks: int, width: int, ends: NDArray[np.int64]) -> float:
    """Where the groups of each block end after sorting by it; fills `ends` (d + 1, 2**width).

    Returns the number of comparisons within all groups, counting each pair twice.
    """
    low = np.uint64((1 << width) - 1)
    ends[:] = 0
    for value in values:
        for block in range(blocks):
            ends[block, value >> np.uint64(block * width) & low] += 1
    work = 0.0
    for block in range(blocks):
        end = 0
        for group in range(1 << width):
            size = ends[block, group]
            work += float(size) * float(size)
            end += size
            ends[block, group] = end
    return work


@compiled
def _sort(
    values: Words, rows: NDArray[np.uint32], shift: int, ends: NDArray[np.int64], to: Words, to_rows: NDArray[np.uint32]
) -> None:
    """Stable counting sort by the block that starts at bit `shift`. ends: (2**width,), where its groups end."""
    low = np.uint64(len(ends) - 1)
    place = np.empty(len(ends), dtype=np.int64)
    place[0] = 0
    place[1:] = ends[:-1]
    for row in range(len(values)):
        group = values[row] >> np.uint64(shift) & low
        to[place[group]] = values[row]
        to_rows[place[group]] = rows[row]
        place[group] += 1


@compiled
def _any_near(value: np.uint64, others: Words, distance: int) -> bool:
    """Whether any of the others is within `distance` bits; written so that it becomes vector instructions."""
    negative = np.int64(0)
    for place in range(len(others)):
        negative |= np.int64(popcount(value ^ others[place])) - np.int64(distance) - 1
    return bool(negative < 0)


@compiled
def _compare(
    values: Words, rows: NDArray[np.uint32], masks: Words, bounds: NDArray[np.int64], split: int, distance: int,
    progress: NDArray[np.int64], out: Words,
) -> int:  # fmt: skip
    """Compare all pairs within each group bounds[g, 0]:bounds[g, 1] and write those found as row << 32 | other row.

    split: 0 to compare all with all, else only rows below `split` with rows from there on. Stops when `out` is nearly
    full and goes on from there when called again; progress: (2,) the group and the place in it, from (0, 0). Returns
    how many were found; all is done when progress[0] is the number of groups.
    """
    count = 0
    group, start = progress
    while group < len(bounds):
        begin, end = bounds[group, 0], bounds[group, 1]
        others = begin
        while split and others < end and rows[others] < split:
            others += 1
        for i in range(begin + start, others if split else end):
            first = others if split else i + 1
            if count + end - first > len(out):
                progress[0], progress[1] = group, i - begin
                return count
            value = values[i]
            if not _any_near(value, values[first:end], distance):
                continue
            for j in range(first, end):
                differ = value ^ values[j]
                if np.int64(popcount(differ)) <= distance:
                    wanted = True
                    for mask in masks:
                        wanted &= differ & mask != 0
                    out[count] = np.uint64(rows[i]) << np.uint64(32) | np.uint64(rows[j])
                    count += wanted
        group, start = group + 1, 0
    progress[0], progress[1] = group, 0
    return count


@dataclass(frozen=True, slots=True)
class _Search:
    """What stays the same during a search. split: see `_compare`."""

    distance: int
    split: int

    def compared(self, part: _Set, bounds: NDArray[np.int64]) -> Words:
        """The pairs within the given groups of the set."""
        longest = int((bounds[:, 1] - bounds[:, 0]).max())
        out = np.empty(_BUFFER + longest, dtype=np.uint64)
        progress = np.zeros(2, dtype=np.int64)
        found = []
        while progress[0] < len(bounds):
            count = _compare(part.values, part.rows, part.masks, bounds, self.split, self.distance, progress, out)
            found.append(out[:count].copy())
        return np.concatenate(found)

    def everything(self, part: _Set) -> Words:
        """All pairs of the set, in this thread."""
        return np.concatenate([np.empty(0, dtype=np.uint64), *(task() for task in self.tasks(part, own_task=0))])

    def tasks(self, part: _Set, *, own_task: int) -> Iterator[Callable[[], Words]]:
        """The search as calls to make, in any order; a group of up to `own_task` values is one call."""
        size, blocks = len(part.values), self.distance + 1
        table = np.empty((8, 256), dtype=np.uint64)
        wanted = max(1, min(_MAX_WIDTH, (size // _SMALL_GROUP).bit_length()))
        width = 0 if size <= LEAF else int(_plan(part.values, blocks, wanted, table))
        ends = np.empty((blocks, 1 << width), dtype=np.int64)
        permuted = np.empty_like(part.values)
        if width:
            _permuted(part.values, table, permuted)
        # `work` counts each pair twice. So much comparing and sorting must be less than comparing all.
        work = _group_ends(permuted, blocks, width, ends) if width else 0.0
        if width == 0 or work + 2.0 * _MOVE * blocks * size > float(size) ** 2:
            yield partial(self.compared, part, np.array([[0, size]]))
            return
        masks = np.empty_like(part.masks)
        _permuted(part.masks, table, masks)
        for block in range(blocks):
            group_set = _Set(np.empty_like(permuted), np.empty_like(part.rows), masks)
            _sort(permuted, part.rows, block * width, ends[block], group_set.values, group_set.rows)
            yield from self._group_tasks(group_set, ends[block], own_task)
            masks = np.append(masks, np.uint64(((1 << width) - 1) << (block * width)))

    def _group_tasks(self, part: _Set, ends: NDArray[np.int64], own_task: int) -> Iterator[Callable[[], Words]]:
        """The calls for the groups of a sorted set, which end at `ends`."""
        bounds = np.stack([np.append(0, ends[:-1]), ends], axis=1)
        sizes = bounds[:, 1] - bounds[:, 0]
        small = bounds[(sizes > 1) & (sizes <= LEAF)]
        work = np.cumsum((small[:, 1] - small[:, 0]) ** 2)
        cuts = np.searchsorted(work, np.arange(0, work[-1] if len(work) else 0, _WORK)[1:])
        for few in np.split(small, np.unique(cuts)):
            if len(few):
                yield partial(self.compared, part, few)
        for first, end in bounds[sizes > LEAF].tolist():
            group = _Set(part.values[first:end], part.rows[first:end], part.masks)
            if end - first > own_task:
                yield from self.tasks(group, own_task=own_task)
            else:
                yield partial(self.everything, group)


def search(values: Words, distance: int, *, split: int = 0) -> Iterator[Words]:
    """Every pair of values within `distance` bits (0 to 7), once, as packed words row << 32 | other row, row < other.

    values: shape (n,), uint64, n < 2**32; distinct, or, with `split`, distinct within values[:split] and within
    values[split:], and then only pairs between the two parts are found. Yields arrays of any length, in the same order
    each time. Memory: about 40 bytes a value, and the pairs that wait to be taken. Runs on `num_threads()` threads.
    """
    rows = np.arange(len(values), dtype=np.uint32)
    whole = _Set(values, rows, np.empty(0, dtype=np.uint64))
    tasks: Iterable[Callable[[], Words]] = _Search(distance, split).tasks(whole, own_task=_OWN_TASK)
    return in_threads(tasks)

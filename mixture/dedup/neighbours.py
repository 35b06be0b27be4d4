"""All pairs of 64-bit fingerprints within a few bits of each other.

Source: Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling" (WWW 2007), section 3. Cut the 64 bits
into more blocks than the distance d. Two fingerprints that differ in at most d bits differ in at most d blocks, so
they are equal in all the others: for every choice of blocks but d, sort by those blocks and compare only fingerprints
that agree there. Exact: every pair is in at least one such table, and popcount verifies it.

Shapes: n, m fingerprints on each side; p pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixture.errors import MixtureError, UsageError

MAX_DISTANCE = 7
MAX_PAIRS = 2**28
"""More pairs than this (4 GiB) are refused: so many equal fingerprints should be collapsed before."""

_CANDIDATES = 2**21  # compared at a time: bounds the memory to about 100 MB
_MAX_BLOCKS = 12

Fingerprints = NDArray[np.uint64]
Pairs = NDArray[np.int64]


def _checked(fingerprints: ArrayLike, distance: int) -> Fingerprints:
    values = np.asarray(fingerprints)
    if values.size == 0 and values.ndim == 1:
        values = values.astype(np.uint64)
    if values.dtype != np.uint64 or values.ndim != 1:
        raise UsageError(
            f"fingerprints: expected a one-dimensional uint64 array, got {values.dtype} with shape {values.shape}"
        )
    if isinstance(distance, bool) or not isinstance(distance, int | np.integer) or not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"distance {distance!r}: allowed are the whole numbers 0 to {MAX_DISTANCE}")
    return values


def _edges(blocks: int) -> list[int]:
    """Where the blocks begin and end, highest bit first; sizes differ by at most one bit."""
    return [64 * block // blocks for block in range(blocks + 1)]


def _num_blocks(rows: float, distance: int) -> int:
    """How many blocks to cut into: more blocks mean longer keys (fewer false candidates) but more tables to sort.

    `rows` is the geometric mean of both sides' sizes. Costs in units of one candidate comparison; that sorting and
    looking up one row costs about 15 of them was measured, and its exact value hardly matters.
    """

    def cost(blocks: int) -> float:
        key_bits = 64 * (blocks - distance) / blocks
        return comb(blocks, distance) * (15 * rows + rows * rows / 2**key_bits)

    return min(range(distance + 1, max(_MAX_BLOCKS, distance + 1) + 1), key=cost)


def _ranges(first: NDArray[np.int64], last: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each row i the numbers first[i]..last[i]-1, as (i, number) arrays of bounded length."""
    counts = last - first
    rows = np.flatnonzero(counts > 0)
    total = np.cumsum(counts[rows])
    begin = 0
    while begin < len(rows):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + _CANDIDATES, side="right")))
        part = rows[begin:end]
        lengths = counts[part]
        left = np.repeat(part, lengths)
        within = np.arange(len(left)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield left, first[left] + within
        begin = end


def _table(
    left: Fingerprints, right: Fingerprints, masks: list[np.uint64], chosen: tuple[int, ...], distance: int, same: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The pairs that agree in the `chosen` blocks, are within `distance`, and belong to no earlier table."""
    key = np.bitwise_or.reduce([masks[block] for block in chosen], initial=np.uint64(0))
    left_order = np.argsort(left & key)
    left_keys = (left & key)[left_order]
    if same:
        right_order, right_keys = left_order, left_keys
        first = np.arange(1, len(left) + 1)
    else:
        right_order = np.argsort(right & key)
        right_keys = (right & key)[right_order]
        first = np.searchsorted(right_keys, left_keys, side="left")
    last = np.searchsorted(right_keys, left_keys, side="right")
    left_sorted, right_sorted = left[left_order], right[right_order]
    # A pair agrees in many choices of blocks; it belongs to the table of its first agreeing blocks.
    skipped = [masks[block] for block in range(max(chosen, default=0)) if block not in chosen]
    for i, j in _ranges(first, last):
        differ = left_sorted[i] ^ right_sorted[j]
        keep = np.bitwise_count(differ) <= distance
        i, j, differ = i[keep], j[keep], differ[keep]
        for mask in skipped:
            keep = (differ & mask) != 0
            i, j, differ = i[keep], j[keep], differ[keep]
        yield left_order[i], right_order[j]


def _distinct_pairs(left: Fingerprints, right: Fingerprints, distance: int, same: bool) -> Pairs:
    """Pairs between two sets of distinct fingerprints, each pair once, unordered. Shape (p, 2)."""
    if len(left) == 0 or len(right) == 0:
        return np.empty((0, 2), dtype=np.int64)
    blocks = _num_blocks(float(len(left) * len(right)) ** 0.5, distance)
    edges = _edges(blocks)
    masks = [
        np.uint64(((1 << (64 - edges[block])) - 1) ^ ((1 << (64 - edges[block + 1])) - 1)) for block in range(blocks)
    ]
    found: list[Pairs] = []
    for chosen in combinations(range(blocks), blocks - distance):
        for i, j in _table(left, right, masks, chosen, distance, same):
            if len(i):
                found.append(np.stack([i, j], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


class _Groups:
    """Equal fingerprints as one: `values` distinct and sorted, and which rows have each of them."""

    def __init__(self, fingerprints: Fingerprints) -> None:
        order = np.argsort(fingerprints, kind="stable")
        ordered = fingerprints[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
        self.rows = order
        self.values = ordered[starts]
        self.starts = starts
        self.sizes = np.diff(np.append(starts, len(ordered)))


def _expand(pairs: Pairs, left: _Groups, right: _Groups) -> Pairs:
    """Pairs of groups to all pairs of their rows."""
    i, j = pairs[:, 0], pairs[:, 1]
    sizes = left.sizes[i] * right.sizes[j]
    _refuse_flood(int(sizes.sum()))
    which = np.repeat(np.arange(len(pairs)), sizes)
    within = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = right.sizes[j][which]
    return np.stack(
        [left.rows[left.starts[i][which] + within // width], right.rows[right.starts[j][which] + within % width]],
        axis=1,
    )


def _refuse_flood(pairs: int) -> None:
    if pairs > MAX_PAIRS:
        raise MixtureError(
            f"{pairs:,} pairs of near-equal fingerprints, more than the {MAX_PAIRS:,} that are listed at once; "
            "collapse equal texts first (find_duplicates does) or lower the distance"
        )


def _sorted(pairs: Pairs) -> Pairs:
    return np.ascontiguousarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


def near_duplicates(fingerprints: ArrayLike, distance: int) -> Pairs:
    """Every pair i < j of rows whose fingerprints differ in at most `distance` bits; none missing, none twice.

    fingerprints: shape (n,), dtype uint64. distance: 0 to 7 (UsageError otherwise). Returns shape (p, 2), dtype int64,
    sorted by i, then j. More than `MAX_PAIRS` pairs are a MixtureError.

    >>> near_duplicates(np.array([0, 255, 1, 0], dtype=np.uint64), 1)
    array([[0, 2],
           [0, 3],
           [2, 3]])
    """
    groups = _Groups(_checked(fingerprints, distance))
    between = _distinct_pairs(groups.values, groups.values, int(distance), same=True)
    inner = groups.sizes * (groups.sizes - 1) // 2
    _refuse_flood(int(inner.sum()) + int((groups.sizes[between[:, 0]] * groups.sizes[between[:, 1]]).sum()))
    equal = [np.stack(np.triu_indices(size, k=1), axis=1) for size in groups.sizes[inner > 0]]
    within = [groups.rows[start + pair] for start, pair in zip(groups.starts[inner > 0], equal, strict=True)]
    pairs = np.concatenate([_expand(between, groups, groups), *within]).astype(np.int64, copy=False)
    return _sorted(np.sort(pairs, axis=1))


def cross_pairs(left: ArrayLike, right: ArrayLike, distance: int) -> Pairs:
    """Every pair (row of left, row of right) whose fingerprints differ in at most `distance` bits.

    left: shape (n,), right: shape (m,), both uint64. distance: 0 to 7 (UsageError otherwise). Returns shape (p, 2),
    dtype int64, sorted by the left row, then the right one. More than `MAX_PAIRS` pairs are a MixtureError.

    >>> cross_pairs(np.array([0, 8], dtype=np.uint64), np.array([1, 9, 15], dtype=np.uint64), 1)
    array([[0, 0],
           [1, 1]])
    """
    sides = _Groups(_checked(left, distance)), _Groups(_checked(right, distance))
    pairs = _distinct_pairs(sides[0].values, sides[1].values, int(distance), same=False)
    return _sorted(_expand(pairs, *sides).astype(np.int64, copy=False))

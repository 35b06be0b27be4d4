"""All pairs of 64-bit fingerprints within a few bits of each other; none missing. The search itself: `blocks`.

Equal fingerprints are searched as one and come back only in the result, so a million equal ones cost no search.

Shapes: n, m fingerprints on each side; u distinct ones; p pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixture.dedup.blocks import search
from mixture.dedup.links import Links, Rows
from mixture.errors import MixtureError, UsageError
from mixture.text.kernels import compiled

MAX_DISTANCE = 7
MAX_PAIRS = 2**28
"""More pairs than this (4 GiB) are not listed: `near_duplicate_groups` needs no list."""

_ACCEPT_ROWS = 2**20  # pairs that `accept` gets at a time

Fingerprints: TypeAlias = NDArray[np.uint64]
Pairs: TypeAlias = NDArray[np.int64]
Accept: TypeAlias = Callable[[Pairs], NDArray[np.bool_]]


def checked_distance(distance: int) -> int:
    """The distance if it is a whole number from 0 to 7; otherwise a UsageError."""
    if isinstance(distance, bool) or not isinstance(distance, int | np.integer) or not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"`distance` is {distance!r}; allowed: whole numbers from 0 to {MAX_DISTANCE}")
    return int(distance)


def _checked(fingerprints: ArrayLike, distance: int) -> Fingerprints:
    values = np.asarray(fingerprints)
    if values.size == 0 and values.ndim == 1:
        values = values.astype(np.uint64)
    if values.dtype != np.uint64 or values.ndim != 1:
        raise UsageError(
            f"fingerprints: expected a one-dimensional uint64 array, got {values.dtype} with shape {values.shape}"
        )
    checked_distance(distance)
    return values


class Distinct:
    """Equal fingerprints as one: `values` (u,) ascending, and rows[starts[k] : starts[k + 1]] have values[k].

    rows: (n,), starts: (u + 1,), both int64; sizes: (u,), how many rows each value has.
    """

    def __init__(self, fingerprints: Fingerprints) -> None:
        self.rows = np.argsort(fingerprints)
        ordered = fingerprints[self.rows]
        first = np.flatnonzero(np.concatenate([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]]))
        self.values = ordered[first]
        self.starts = np.append(first, len(ordered))
        self.sizes = np.diff(self.starts)


def _refuse_flood(pairs: int) -> None:
    if pairs > MAX_PAIRS:
        raise MixtureError(
            f"more than {MAX_PAIRS:,} pairs of near-equal fingerprints; collapse equal texts first (find_duplicates "
            "does), lower the distance, or ask for near_duplicate_groups"
        )


@compiled
def _expand(
    found: Fingerprints, left_rows: Rows, left_starts: Rows, right_rows: Rows, right_starts: Rows, ordered: bool,
    out: Fingerprints,
) -> int:  # fmt: skip
    """Turn packed pairs of distinct values into packed pairs of rows, in `out`; returns how many.

    ordered: put the smaller row of each pair first.
    """
    count = 0
    for word in found:
        a, b = np.int64(word >> np.uint64(32)), np.int64(word & np.uint64(0xFFFFFFFF))
        for left in left_rows[left_starts[a] : left_starts[a + 1]]:
            for right in right_rows[right_starts[b] : right_starts[b + 1]]:
                first, second = (right, left) if ordered and right < left else (left, right)
                out[count] = np.uint64(first) << np.uint64(32) | np.uint64(second)
                count += 1
    return count


@compiled
def _equal_pairs(rows: Rows, starts: Rows, out: Fingerprints) -> int:
    """Write the packed pairs of rows with equal values to `out`; returns how many."""
    count = 0
    for value in range(len(starts) - 1):
        for i in range(starts[value], starts[value + 1]):
            for j in range(i + 1, starts[value + 1]):
                first, second = min(rows[i], rows[j]), max(rows[i], rows[j])
                out[count] = np.uint64(first) << np.uint64(32) | np.uint64(second)
                count += 1
    return count


def _sizes(found: Fingerprints, left: Distinct, right: Distinct) -> int:
    """How many pairs of rows these pairs of distinct values stand for."""
    return int((left.sizes[found >> np.uint64(32)] * right.sizes[found & np.uint64(0xFFFFFFFF)]).sum())


def _unpacked(packed: Fingerprints) -> Pairs:
    out = np.empty((len(packed), 2), dtype=np.int64)
    out[:, 0] = packed >> np.uint64(32)
    out[:, 1] = packed & np.uint64(0xFFFFFFFF)
    return out


def listed(parts: Iterable[Fingerprints], left: Distinct, right: Distinct, *, same: bool) -> Pairs:
    """All pairs of rows, in ascending order, from the pairs of distinct values; shape (p, 2).

    parts: packed pairs, number in left.values << 32 | number in right.values, each once. same: left and right are one
    set; a pair has the smaller row first then, and rows of equal value are pairs too. More than `MAX_PAIRS` are a
    MixtureError.
    """
    total = int((left.sizes * (left.sizes - 1) // 2).sum()) if same else 0
    _refuse_flood(total)
    found: list[Fingerprints] = []
    for part in parts:
        total += _sizes(part, left, right)
        _refuse_flood(total)
        found.append(part)
    packed = np.empty(total, dtype=np.uint64)
    count = _equal_pairs(left.rows, left.starts, packed) if same else 0
    while found:
        part = found.pop()
        count += _expand(part, left.rows, left.starts, right.rows, right.starts, same, packed[count:])
    packed.sort()
    return _unpacked(packed)


def near_duplicates(fingerprints: ArrayLike, distance: int) -> Pairs:
    """Every pair i < j of rows whose fingerprints differ in at most `distance` bits; none missing, none twice.

    fingerprints: shape (n,), dtype uint64. distance: 0 to 7 (UsageError otherwise). Returns shape (p, 2), dtype int64,
    sorted by i, then j. m equal fingerprints are m * (m - 1) / 2 pairs; more than `MAX_PAIRS` are a MixtureError.

    >>> near_duplicates(np.array([0, 255, 1, 0], dtype=np.uint64), 1)
    array([[0, 2],
           [0, 3],
           [2, 3]])
    """
    distinct = Distinct(_checked(fingerprints, distance))
    return listed(search(distinct.values, int(distance)), distinct, distinct, same=True)


def cross_pairs(left: ArrayLike, right: ArrayLike, distance: int) -> Pairs:
    """Every pair (row of left, row of right) whose fingerprints differ in at most `distance` bits.

    left: shape (n,), right: shape (m,), both uint64. distance: 0 to 7 (UsageError otherwise). Returns shape (p, 2),
    dtype int64, sorted by the left row, then the right one. More than `MAX_PAIRS` pairs are a MixtureError.

    >>> cross_pairs(np.array([0, 8], dtype=np.uint64), np.array([1, 9, 15], dtype=np.uint64), 1)
    array([[0, 0],
           [1, 1]])
    """
    first, second = Distinct(_checked(left, distance)), Distinct(_checked(right, distance))
    split = len(first.values)
    if not split or not len(second.values):
        return np.empty((0, 2), dtype=np.int64)
    parts = search(np.concatenate([first.values, second.values]), int(distance), split=split)
    return listed((part - np.uint64(split) for part in parts), first, second, same=False)


def _link_accepted(links: Links, packed: Fingerprints, accept: Accept) -> None:
    for start in range(0, len(packed), _ACCEPT_ROWS):
        pairs = _unpacked(packed[start : start + _ACCEPT_ROWS])
        pairs = pairs[links.apart(pairs[:, 0], pairs[:, 1])]
        if len(pairs):
            pairs = pairs[accept(pairs)]
            links.join(pairs[:, 0], pairs[:, 1])


def near_duplicate_groups(fingerprints: ArrayLike, distance: int, accept: Accept | None = None) -> NDArray[np.int64]:
    """Which rows hang together through near-equal fingerprints: for each row the smallest row of its group.

    The connected components of the pairs that `near_duplicates` lists, without listing them: any number of equal
    fingerprints costs no more than their sorting. fingerprints: shape (n,), uint64. distance: 0 to 7 (UsageError
    otherwise). Returns shape (n,), dtype int64.

    accept: says which pairs of rows, shape (p, 2), i < j, count; returns (p,) bool. It is asked in parts of about a
    million, in a fixed order, and not about pairs that are already in one group. Equal fingerprints are asked about
    too, so collapse equal texts before; more than `MAX_PAIRS` such pairs are a MixtureError.

    >>> near_duplicate_groups(np.array([7, 0, 255, 1, 3, 255], dtype=np.uint64), 1)
    array([0, 0, 2, 0, 0, 2])
    """
    distinct = Distinct(_checked(fingerprints, distance))
    first = np.arange(len(distinct.rows), dtype=np.int64)
    smallest = np.minimum.reduceat(distinct.rows, distinct.starts[:-1]) if len(first) else first
    if accept is None:
        first[distinct.rows] = np.repeat(smallest, distinct.sizes)
    links = Links(first)
    if accept is not None:
        equal = int((distinct.sizes * (distinct.sizes - 1) // 2).sum())
        _refuse_flood(equal)
        packed = np.empty(equal, dtype=np.uint64)
        _equal_pairs(distinct.rows, distinct.starts, packed)
        _link_accepted(links, packed, accept)
    for found in search(distinct.values, int(distance)):
        if accept is None:
            links.join(smallest[found >> np.uint64(32)], smallest[found & np.uint64(0xFFFFFFFF)])
            continue
        total = _sizes(found, distinct, distinct)
        _refuse_flood(total)
        packed = np.empty(total, dtype=np.uint64)
        _expand(found, distinct.rows, distinct.starts, distinct.rows, distinct.starts, True, packed)
        _link_accepted(links, packed, accept)
    return links.groups()


def joined(group: Rows, parts: Iterable[Fingerprints], accept: Accept | None = None) -> Rows:
    """Groups, for each row the smallest row of its group, joined by pairs that are packed as i << 32 | j.

    accept: which pairs of rows, shape (p, 2), count; it is not asked about pairs of one group. Returns (n,).
    """
    links = Links(group.copy())
    for packed in parts:
        if accept is None:
            pairs = _unpacked(packed)
            links.join(pairs[:, 0], pairs[:, 1])
        else:
            _link_accepted(links, packed, accept)
    return links.groups()

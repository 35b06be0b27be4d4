"""A second look at the pairs that SimHash proposes.

A fingerprint is a sketch: within 4 to 7 bits, texts of one template ("what is the … of the …") meet that share little
else. The distinct n-grams of both texts decide: their Jaccard similarity must reach a threshold. For duplicates the
numbers must agree too, because "… in 1914" and "… in 1917" are different questions however similar they look.
What this cannot see is a changed word in a long text ("did", "did not").

Shapes: n texts, p pairs.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixture.dedup.simhash import chained, gram_hashes, text_hash
from mixture.engine import in_threads
from mixture.errors import UsageError
from mixture.text.columns import DIGIT, Tables, normal_codes, tables
from mixture.text.form import Column, Texts, one_column
from mixture.text.kernels import compiled

_PART = 8192  # pairs in one task


def checked_threshold(verify: float | None) -> float | None:
    """The least similarity if it is None (no second look) or above 0 to 1; otherwise a UsageError."""
    if verify is None or is_share(verify):
        return verify
    raise UsageError(f"`verify` is {verify!r}; allowed: above 0 to 1, or none")


def is_share(value: object) -> bool:
    """Whether it is a number above 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


@compiled
def _numbers(codes: NDArray[np.uint32], count: int, t: Tables) -> np.uint64:
    """A hash of the multiset of numbers (runs of digits), whatever their order."""
    total = run = np.uint64(0)
    inside = False
    for index in range(count):
        if t.kind[codes[index]] & DIGIT:
            run = chained(run if inside else np.uint64(1), codes[index])
            inside = True
        elif inside:
            total += run
            inside = False
    return total + run if inside else total


@compiled
def _overlap(
    left: NDArray[np.uint64], right: NDArray[np.uint64], keys: NDArray[np.uint64], sides: NDArray[np.uint8]
) -> float:
    """Jaccard similarity of two multisets of hashes, taken as sets.

    keys, sides: an open hash table; its size is a power of two, more than the hashes. `sides` notes who has a key.
    """
    sides[:] = 0
    last = np.uint64(len(keys) - 1)
    distinct = common = 0
    for side, grams in ((1, left), (2, right)):
        for gram in grams:
            slot = gram & last
            while sides[slot] != 0 and keys[slot] != gram:
                slot = (slot + np.uint64(1)) & last
            if sides[slot] == 0:
                keys[slot] = gram
                distinct += 1
            elif side == 2 and sides[slot] == 1:
                common += 1
            sides[slot] |= side
    return common / distinct


@compiled
def _compare(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], pairs: NDArray[np.int64], t: Tables,
    similarity: NDArray[np.float64], same_numbers: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Fill in, for each pair, the Jaccard similarity of its n-grams and whether its numbers agree."""
    longest = 1
    for pair in range(len(pairs)):
        for row in pairs[pair]:
            longest = max(longest, 6 * (offsets[row + 1] - offsets[row]))
    codes = np.empty(longest, dtype=np.uint32)
    grams = np.empty((2, longest), dtype=np.uint64)
    sizes, numbers = np.empty(2, dtype=np.int64), np.empty(2, dtype=np.uint64)
    keys, sides = np.empty(1024, dtype=np.uint64), np.empty(1024, dtype=np.uint8)
    for pair in range(len(pairs)):
        for side in range(2):
            row = pairs[pair, side]
            if pair and row == pairs[pair - 1, side]:  # of one text and many others it is read once
                continue
            count = normal_codes(data, offsets[row], offsets[row + 1], t, codes)
            sizes[side] = gram_hashes(codes, count, t, grams[side])
            if sizes[side] == 0:  # no n-gram: the text itself is the only element
                grams[side, 0] = text_hash(codes, count)
                sizes[side] = 1
            numbers[side] = _numbers(codes, count, t)
        slots = 64
        while slots < 2 * (sizes[0] + sizes[1]):
            slots *= 2
        if slots > len(keys):
            keys, sides = np.empty(slots, dtype=np.uint64), np.empty(slots, dtype=np.uint8)
        similarity[pair] = _overlap(grams[0, : sizes[0]], grams[1, : sizes[1]], keys[:slots], sides[:slots])
        same_numbers[pair] = numbers[0] == numbers[1]


def _compared(column: Column, pairs: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    similarity, same_numbers = np.empty(len(pairs)), np.empty(len(pairs), dtype=np.bool_)
    _compare(*column, pairs, tables(), similarity, same_numbers)
    return similarity, same_numbers


class Verifier:
    """Says whether two of the given texts are similar enough. Reads them where they are and keeps nothing.

    texts: n strings, a sequence of str or an Arrow string array (normalised or not: it makes no difference).
    threshold: least Jaccard similarity of the n-grams of the normal forms, above 0 to 1, or None: every pair passes.
    same_numbers: also ask for the same numbers, in any order. A wrong value is a UsageError.
    """

    def __init__(self, texts: Texts, threshold: float | None, *, same_numbers: bool) -> None:
        self._column = one_column(texts)
        self._threshold = checked_threshold(threshold)
        self._same_numbers = same_numbers

    def _compared(self, pairs: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        rows = np.ascontiguousarray(np.asarray(pairs, dtype=np.int64).reshape(-1, 2))
        num_texts = len(self._column[0]) - 1
        if rows.size and not 0 <= rows.min() <= rows.max() < num_texts:
            raise UsageError(f"pairs: rows {rows.min()} to {rows.max()}, allowed are 0 to {num_texts - 1}")
        parts = [rows[start : start + _PART] for start in range(0, len(rows), _PART)] or [rows]
        found = list(in_threads(partial(_compared, self._column, part) for part in parts))
        return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])

    def similarities(self, pairs: ArrayLike) -> NDArray[np.float64]:
        """Jaccard similarity of the n-grams of each pair of rows. pairs: (p, 2) whole numbers; returns (p,), 0 to 1."""
        return self._compared(pairs)[0]

    def accept_pairs(self, pairs: ArrayLike) -> NDArray[np.bool_]:
        """Which pairs of rows pass. pairs: (p, 2) whole numbers; returns (p,). Computed on all cores."""
        if self._threshold is None:
            return np.ones(len(np.asarray(pairs).reshape(-1, 2)), dtype=np.bool_)
        similarity, same_numbers = self._compared(pairs)
        passed = similarity >= self._threshold
        return passed & same_numbers if self._same_numbers else passed

    def accepts(self, first: int, second: int) -> bool:
        """True when the pair passes. For one pair at a time; `accept_pairs` is much faster for many."""
        return bool(self.accept_pairs([[first, second]])[0])

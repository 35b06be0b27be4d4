"""A second look at the pairs that SimHash proposes.

A fingerprint is a sketch: within 4 to 7 bits, texts of one template ("what is the … of the …") meet that share little
else. The distinct n-grams of both texts decide: their Jaccard similarity must reach a threshold. For duplicates the
numbers must agree too, because "… in 1914" and "… in 1917" are different questions however similar they look.
What this cannot see is a changed word in a long text ("did", "did not").
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from mixture.dedup.simhash import gram_set
from mixture.errors import UsageError

_NUMBER = re.compile(r"\d+")


def checked_threshold(verify: float | None) -> float | None:
    """The threshold if it is None or from 0 to 1; otherwise a UsageError."""
    if verify is None or (isinstance(verify, int | float) and 0 <= verify <= 1):
        return verify
    raise UsageError(f"verify {verify!r}: allowed are None (no second look) and 0 to 1 (least Jaccard similarity)")


class Verifier:
    """Says whether two of the given normalised texts are similar enough. Keeps the n-grams of texts it has seen."""

    def __init__(self, texts: list[str], threshold: float | None, *, same_numbers: bool) -> None:
        self._texts = texts
        self._threshold = checked_threshold(threshold)
        self._same_numbers = same_numbers
        self._grams: dict[int, NDArray[np.uint64]] = {}

    def _gram_set(self, index: int) -> NDArray[np.uint64]:
        if index not in self._grams:
            self._grams[index] = gram_set(self._texts[index])
        return self._grams[index]

    def accepts(self, first: int, second: int) -> bool:
        """True when the pair passes; with threshold None every pair does."""
        if self._threshold is None or self._texts[first] == self._texts[second]:
            return True
        if self._same_numbers:
            numbers = (sorted(_NUMBER.findall(self._texts[row])) for row in (first, second))
            if next(numbers) != next(numbers):
                return False
        a, b = self._gram_set(first), self._gram_set(second)
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common >= self._threshold * (len(a) + len(b) - common)

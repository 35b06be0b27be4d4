"""Which of many vectors hang together by their cosines: exact, block against block, in bounded memory.

A tile of float32 products says of nearly every pair on which side of the threshold it lies. The few that lie nearer to
it than such a product can err are computed anew in float64, so the groups do not depend on how the vectors are cut.

Shapes: n vectors, p pairs, d dimensions. Held are two blocks of vectors, a tile of scores and 8·n bytes of groups.
Time: n² / 2 products of d numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixture.dedup.links import Links, Rows, root
from mixture.embeddings.search import QUERY_TILE, Vectors
from mixture.text.kernels import compiled

_ROUNDING = 1e-9  # what a cosine in float64 may miss of the threshold

Numbers: TypeAlias = NDArray[np.float32]


def cosine_groups(
    vectors: Vectors, least: float, *, tile: int = QUERY_TILE, progress: Callable[[int, int], None] | None = None
) -> Rows:
    """The connected components of all pairs of vectors whose cosine is at least `least`, above 0 to 1.

    vectors: n, of any length, whose blocks come in the same order each time. tile: rows whose scores are computed at a
    time. progress: called with vectors done and their number. Returns for each vector the smallest number of its group,
    (n,). The cosine with a vector of zeros is 0.

    >>> from mixture.embeddings import InMemory
    >>> cosine_groups(InMemory(np.array([[0, 1], [3, 4], [1, 0], [4, 3]], "f4")), 0.95)
    array([0, 1, 2, 1])
    """
    links = Links(np.arange(len(vectors)))
    done = 0
    for place, (numbers, block) in enumerate(vectors.blocks()):
        units = _units(block)
        # Twice the most that a sum of d float32 products of unit vectors can be wrong.
        margin = (block.shape[1] + 4) * float(np.finfo(np.float32).eps)
        for other_numbers, other in islice(vectors.blocks(), place + 1):
            theirs = _units(other)
            for start in range(0, len(units), tile):
                rows = slice(start, start + tile)
                _join(links.parent, units[rows] @ theirs.T, (least - margin, least, least + margin),
                      numbers[rows], block[rows], other_numbers, other)  # fmt: skip
        done += len(numbers)
        if progress is not None:
            progress(done, len(vectors))
    return links.groups()


def _units(vectors: Numbers) -> Numbers:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


@compiled
def _cosine(left: Numbers, right: Numbers) -> float:
    product = left_square = right_square = 0.0
    for place in range(len(left)):
        a, b = np.float64(left[place]), np.float64(right[place])
        product += a * b
        left_square += a * a
        right_square += b * b
    return product / math.sqrt(left_square * right_square) if left_square * right_square > 0 else 0.0


@compiled
def _join(
    parent: Rows, scores: Numbers, limits: tuple[float, float, float],
    left_numbers: Rows, left: Numbers, right_numbers: Rows, right: Numbers,
) -> None:  # fmt: skip
    """Join the groups of rows whose cosine reaches the threshold.

    scores: (l, r), cosines in float32 of the vectors left, (l, d), and right, (r, d). limits: below the first they are
    surely too small, from the last on surely large enough; between these a cosine in float64 must reach the second.
    """
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            if scores[i, j] < limits[0]:
                continue
            a, b = root(parent, left_numbers[i]), root(parent, right_numbers[j])
            if a != b and (scores[i, j] >= limits[2] or _cosine(left[i], right[j]) >= limits[1] - _ROUNDING):
                parent[max(a, b)] = min(a, b)


@compiled
def cosines(left: Numbers, right: Numbers) -> NDArray[np.float64]:
    """The cosine of left[k] and right[k], both (p, d); returns (p,). That with a vector of zeros is 0."""
    out = np.empty(len(left))
    for pair in range(len(left)):
        out[pair] = _cosine(left[pair], right[pair])
    return out

"""Exact nearest vectors by inner product, block against block, with ties decided the same way every time.

Shapes: n queries, m passages, d dimensions, k results for a query. Passages and queries come in blocks of any order
and size, from memory or from files; held are one block of each, a tile of scores, and 8 n k bytes of results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixture.errors import UsageError

QUERY_TILE = 256
"""Queries whose scores are computed at a time. With a block of 8,192 passages a tile has 8 MB of scores."""

_LOW_BITS = np.int64(0xFFFFFFFF)
_NONE = np.iinfo(np.int64).min  # the key of a place that nothing has taken


class Block(NamedTuple):
    """Some of the vectors: their numbers, (b,) int64, and themselves, (b, d) float32."""

    numbers: NDArray[np.int64]
    vectors: NDArray[np.float32]


class Vectors(Protocol):
    """n vectors, numbered from 0."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[Block]:
        """All of them, each once, in any order. Queries are gone over once for each block of passages."""
        ...


class InMemory:
    """Vectors in one array, (n, d) float32, given in blocks of at most `size`."""

    def __init__(self, vectors: NDArray[np.float32], size: int = 8192) -> None:
        self.vectors, self._size = vectors, size

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[Block]:
        for start in range(0, len(self.vectors), self._size):
            part = self.vectors[start : start + self._size]
            yield Block(np.arange(start, start + len(part)), part)


Pairs: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(query, passage) of p pairs, as two arrays (p,)."""


class Best:
    """The best passages of each of n queries: at most k, best first, of equal scores the lower number first.

    pair_scores: (p,) float32, the scores of the pairs that were asked for
    """

    def __init__(self, keys: NDArray[np.int64], pair_scores: NDArray[np.float32]) -> None:
        self._keys, self.pair_scores = keys, pair_scores

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, query: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and numbers of one query's passages, (up to k,)."""
        keys = self._keys[query]
        return _unpack(np.sort(keys[keys != _NONE])[::-1])

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and numbers of all, (n, k). Where there are fewer than k, scores are -inf and numbers -1."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        scores, numbers = _unpack(keys)
        return np.where(keys == _NONE, np.float32(-np.inf), scores), np.where(keys == _NONE, -1, numbers)


def top_k(
    queries: Vectors,
    passages: Vectors,
    k: int,
    *,
    pairs: Pairs | None = None,
    tile: int = QUERY_TILE,
    progress: Callable[[int, int], None] | None = None,
) -> Best:
    """The k passages with the largest inner product of each query.

    pairs: whose scores are wanted too, as the search computes them. progress: called with passages done and their
    number. Scores are float32, as NumPy's matrix product of a tile and a block gives them; their last bits can depend
    on how the vectors are cut into blocks. A UsageError for k below 1, too many passages, or dimensions that differ.

    >>> found = top_k(InMemory(np.eye(2, dtype="f4")), InMemory(np.array([[1, 5], [3, 0], [1, 2]], "f4")), 2)
    >>> [numbers.tolist() for numbers in found.arrays()]
    [[[3.0, 1.0], [5.0, 2.0]], [[1, 0], [0, 2]]]
    """
    if k < 1 or tile < 1:
        raise UsageError(f"`k` and `tile` must be 1 or more, got {k} and {tile}")
    if len(passages) > _LOW_BITS:
        raise UsageError(f"at most {_LOW_BITS:,} passages fit one search, got {len(passages):,}")
    keys = np.full((len(queries), min(k, len(passages))), _NONE, np.int64)
    asked = _Pairs(pairs, len(queries), len(passages))
    done = 0
    for numbers, block in passages.blocks():
        here = asked.of(numbers)
        for tile_numbers, tile_vectors in _tiles(queries, tile):
            if tile_vectors.shape[1] != block.shape[1]:
                sizes = f"{tile_vectors.shape[1]} dimensions and passages {block.shape[1]}"
                raise UsageError(f"queries have {sizes}; one model gives both")
            scores = tile_vectors @ block.T
            here.note(tile_numbers, scores)
            keys[tile_numbers] = _merged(keys[tile_numbers], scores, numbers)
        done += len(numbers)
        if progress is not None:
            progress(done, len(passages))
    return Best(keys, asked.scores)


def _tiles(queries: Vectors, size: int) -> Iterator[Block]:
    for numbers, vectors in queries.blocks():
        for start in range(0, len(numbers), size):
            yield Block(numbers[start : start + size], vectors[start : start + size])


def _merged(keys: NDArray[np.int64], scores: NDArray[np.float32], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The k largest keys of each of q queries, (q, k), from those so far and a tile of scores, (q, b).

    Only scores that reach the k-th best so far are packed and compared; few do after the first blocks.
    """
    k = keys.shape[1]
    least = keys.min(axis=1)
    floor = np.where(least == _NONE, np.float32(-np.inf), _unpack(least)[0])
    reach = scores >= floor[:, None]
    if scores.shape[1] > k and np.count_nonzero(reach) > 4 * keys.size:
        # No more than k of one block can enter, but for ties.
        floor = np.maximum(floor, np.partition(scores, -k, axis=1)[:, -k])
        reach = scores >= floor[:, None]
    rows, columns = np.divmod(np.flatnonzero(reach), scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    width = int(counts.max(initial=0))
    if not width:
        return keys
    both = np.full((len(keys), k + width), _NONE, np.int64)
    both[:, :k] = keys
    first = np.cumsum(counts) - counts
    both[rows, k + np.arange(len(rows)) - first[rows]] = _pack(scores[rows, columns], numbers[columns])
    return np.partition(both, width, axis=1)[:, width:]


def _pack(scores: NDArray[np.float32], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Score and number in one int64 that sorts by score, then by lower number; no two are equal.

    High 32 bits: the score as an integer of the same order. Low 32 bits: the number, complemented.
    """
    # Adding zero turns -0.0 into 0.0: they are equal as scores, but not bit by bit.
    ordered = _flip_negatives((scores + np.float32(0)).view(np.int32)).astype(np.int64)
    return np.asarray((ordered << 32) | (_LOW_BITS - numbers))


def _unpack(keys: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scores = _flip_negatives((keys >> 32).astype(np.int32)).view(np.float32)
    return scores, np.asarray(_LOW_BITS - (keys & _LOW_BITS))


def _flip_negatives(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Between the bits of a float32 and an int32 of the same order; its own inverse. Floats are sign and magnitude."""
    return np.asarray(bits ^ ((bits >> 31) & 0x7FFFFFFF))


class _Pairs:
    """The pairs whose scores are wanted, found again by passage."""

    def __init__(self, pairs: Pairs | None, num_queries: int, num_passages: int) -> None:
        empty = np.empty(0, np.int64)
        self._queries, passages = pairs if pairs is not None else (empty, empty)
        self.scores = np.full(len(passages), np.nan, np.float32)
        self._order = np.argsort(passages, kind="stable")
        self._ends = np.concatenate([[0], np.cumsum(np.bincount(passages, minlength=num_passages))])
        self._row = np.full(num_queries, -1, np.int64)  # of each query in the tile

    def of(self, numbers: NDArray[np.int64]) -> _PairsHere:
        """Those of a block of passages."""
        counts = self._ends[numbers + 1] - self._ends[numbers]
        columns = np.repeat(np.arange(len(numbers)), counts)
        inner = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = self._order[self._ends[numbers][columns] + inner]
        return _PairsHere(self, chosen, columns, self._queries[chosen], self._row)


class _PairsHere(NamedTuple):
    """Pairs of one block of passages: which, their columns in it, their queries."""

    all: _Pairs
    chosen: NDArray[np.int64]
    columns: NDArray[np.int64]
    queries: NDArray[np.int64]
    row: NDArray[np.int64]

    def note(self, tile: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Take the scores of the pairs whose query is in the tile."""
        if not len(self.chosen):
            return
        self.row[tile] = np.arange(len(tile))
        rows = self.row[self.queries]
        inside = rows >= 0
        self.all.scores[self.chosen[inside]] = scores[rows[inside], self.columns[inside]]
        self.row[tile] = -1

"""Exact nearest vectors by inner product, block against block, with ties decided the same way every time.

Shapes: n queries, m passages, d dimensions, k results for a query. Passages and queries come in blocks of any order
and size, from memory or from files; held are one block of each, a tile of scores, and 8 n k bytes of results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixture.embeddings.standing import Standing
from mixture.errors import UsageError

QUERY_TILE = 256
"""Queries whose scores are computed at a time. With a block of 8,192 passages a tile has 8 MB of scores."""

_PAIRS_AT_ONCE = 2048  # whose vectors are put side by side
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


class Held:
    """Vectors that are held in memory once they were gone over, in one array of their own."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors, self._held = vectors, False

    def __len__(self) -> int:
        return len(self._vectors)

    def blocks(self) -> Iterator[Block]:
        if self._held:
            yield from self._vectors.blocks()
            return
        found: NDArray[np.float32] | None = None
        for block in self._vectors.blocks():
            if found is None:
                found = np.empty((len(self), block.vectors.shape[1]), np.float32)
            found[block.numbers] = block.vectors
            yield block
        if found is not None:
            self._vectors, self._held = InMemory(found), True


Pairs: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(query, passage) of p pairs, as two arrays (p,)."""


class Best:
    """The best passages of each of n queries: at most k, best first, of equal scores the lower number first.

    pair_scores: (p,) float32, the scores of the pairs that were asked for
    recall:      of an approximate search, the share of the best that it found, as it measured; None for an exact one
    """

    def __init__(
        self, keys: NDArray[np.int64], pair_scores: NDArray[np.float32], recall: float | None = None
    ) -> None:  # fmt: skip
        self._keys, self.pair_scores, self.recall = keys, pair_scores, recall

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
    standing: Standing | None = None,
) -> Best:
    """The k passages with the largest inner product of each query.

    pairs: whose scores are wanted too, as the search computes them. progress: called with passages done and their
    number. standing: where the search notes how far it is; passages that a killed one had searched are not searched
    again. Scores are float32, as NumPy's matrix product of a tile and a block gives them; their last bits can depend on
    how the vectors are cut into blocks. A UsageError for k below 1, too many passages, or dimensions that differ.

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
    done = np.zeros(len(passages), np.bool_)
    if standing is not None:
        standing.take_up(keys, asked.scores, done)
    for numbers, block in passages.blocks():
        left = ~done[numbers]
        if not left.any():
            continue
        if not left.all():
            numbers, block = numbers[left], block[left]
        here = asked.of(numbers)
        for tile_numbers, tile_vectors in tiles(queries, tile):
            check_sizes(tile_vectors, block)
            scores = tile_vectors @ block.T
            here.note(tile_numbers, scores)
            keys[tile_numbers] = _merged(keys[tile_numbers], scores, numbers)
        done[numbers] = True
        if standing is not None:
            standing.note(keys, asked.scores, done)
        if progress is not None:
            progress(int(done.sum()), len(passages))
    if standing is not None:
        standing.note(keys, asked.scores, done, last=True)
    return Best(keys, asked.scores)


def pair_scores(queries: Vectors, passages: Vectors, pairs: Pairs) -> NDArray[np.float32]:
    """The inner products of pairs alone, (p,). Both are gone over as by `top_k`; a pair's score is always the same.

    >>> found = InMemory(np.array([[1, 0], [0, 2]], np.float32)), InMemory(np.array([[3, 1]], np.float32))
    >>> pair_scores(*found, (np.array([1, 0]), np.array([0, 0]))).tolist()
    [2.0, 3.0]
    """
    asked = _Pairs(pairs, len(queries), len(passages))
    for numbers, block in passages.blocks():
        here = asked.of(numbers)
        if not len(here.chosen):
            continue
        for query_numbers, vectors in queries.blocks():
            check_sizes(vectors, block)
            here.compute(query_numbers, vectors, block)
    return asked.scores


def check_sizes(queries: NDArray[np.float32], passages: NDArray[np.float32]) -> None:
    """Raise a `UsageError` for vectors of different lengths."""
    if queries.shape[1] != passages.shape[1]:
        sizes = f"{queries.shape[1]} dimensions and passages {passages.shape[1]}"
        raise UsageError(f"queries have {sizes}; one model gives both")


def tiles(queries: Vectors, size: int) -> Iterator[Block]:
    """The vectors in blocks of at most `size`."""
    for numbers, vectors in queries.blocks():
        for start in range(0, len(numbers), size):
            yield Block(numbers[start : start + size], vectors[start : start + size])


def best_keys(scores: NDArray[np.float32], numbers: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The best k of some passages of each of q queries, (q, c) with c ≥ k, as `Best` holds them; -inf is no passage."""
    keys = np.where(np.isneginf(scores), _NONE, _pack(scores, numbers))
    return np.partition(keys, keys.shape[1] - k, axis=1)[:, keys.shape[1] - k :]


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
        inside, rows = self._inside(tile)
        self.all.scores[self.chosen[inside]] = scores[rows, self.columns[inside]]

    def compute(self, tile: NDArray[np.int64], queries: NDArray[np.float32], block: NDArray[np.float32]) -> None:
        """The same, from the vectors of the tile and of the block."""
        inside, rows = self._inside(tile)
        for start in range(0, len(inside), _PAIRS_AT_ONCE):
            some, part = inside[start : start + _PAIRS_AT_ONCE], rows[start : start + _PAIRS_AT_ONCE]
            products = np.einsum("ij,ij->i", queries[part], block[self.columns[some]])
            self.all.scores[self.chosen[some]] = products

    def _inside(self, tile: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of the pairs have their query in the tile, and its row there."""
        self.row[tile] = np.arange(len(tile))
        rows = self.row[self.queries]
        self.row[tile] = -1
        inside = np.flatnonzero(rows >= 0)
        return inside, rows[inside]

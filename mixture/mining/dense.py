"""Hard negatives by a dense retriever, over one collection; exact search in bounded memory.

Shapes: n queries, m distinct passages, d dimensions, k = depth. Passages are embedded once, block by block; of each
block only the best k so far of every query are kept, so n * k scores are held and never n * m. Memory: n·d + n·k
numbers, a block of 4,096 passages and a tile of 1,024 times 4,096 scores. Ties by passage id; on one machine the
result is always the same. Prompts and normalisation are the encoder's business. The positive-aware filter presumes
cosines, so let it normalise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.mining.filters import Candidates
from mixture.mining.miners import MINERS, Encode, Kind, Miner, Progress, top_k
from mixture.mining.pool import MiningPool

_PASSAGES = 4096  # embedded and searched at a time
_QUERIES = 1024  # rows of one score tile


def _embed(encode: Encode, texts: list[str], kind: Kind, size: int | None = None) -> NDArray[np.float32]:
    """Embeddings as float32, shape (len(texts), d); a UsageError when `encode` returns another shape or a NaN."""
    vectors = np.asarray(encode(texts, kind), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or (size is not None and vectors.shape[1] != size):
        raise UsageError(f"encode: {len(texts)} {kind} texts gave shape {vectors.shape}, expected ({len(texts)}, d)")
    if not np.isfinite(vectors).all():
        raise UsageError(f"encode: an embedding of a {kind} has infinite or undefined numbers")
    return vectors


class _Best:
    """The best k passages so far of each of n queries, and the lowest score of a positive."""

    def __init__(self, num_queries: int, depth: int) -> None:
        self.scores = np.full((num_queries, depth), -np.inf, dtype=np.float32)
        self.passages = np.full((num_queries, depth), -1, dtype=np.int64)
        self.positive = np.full(num_queries, np.inf, dtype=np.float32)

    def merge(self, first_query: int, tile: NDArray[np.float32], first_passage: int) -> None:
        """Take in the scores (rows of queries, columns of passages) of one tile."""
        depth = self.scores.shape[1]
        for row, scores in enumerate(tile, start=first_query):
            # Passages come in ascending order, so of equal scores those already held win, as ties by id demand.
            places = np.flatnonzero(scores > self.scores[row, -1])
            if not len(places):
                continue
            places = places[top_k(scores[places], depth)]
            both = np.concatenate([self.scores[row], scores[places]])
            names = np.concatenate([self.passages[row], places + first_passage])
            order = np.argsort(-both, kind="stable")[:depth]
            self.scores[row], self.passages[row] = both[order], names[order]


def _positive_pairs(pool: MiningPool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All (passage, example) pairs of positives, sorted by passage."""
    lengths = [len(positives) for positives in pool.positives]
    examples = np.repeat(np.arange(len(lengths)), lengths)
    passages = np.concatenate([np.empty(0, dtype=np.int64), *pool.positives])
    order = np.argsort(passages, kind="stable")
    return passages[order], examples[order]


def _best(pool: MiningPool, encode: Encode, depth: int, progress: Progress) -> _Best:
    queries = _embed(encode, list(pool.queries), "query")
    best = _Best(len(queries), depth)
    answers, askers = _positive_pairs(pool)
    total = len(pool.passages)
    for start in range(0, total, _PASSAGES):
        block = _embed(encode, list(pool.passages[start : start + _PASSAGES]), "passage", queries.shape[1])
        stop = start + len(block)
        for row in range(0, len(queries), _QUERIES):
            best.merge(row, queries[row : row + _QUERIES] @ block.T, start)
        here = slice(*np.searchsorted(answers, [start, stop]))
        scores = np.einsum("ij,ij->i", queries[askers[here]], block[answers[here] - start])
        np.minimum.at(best.positive, askers[here], scores)
        progress(stop, total)
    return best


def _search(pool: MiningPool, depth: int, encode: Encode | None, progress: Progress) -> Iterator[Candidates]:
    if encode is None:
        raise UsageError("the dense miner needs `encode`, from texts to embeddings")
    if not pool.queries:
        return
    best = _best(pool, encode, min(depth, len(pool.passages)), progress)
    for passages, scores, positive in zip(best.passages, best.scores, best.positive, strict=True):
        found = passages >= 0
        yield Candidates(passages[found], scores[found], float(positive))


MINERS["dense"] = Miner(search=_search, needs_encoder=True, filters={"max_ratio": 0.95})

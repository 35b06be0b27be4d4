"""Hard negatives by BM25 and by a dense retriever: the candidates of both in turn, all scored by the dense one.

The first candidate is the dense retriever's best, the second BM25's best, and so on; what both found counts at its
first place. One scale of scores lets the positive-aware filter look at all of them. Memory: that of both miners, and
24 bytes for each candidate of BM25.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mixture.mining.bm25 import ranked
from mixture.mining.dense import searched
from mixture.mining.filters import Candidates
from mixture.mining.miners import MINERS, Encode, Miner, Progress
from mixture.mining.pool import MiningPool


def _search(pool: MiningPool, depth: int, encode: Encode | None, progress: Progress) -> Iterator[Candidates]:
    lexical = ranked(pool.passages, pool.queries, depth)
    lengths = np.array([len(found) for found in lexical], np.int64)
    own_queries, own = pool.positives.pairs()
    rows = np.concatenate([own_queries, np.repeat(np.arange(len(lexical)), lengths)])
    best = searched(pool, depth, encode, progress, pairs=(rows, np.concatenate([own, *lexical])))
    if best is None:
        return
    own_ends, ends = pool.positives.ends, len(own) + np.concatenate([[0], np.cumsum(lengths)])
    for example, theirs in enumerate(lexical):
        scores, found = best[example]
        again = best.pair_scores[ends[example] : ends[example + 1]]
        passages, where = in_turn(found, theirs, depth)
        positives = best.pair_scores[own_ends[example] : own_ends[example + 1]]
        yield Candidates.found(passages, np.concatenate([scores, again])[where], positives)


def in_turn(
    first: NDArray[np.int64], second: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of two rankings in turn, each once, at most `most`; and their places in both, one after the other.

    >>> in_turn(np.array([7, 5, 3]), np.array([5, 9]), 4)
    (array([7, 5, 9, 3]), array([0, 3, 4, 2]))
    """
    both = np.concatenate([first, second])
    turns = np.concatenate([2 * np.arange(len(first)), 2 * np.arange(len(second)) + 1])
    order = np.argsort(turns)
    _, firsts = np.unique(both[order], return_index=True)
    where = order[np.sort(firsts)][:most]
    return both[where], where


MINERS["both"] = Miner(search=_search, needs_encoder=True, model=MINERS["dense"].model, filters=MINERS["dense"].filters)

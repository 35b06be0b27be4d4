"""Hard negatives by BM25, over one collection.

Every term's share of every score is computed beforehand, as bm25s does (arXiv 2407.03618), and the scores are its
scores to the bit. The tokenizer is ours, because a collection may be in any script. A passage that shares no token with
the query is no candidate. Memory: the index (8 bytes for each distinct token of a passage; 4 more for each token while
it is made) and one row of m scores. Deterministic; ties by passage id.

Shapes: m passages, v distinct tokens, p pairs of a passage and one of its distinct tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mixture.mining.filters import Candidates
from mixture.mining.filters.near_copies import USUAL
from mixture.mining.miners import MINERS, Encode, Miner, Progress
from mixture.mining.pool import MiningPool
from mixture.mining.words import Vocabulary
from mixture.text.form import Texts
from mixture.text.kernels import compiled
from mixture.text.strings import Strings

K1, B = 1.5, 0.75  # bm25s's defaults

_AT_ONCE = 65_536  # passages whose tokens are numbered together
_QUERIES = 256
_LAST = 0xFFFFFFFF


@compiled
def _holding(tokens: NDArray[np.int32], lengths: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Count in `out`, (v,), the passages that hold each token."""
    last = np.full(len(out), -1, dtype=np.int32)
    place = 0
    for passage in range(len(lengths)):
        for token in tokens[place : place + lengths[passage]]:
            out[token] += last[token] != passage
            last[token] = passage
        place += lengths[passage]


@compiled
def _fill(
    tokens: NDArray[np.int32], lengths: NDArray[np.int64], starts: NDArray[np.int64], idf: NDArray[np.float32],
    norms: NDArray[np.float64], passages: NDArray[np.uint32], shares: NDArray[np.float32],
) -> None:  # fmt: skip
    """Write the passages of each token, ascending, and its shares of their scores; `shares` comes with zeros."""
    heads = starts[:-1] - 1  # where the last passage of each token was written
    place, all_passages = 0, len(lengths)
    for passage in range(len(lengths)):
        for token in tokens[place : place + lengths[passage]]:
            if starts[token + 1] - starts[token] == all_passages:
                heads[token] = starts[token] + passage
            elif heads[token] < starts[token] or passages[heads[token]] != passage:
                heads[token] += 1
                passages[heads[token]] = passage
            shares[heads[token]] += 1
        place += lengths[passage]
    for token in range(len(idf)):
        whole = starts[token + 1] - starts[token] == all_passages
        for place in range(starts[token], starts[token + 1]):
            norm = norms[place - starts[token]] if whole else norms[passages[place]]
            count = np.float64(shares[place])
            shares[place] = np.float64(idf[token]) * (count / (norm + count))


@compiled
def _add(
    tokens: NDArray[np.int32], starts: NDArray[np.int64], passages: NDArray[np.uint32], shares: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:  # fmt: skip
    """Write the scores of all passages to `scores`, (m,)."""
    scores[:] = 0
    for token in tokens:
        if token < 0:
            continue
        own = shares[starts[token] : starts[token + 1]]
        if len(own) == len(scores):
            for passage in range(len(scores)):
                scores[passage] += own[passage]
        else:
            holding = passages[starts[token] : starts[token + 1]]
            for place in range(len(holding)):
                scores[holding[place]] += own[place]


@compiled
def _best(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Places of the `depth` highest scores above zero, highest first, ties by place."""
    # The least of the best so far comes first. An item is a score's bits, which sort as it does, and how far its place
    # is from the last possible one. Zeros stand for what is not found yet.
    heap = np.zeros(depth, dtype=np.uint64)
    bits, least = scores.view(np.uint32), np.uint32(0)
    for place in range(len(bits) if depth else 0):
        if bits[place] > least:  # one with an equal score and an earlier place is there already
            _replace_least(heap, np.uint64(bits[place]) << np.uint64(32) | np.uint64(_LAST - place))
            least = np.uint32(heap[0] >> np.uint64(32))
    heap.sort()
    found = heap[heap > 0][::-1]
    return _LAST - (found & np.uint64(_LAST)).astype(np.int64)


@compiled
def _replace_least(heap: NDArray[np.uint64], item: np.uint64) -> None:
    at, child = 0, 1
    while child < len(heap):
        child += child + 1 < len(heap) and heap[child + 1] < heap[child]
        if heap[child] >= item:
            break
        heap[at] = heap[child]
        at, child = child, 2 * child + 1
    heap[at] = item


class Index:
    """BM25 scores of all passages for a query. Lucene's formula."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._vocabulary = Vocabulary()
        parts = passages.parts(_AT_ONCE) if isinstance(passages, Strings) else [passages]
        numbered = [self._vocabulary.number(part, grow=True) for part in parts]
        tokens = np.concatenate([np.empty(0, np.int32), *(part[0] for part in numbered)])
        lengths = np.concatenate([np.empty(0, np.int64), *(part[1] for part in numbered)])
        del numbered
        holding = np.zeros(len(self._vocabulary), dtype=np.int64)
        _holding(tokens, lengths, holding)
        # A token that most passages hold has a share of every score, which takes no more memory and is added quicker.
        sizes = np.where(2 * holding > len(lengths), len(lengths), holding)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._passages = np.empty(self._starts[-1], dtype=np.uint32)
        self._shares = np.zeros(self._starts[-1], dtype=np.float32)
        norms = K1 * ((1 - B) + B * lengths / (lengths.mean() if len(tokens) else 1.0))
        _fill(tokens, lengths, self._starts, _idf(holding, len(lengths)), norms, self._passages, self._shares)
        self._scores = np.empty(len(lengths), dtype=np.float32)

    def search(self, queries: Texts, depth: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of each query the places of its best passages, at most `depth`, and the scores of all, (m,), which are
        overwritten by those of the next query."""
        tokens, lengths = self._vocabulary.number(queries)
        for own in np.split(tokens, np.cumsum(lengths))[:-1]:
            _add(own, self._starts, self._passages, self._shares, self._scores)
            yield _best(self._scores, min(depth, len(self._scores))), self._scores


def _idf(holding: NDArray[np.int64], num_passages: int) -> NDArray[np.float32]:
    """What a token is worth by how many of the passages hold it, (v,)."""
    counts, which = np.unique(holding, return_inverse=True)
    return np.array([math.log(1 + (num_passages - n + 0.5) / (n + 0.5)) for n in counts.tolist()], np.float32)[which]


def ranked(passages: Sequence[str], queries: Sequence[str], depth: int) -> list[NDArray[np.int64]]:
    """Of each query the places of its best passages, at most `depth`, without those that share no token with it."""
    return [best for best, _ in Index(passages).search(queries, depth)]


def _search(pool: MiningPool, depth: int, encode: Encode | None, progress: Progress) -> Iterator[Candidates]:
    index = Index(pool.passages)
    total, example = len(pool.queries), 0
    for queries in pool.queries.parts(_QUERIES):
        for best, scores in index.search(queries, depth):
            yield Candidates.found(best, scores[best], scores[pool.positives[example]])
            example += 1
        progress(example, total)


# No positive-aware filter: BM25 scores of different passages are not shares of one another as cosines are
# (arXiv 2407.15831).
MINERS["bm25"] = Miner(search=_search, filters={"near_copies": USUAL})

"""Hard negatives by BM25, over one collection.

The index is bm25s (arXiv 2407.03618), which computes every term's share of every score beforehand; the tokenizer is
ours, because a collection may be in any script. A passage that shares no token with the query is no candidate. Memory:
the index (8 bytes for each distinct token of a passage) and one row of m scores. Deterministic; ties by passage id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.mining.filters import Candidates
from mixture.mining.filters.near_copies import USUAL
from mixture.mining.miners import MINERS, Encode, Miner, Progress, top_k
from mixture.mining.pool import MiningPool
from mixture.text.form import normalise_text

# Scripts written without spaces between words: Han (with its iteration marks), kana, bopomofo, Thai, Lao, Burmese,
# Khmer. Tibetan is not among them: it divides syllables by a mark that counts as punctuation.
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3040-\u30ff\u31f0-\u31ff\u3100-\u312f\u31a0-\u31bf"
    "\u0e00-\u0eff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\u1780-\u17ff]+"
)


def tokenize(text: str) -> list[str]:
    """Words of spaced scripts, overlapping character pairs of unspaced ones (a lone character is one token).

    >>> tokenize("Who wrote 红楼梦?")
    ['who', 'wrote', '红楼', '楼梦']
    """
    tokens: list[str] = []
    for word in normalise_text(text).split():
        place = 0
        for run in _UNSPACED.finditer(word):
            if run.start() > place:
                tokens.append(word[place : run.start()])
            chars = run.group()
            tokens += [chars[i : i + 2] for i in range(len(chars) - 1)] or [chars]
            place = run.end()
        if place < len(word):
            tokens.append(word[place:])
    return tokens


class _Index:
    """BM25 scores of all passages for a query. Lucene's formula, k1 1.5, b 0.75 (bm25s's defaults)."""

    def __init__(self, passages: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise UsageError(
                "BM25 mining needs the package bm25s, which is missing: pip install 'retrieval-mixture[mine]'"
            ) from error
        self._vocabulary: dict[str, int] = {}
        self._num_passages = len(passages)
        number = self._vocabulary.setdefault
        documents = [[number(token, len(self._vocabulary)) for token in tokenize(text)] for text in passages]
        self._index: Any = None
        if self._vocabulary:  # bm25s cannot index texts without any token
            self._index = bm25s.BM25(method="lucene")
            self._index.index((documents, dict(self._vocabulary)), show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Shape (m,), float32; zeros where no token of the query is known."""
        tokens = [self._vocabulary[token] for token in tokenize(query) if token in self._vocabulary]
        if not tokens:
            return np.zeros(self._num_passages, dtype=np.float32)
        return np.asarray(self._index.get_scores_from_ids(tokens), dtype=np.float32)


def ranked(passages: Sequence[str], queries: Sequence[str], depth: int) -> list[NDArray[np.int64]]:
    """Of each query the places of its best passages, at most `depth`, without those that share no token with it."""
    index = _Index(passages)
    found = []
    for query in queries:
        scores = index.scores(query)
        matching = np.flatnonzero(scores > 0)
        found.append(matching[top_k(scores[matching], depth)])
    return found


def _search(pool: MiningPool, depth: int, encode: Encode | None, progress: Progress) -> Iterator[Candidates]:
    index = _Index(pool.passages)
    total = len(pool.queries)
    for example, query in enumerate(pool.queries):
        scores = index.scores(query)
        matching = np.flatnonzero(scores > 0)
        best = matching[top_k(scores[matching], depth)]
        yield Candidates.found(best, scores[best], scores[pool.positives[example]])
        if (example + 1) % 256 == 0 or example + 1 == total:
            progress(example + 1, total)


# No positive-aware filter: BM25 scores of different passages are not shares of one another as cosines are
# (arXiv 2407.15831).
MINERS["bm25"] = Miner(search=_search, filters={"near_copies": USUAL})

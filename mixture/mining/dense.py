"""Hard negatives by a dense retriever, over one collection; exact search in bounded memory, unless `source.index` names
an approximate one (`mixture.embeddings.indexes`).

Shapes: n queries, m distinct passages, d dimensions, k = depth. Passages are embedded block by block, or read where
they are kept (`mixture.embeddings`), and searched at once; of each block only the best k so far of every query are
held, so n * k results and never n * m. Memory: 8·n·k bytes, the queries' n·d numbers up to `source.IN_MEMORY` (all of
them for an encoder whose embeddings are not kept), a block of passages and a tile of scores. Ties by passage id; on one
machine the result is always the same. Prompts and normalisation are the encoder's business. The positive-aware filter
presumes cosines, so let it normalise.
"""

from __future__ import annotations

from collections.abc import Iterator

from mixture.embeddings import Best, Held, Vectors, index_of, source_of
from mixture.embeddings.indexes.base import EXACT
from mixture.embeddings.search import QUERY_TILE, Pairs
from mixture.errors import UsageError
from mixture.mining.filters import Candidates
from mixture.mining.filters.near_copies import USUAL
from mixture.mining.miners import MINERS, Encode, Miner, Progress
from mixture.mining.pool import MiningPool

_PASSAGES = 4096  # given to a plain function at a time
_QUERIES = QUERY_TILE


def searched(
    pool: MiningPool, depth: int, encode: Encode | None, progress: Progress, pairs: Pairs | None = None
) -> Best | None:
    """The best passages of each query, and the scores of pairs of query and passage: of positives, where no others are
    given. None for a pool without queries."""
    if encode is None:
        raise UsageError("the dense miner needs `encode`, from texts to embeddings")
    if not pool.queries:
        return None
    source = source_of(encode, _PASSAGES)
    queries = source.vectors(pool.queries, "query", again=True)
    passages: Vectors = source.vectors(pool.passages, "passage")
    if source.index != EXACT and not source.keeps:
        passages = Held(passages)
    search = index_of(source.index)
    pairs = pool.positives.pairs() if pairs is None else pairs
    standing = source.standing(pool.queries, pool.passages, depth, pairs)
    best = search(queries, passages, depth, pairs=pairs, tile=_QUERIES, progress=progress, standing=standing)
    source.recall = best.recall
    return best


def _search(pool: MiningPool, depth: int, encode: Encode | None, progress: Progress) -> Iterator[Candidates]:
    best = searched(pool, depth, encode, progress)
    if best is None:
        return
    ends = pool.positives.ends
    for example in range(len(best)):
        scores, found = best[example]
        yield Candidates.found(found, scores, best.pair_scores[ends[example] : ends[example + 1]])


MINERS["dense"] = Miner(
    search=_search,
    needs_encoder=True,
    model="BAAI/bge-large-en-v1.5",
    filters={"max_ratio": 0.95, "near_copies": USUAL},
)

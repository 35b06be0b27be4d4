"""Approximate search by an index of faiss (arXiv 2401.08281), its recall measured and its scores exact.

`faiss:FACTORY:PARAMETERS`: both are faiss's own words, as `faiss:IVF1024,Flat:nprobe=128` or `faiss:HNSW32`. Either may
be left away: `usual` and `_made` say what stands for them. Fewer than `WORTH` passages, or than `POINTS` for each list
of an IVF index, are searched exactly.

faiss proposes candidates, `MORE` than are asked for. Their scores are computed anew from the vectors, and the best
stay, of equal scores the lower number first. So a score is never one of quantised vectors, and a tie is in doubt only
where more than `MORE` passages share the last score. The recall is that of at most `SAMPLE` queries, spread evenly, at
the k of the search: of the k places, the share that holds a passage which scores as the exact search's last, or more.

Shapes: n queries, m passages, d dimensions. Passages are gone over once to train, where the index needs that; once to
add them; once for the scores of pairs; and once for each `PAIRS` candidates. Memory: the index (m·d floats for Flat,
IVF and HNSW, a quarter for SQ8; up to twice that, for faiss's arrays grow by doubling) and 8·m bytes, 8·n·k bytes of
results, 0.2 GB of candidates, a block of passages. It trains with `TRAINED` passages for each list, at least
`LEAST_TRAINED`, spread evenly; they are gone before any is added. Passages whose embeddings are not kept are held in
memory beside it.

Deterministic, with any number of threads: faiss seeds its k-means, and from 1.15 on it builds HNSW the same way
whatever its threads do. What has parts that `STEADY` does not name, one thread trains and fills (NSG could not be
filled by blocks at all). A graph depends on the order in which embeddings were kept; the lists of an IVF index do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixture.embeddings.indexes.base import INDEXES, Index
from mixture.embeddings.search import (
    QUERY_TILE,
    Best,
    Block,
    InMemory,
    Pairs,
    Vectors,
    best_keys,
    check_sizes,
    pair_scores,
    tiles,
    top_k,
)
from mixture.embeddings.standing import Standing
from mixture.errors import UsageError

WORTH = 10_000
POINTS = 39  # what faiss wants for a centroid
TRAINED, LEAST_TRAINED = 64, 65_536
SAMPLE = 256
MORE = 32
PAIRS = 2**22
LARGE = 1_000_000
STEADY = re.compile(r"Flat|RFlat|IVF\d+(_HNSW\d+)?|HNSW\d*|SQ\d\w*|PQ\d+\w*")
_ANY_SIZE = 960  # dimensions that most quantisers divide, to see whether faiss knows the words
_NO_PAIRS = np.empty(0, np.int64), np.empty(0, np.int64)


def usual(num_passages: int) -> str:
    """The factory for m passages where none is given: lists of about √m/2, and SQ8 from `LARGE` passages on.

    >>> usual(200_000), usual(5_000_000)
    ('IVF1024,Flat', 'IVF4096,SQ8')
    """
    lists = 2 ** round(np.log2(2 * num_passages**0.5))
    return f"IVF{lists},{'SQ8' if num_passages >= LARGE else 'Flat'}"


class Faiss:
    """factory, parameters: faiss's own words, "" for the usual ones."""

    def __init__(self, factory: str = "", parameters: str = "") -> None:
        try:
            import faiss
        except ImportError as error:
            raise UsageError(
                "a faiss index needs the package faiss-cpu, which is missing: pip install 'retrieval-mixture[faiss]'"
            ) from error
        self._faiss: Any = faiss
        self._factory, self._parameters = factory, parameters
        try:
            self._made(factory or usual(WORTH), _ANY_SIZE, 1)
        except UsageError as error:
            if "parse" in str(error) or "parameter" in str(error):  # others may be of the size alone
                raise

    def __call__(
        self,
        queries: Vectors,
        passages: Vectors,
        k: int,
        *,
        pairs: Pairs | None = None,
        tile: int = QUERY_TILE,
        progress: Callable[[int, int], None] | None = None,
        standing: Standing | None = None,
    ) -> Best:
        """As `Index` says. An index that these passages cannot have is a UsageError in faiss's words. A killed search
        by an index begins anew."""
        count = len(passages)
        factory = self._factory or usual(count)
        if not len(queries) or count < max(WORTH, POINTS * _lists(factory)):
            return top_k(queries, passages, k, pairs=pairs, tile=tile, progress=progress, standing=standing)
        k, chosen = min(k, count), _spread(len(queries), SAMPLE)
        sample = _taken(queries, chosen)
        index = self._made(factory, sample.shape[1], k)
        tell = _Told((1 if index.is_trained else 2) * count + len(queries), progress)
        threads = self._faiss.omp_get_max_threads()
        if not all(STEADY.fullmatch(part) for part in factory.split(",")):
            self._faiss.omp_set_num_threads(1)
        try:
            if not index.is_trained:
                self._train(index, factory, _Watched(passages, tell), sample)
            numbers, exact = self._filled(index, passages, k, sample, tile, tell)
        finally:
            self._faiss.omp_set_num_threads(threads)
        keys = self._searched(index, numbers, queries, passages, k, tile, tell)
        wanted = _NO_PAIRS if pairs is None else pairs
        rows, best = np.repeat(chosen, k), exact.arrays()[1].ravel()
        scores = pair_scores(queries, passages, (np.append(wanted[0], rows), np.append(wanted[1], best)))
        own, theirs = np.split(scores, [len(wanted[0])])
        least = theirs.reshape(-1, k).min(axis=1, keepdims=True)
        recall = (Best(keys[chosen], own).arrays()[0] >= least).mean()
        return Best(keys, own, float(recall))

    def _made(self, factory: str, size: int, k: int) -> Any:
        """An empty index. By itself an IVF index looks into an eighth of its lists, HNSW at 2·k passages."""
        index = self._asked(self._faiss.index_factory, size, factory, self._faiss.METRIC_INNER_PRODUCT)
        if isinstance(index, self._faiss.IndexIVFScalarQuantizer):
            index.by_residual = False  # `_by_list` takes decoded vectors as they are
        settings = self._faiss.ParameterSpace()
        if lists := _lists(factory):
            self._asked(settings.set_index_parameters, index, f"nprobe={max(1, lists // 8)}")
        elif "HNSW" in factory:
            self._asked(settings.set_index_parameters, index, f"efSearch={2 * k}")
        self._asked(settings.set_index_parameters, index, self._parameters)
        return index

    def _train(self, index: Any, factory: str, passages: Vectors, sample: NDArray[np.float32]) -> None:
        points = _taken(passages, _spread(len(passages), max(LEAST_TRAINED, TRAINED * _lists(factory))))
        check_sizes(sample, points)
        self._asked(index.train, points)

    def _filled(
        self, index: Any, passages: Vectors, k: int, sample: NDArray[np.float32], tile: int, tell: Callable[[int], None]
    ) -> tuple[NDArray[np.int64], Best]:
        """Adds all passages. The number of each in the order of the index, (m,), and an exact search for the sample."""
        numbers = np.empty(len(passages), np.int64)

        def add(block: Block) -> None:
            numbers[index.ntotal : index.ntotal + len(block.numbers)] = block.numbers
            self._asked(index.add, np.ascontiguousarray(block.vectors))
            tell(len(block.numbers))

        return numbers, top_k(InMemory(sample), _Watched(passages, add), k, tile=tile)

    def _searched(
        self, index: Any, numbers: NDArray[np.int64], queries: Vectors, passages: Vectors, k: int, tile: int,
        tell: Callable[[int], None],
    ) -> NDArray[np.int64]:  # fmt: skip
        """The keys of `Best`, (n, k)."""
        keys = np.empty((len(queries), k), np.int64)
        asked = min(k + MORE, len(passages))
        for some, vectors in _joined(queries, max(1, PAIRS // asked)):
            places = self._places(index, vectors, asked, tile)
            rows, columns = np.nonzero(places >= 0)
            found, scores = numbers[places], np.full(places.shape, -np.inf, np.float32)
            pairs = rows, found[rows, columns]
            scores[rows, columns] = pair_scores(InMemory(vectors, len(vectors)), passages, pairs)
            keys[some] = best_keys(scores, found, k)
            tell(len(some))
        return keys

    def _places(self, index: Any, queries: NDArray[np.float32], k: int, tile: int) -> NDArray[np.int64]:
        """Of each query the places of k passages in the index, (q, k) in any order, -1 for none."""
        if isinstance(index, self._faiss.IndexIVFFlat | self._faiss.IndexIVFScalarQuantizer):
            return _by_list(index, queries, k)
        found = [self._asked(index.search, queries[at : at + tile], k)[1] for at in range(0, len(queries), tile)]
        return np.concatenate(found)

    def _asked(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What faiss answers; its complaint as a UsageError."""
        try:
            return function(*arguments)
        except RuntimeError as error:
            name = ":".join(filter(None, ("faiss", self._factory, self._parameters)))
            said = re.sub(r".*\.(cpp|h):\d+: ", "", str(error), flags=re.DOTALL)
            raise UsageError(f"`index` is {name!r}; faiss says: {said}") from error


class _Told:
    """Progress over all that is to be done."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, more: int | Block) -> None:
        self._done += more if isinstance(more, int) else len(more.numbers)
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Watched:
    """Vectors; each block is handed to a function when it is done with."""

    def __init__(self, vectors: Vectors, after: Callable[[Block], None]) -> None:
        self._vectors, self._after = vectors, after

    def __len__(self) -> int:
        return len(self._vectors)

    def blocks(self) -> Iterator[Block]:
        for block in self._vectors.blocks():
            yield block
            self._after(block)


def _by_list(index: Any, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """An IVF index searched list by list, for all queries that look into one at once. faiss's own search takes query by
    query; on one core that is slower than to score all passages by a matrix product."""
    from faiss.contrib.big_batch_search import BigBatchSearcher, BlockComputer

    lists = BlockComputer(index, method="pairwise_distances")
    searcher: Any = BigBatchSearcher(index, queries, k)
    searcher.decode_func, searcher.by_residual = lists.decode_func, False
    searcher.coarse_quantization()
    searcher.reorder_assign()
    for number in range(index.nlist):
        asking, vectors, ids, passages = searcher.prepare_bucket(number)
        step = max(1, PAIRS // max(1, len(ids)))
        for at in range(0, len(asking), step):
            scores, _ = lists.block_search(vectors[at : at + step], passages, ids, k)
            searcher.add_results_to_heap(asking[at : at + step], scores, ids, None)
    return np.asarray(searcher.rh.I)


def _lists(factory: str) -> int:
    """The lists of an IVF index; 0 for another."""
    found = re.search(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


def _spread(total: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers below `total`, evenly."""
    return np.arange(min(most, total)) * total // min(most, total)


def _taken(vectors: Vectors, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Those of these numbers, which ascend, (len(numbers), d)."""
    found: NDArray[np.float32] | None = None
    for block in vectors.blocks():
        places = np.minimum(np.searchsorted(numbers, block.numbers), len(numbers) - 1)
        here = numbers[places] == block.numbers
        if found is None:
            found = np.empty((len(numbers), block.vectors.shape[1]), np.float32)
        found[places[here]] = block.vectors[here]
    assert found is not None
    return found


def _joined(vectors: Vectors, most: int) -> Iterator[Block]:
    """All of them, in blocks of up to `most`."""
    parts: list[Block] = []
    for block in tiles(vectors, most):
        if parts and sum(len(part.numbers) for part in parts) + len(block.numbers) > most:
            yield _one(parts)
            parts = []
        parts.append(block)
    yield _one(parts)


def _one(parts: list[Block]) -> Block:
    return Block(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _faiss(settings: str) -> Index:
    factory, _, parameters = settings.partition(":")
    return Faiss(factory, parameters)


INDEXES["faiss"] = _faiss

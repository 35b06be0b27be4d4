"""What an index of faiss finds, what its scores are, and what it says of itself; beside all scores at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture.embeddings import Block, Held, InMemory, Keeping, KeptEmbeddings, Space, index_of, top_k
from mixture.embeddings.indexes import faiss as ours
from mixture.errors import UsageError
from mixture.text.strings import Strings, arrow_texts

K = 20


@pytest.fixture
def faiss(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with few passages enough for an index."""
    package = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    monkeypatch.setattr(ours, "WORTH", 1)
    return package


class InOrder:
    """Vectors in blocks of another order than their numbers'."""

    def __init__(self, vectors: np.ndarray, size: int = 700) -> None:
        self.vectors, self.size, self.times = vectors, size, 0

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[Block]:
        self.times += 1
        order = np.random.default_rng(1).permutation(len(self))
        for start in range(0, len(order), self.size):
            yield Block(order[start : start + self.size], self.vectors[order[start : start + self.size]])


def clustered(count: int, seed: int, size: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, size))
    vectors = centres[rng.integers(0, 40, count)] + 0.7 * rng.standard_normal((count, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES, PASSAGES = clustered(300, 1), clustered(3000, 2)


def found(name: str, queries: Any = QUERIES, passages: Any = PASSAGES, k: int = K, size: int = 700, **more: Any) -> Any:
    return index_of(name)(InMemory(queries), InOrder(passages, size), k, **more)


def test_exact_is_top_k() -> None:
    assert index_of("exact") is top_k


@pytest.mark.parametrize("name", ["faiss:Flat", "faiss:IVF16,Flat:nprobe=16", "faiss:IVF16,SQ8:nprobe=16"])
def test_one_that_looks_at_all_is_exact_ties_included(name: str, faiss: Any) -> None:
    """Of whole numbers, whose products are exact; many passages share a score, and some are equal."""
    rng = np.random.default_rng(3)
    queries, passages = rng.integers(-9, 10, (50, 6)), rng.integers(-9, 10, (2000, 6))
    passages[1500:] = passages[:500]
    queries, passages = queries.astype(np.float32), passages.astype(np.float32)
    pairs = (rng.integers(0, 50, 30), rng.integers(0, 2000, 30))
    exact, index = (found(one, queries, passages, pairs=pairs, tile=17) for one in ("exact", name))
    scores, numbers = exact.arrays()
    assert sum(len(set(row)) < K for row in scores.tolist()) > 40, "ties"
    assert np.array_equal(index.arrays()[0], scores)
    assert np.array_equal(index.arrays()[1], numbers)
    assert np.array_equal(index.pair_scores, exact.pair_scores)
    assert (exact.recall, index.recall) == (None, 1.0)


def brute_recall(numbers: np.ndarray, rows: np.ndarray) -> float:
    best = np.argsort(-(QUERIES[rows] @ PASSAGES.T), axis=1)[:, :K]
    both = zip(best.tolist(), numbers[rows].tolist(), strict=True)
    return float(np.mean([len(set(one) & set(other)) / K for one, other in both]))


@pytest.mark.parametrize("name", ["faiss:IVF64,Flat:nprobe=2", "faiss:IVF64,SQ8:nprobe=2", "faiss:HNSW4:efSearch=4"])
def test_recall_is_that_of_brute_force_for_the_sample(name: str, faiss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "SAMPLE", 100)
    best = found(name)
    assert 0.3 < best.recall < 0.99
    assert best.recall == pytest.approx(brute_recall(best.arrays()[1], np.arange(0, 300, 3)), abs=1e-3)


def test_more_probes_find_more_and_by_list_is_what_faiss_finds_itself(faiss: Any) -> None:
    recalls = [found(f"faiss:IVF64,Flat:nprobe={probes}").recall for probes in (1, 8, 64)]
    assert recalls[0] < recalls[1] < recalls[2] == 1.0
    index = faiss.index_factory(16, "IVF64,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(PASSAGES)
    index.add(PASSAGES)
    index.nprobe = 3
    own, theirs = ours._by_list(index, QUERIES, K), index.search(QUERIES, K)[1]
    assert [set(row) for row in own.tolist()] == [set(row) for row in theirs.tolist()]


@pytest.mark.parametrize("name", ["faiss:IVF16,PQ4x4", "faiss:IVF16,SQ4", "faiss:PCA8,Flat", "faiss:PQ4x4"])
def test_scores_are_those_of_the_vectors(name: str, faiss: Any) -> None:
    pairs = (np.arange(300), np.arange(300) * 7)
    best = found(name, pairs=pairs)
    scores, numbers = best.arrays()
    all_scores = QUERIES @ PASSAGES.T
    np.testing.assert_allclose(scores, np.take_along_axis(all_scores, numbers, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(best.pair_scores, all_scores[pairs], rtol=1e-5, atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == K for row in numbers.tolist())


@pytest.mark.parametrize("name", ["faiss:IVF32,Flat", "faiss:IVF32,SQ8", "faiss:HNSW8"])
def test_the_result_does_not_hang_on_threads(name: str, faiss: Any) -> None:
    before = faiss.omp_get_max_threads()
    try:
        results = []
        for threads in (1, 2, 3, 2):
            faiss.omp_set_num_threads(threads)
            results.append(found(name, k=5, size=3000).arrays())
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert all(np.array_equal(one, other) for result in results for one, other in zip(result, results[0], strict=True))


def test_what_is_not_known_to_be_steady_is_built_by_one_thread(faiss: Any) -> None:
    class Asked(InOrder):
        def blocks(self) -> Iterator[Block]:
            threads.append(faiss.omp_get_max_threads())
            return super().blocks()

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        for name, wanted in (("faiss:PCA8,Flat", [1, 1]), ("faiss:IVF16,Flat", [2, 2])):
            threads: list[int] = []
            index_of(name)(InMemory(QUERIES), Asked(PASSAGES), K)
            assert threads[:2] == wanted and set(threads[2:]) == {2}
    finally:
        faiss.omp_set_num_threads(before)


def test_lists_do_not_hang_on_the_order_of_blocks(faiss: Any) -> None:
    index = index_of("faiss:IVF32,Flat:nprobe=2")
    one, other = (index(InMemory(QUERIES), part, K).arrays() for part in (InMemory(PASSAGES), InOrder(PASSAGES)))
    assert np.array_equal(one[1], other[1])


def test_in_parts_it_is_the_same(faiss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found("faiss:IVF32,Flat:nprobe=2").arrays()
    monkeypatch.setattr(ours, "PAIRS", 40 * (K + ours.MORE))
    steps: list[tuple[int, int]] = []
    parts = found("faiss:IVF32,Flat:nprobe=2", tile=13, progress=lambda *step: steps.append(step)).arrays()
    assert np.array_equal(whole[1], parts[1])
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert {total for _, total in steps} == {steps[-1][0]} == {3000 * 2 + 300}


def test_few_passages_are_searched_exactly(faiss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("faiss:IVF64,Flat:nprobe=1", passages=PASSAGES[: 64 * 39 - 1]).recall is None
    assert found("faiss:IVF64,Flat:nprobe=1", passages=PASSAGES[: 64 * 39]).recall is not None
    monkeypatch.setattr(ours, "WORTH", len(PASSAGES) + 1)
    assert found("faiss").recall is None
    assert found("faiss", queries=QUERIES[:0]).arrays()[0].shape == (0, K)


def test_the_usual_one_goes_by_size(faiss: Any) -> None:
    assert found("faiss", passages=clustered(6000, 2)).recall > 0.5
    assert [ours.usual(count) for count in (10_000, 200_000, 999_999, 1_000_000)] == [
        "IVF256,Flat", "IVF1024,Flat", "IVF2048,Flat", "IVF2048,SQ8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fais", "`index` is 'fais'; allowed: exact, faiss"),
        ("exact:5", "`index` is 'exact:5'; exact has no settings"),
        ("faiss:IVF", "`index` is 'faiss:IVF'; faiss says: could not parse index string IVF"),
        ("faiss:Flat:nprobe=3", "`index` is 'faiss:Flat:nprobe=3'; faiss says: .*could not set parameter nprobe"),
        ("faiss::nprob=3", "`index` is 'faiss:nprob=3'|could not set parameter nprob"),
    ],
)
def test_what_is_unknown_is_said_at_once(name: str, message: str, faiss: Any) -> None:
    with pytest.raises(UsageError, match=message):
        index_of(name)


def test_what_these_vectors_cannot_have_is_said(faiss: Any) -> None:
    with pytest.raises(UsageError, match=r"`index` is 'faiss:PQ5'; faiss says: .*multiple of the number of subquant"):
        found("faiss:PQ5")
    with pytest.raises(UsageError, match="16 dimensions and passages 8"):
        found("faiss:IVF16,Flat", passages=PASSAGES[:, :8])
    with pytest.raises(UsageError, match="16 dimensions and passages 8"):
        found("faiss:Flat", passages=PASSAGES[:, :8])


def test_missing_package_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"pip install 'retrieval-mixture\[faiss\]'"):
        index_of("faiss")


class Model:
    """Embeddings of texts that are numbers."""

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, texts: list[str], kind: str) -> np.ndarray:
        self.encoded += len(texts)
        return (QUERIES if kind == "query" else PASSAGES)[[int(text) for text in texts]]

    def space(self, kind: str) -> Space:
        return Space(model="numbers", prompt=kind)


def test_kept_embeddings_are_read_block_by_block(faiss: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded once, and then from their files each time: no array holds them all."""
    monkeypatch.setattr("mixture.embeddings.source.AT_ONCE", 500)
    read, sizes = KeptEmbeddings.read, []

    def spied(self: KeptEmbeddings, numbers: Any) -> Iterator[Block]:
        for block in read(self, numbers):
            sizes.append(len(block.numbers))
            yield block

    monkeypatch.setattr(KeptEmbeddings, "read", spied)
    texts = Strings(arrow_texts([str(number) for number in range(len(PASSAGES))]))
    for encoded in (3000, 0):
        model = Model()
        sizes.clear()
        source = Keeping(model, lambda name: tmp_path / name)
        best = index_of("faiss:IVF16,Flat:nprobe=16")(InMemory(QUERIES), source.vectors(texts, "passage"), K)
        assert model.encoded == encoded
        assert max(sizes) == 500 and sum(sizes) >= 3 * 3000
        assert best.recall == 1.0


def test_held_vectors_are_made_once() -> None:
    vectors = InOrder(PASSAGES)
    held = Held(vectors)
    for _ in range(3):
        blocks = list(held.blocks())
        assert sorted(number for block in blocks for number in block.numbers.tolist()) == list(range(3000))
        assert all(np.array_equal(block.vectors, PASSAGES[block.numbers]) for block in blocks)
    assert vectors.times == 1

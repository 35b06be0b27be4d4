"""The search in blocks gives what all scores at once and a stable sort give."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.embeddings import Block, InMemory, top_k
from mixture.errors import UsageError


class Shuffled:
    """Vectors in blocks of random sizes and in random order."""

    def __init__(self, vectors: np.ndarray, seed: int) -> None:
        self.vectors, self.seed = vectors.astype(np.float32), seed

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[Block]:
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(self))
        cuts = np.sort(rng.integers(0, len(self) + 1, 4))
        for part in np.split(order, cuts):
            if len(part):
                yield Block(part, self.vectors[part])


def brute_force(scores: np.ndarray, k: int) -> list[list[tuple[float, int]]]:
    """All scores, sorted: highest first, of equal ones the lower number."""
    return [[(float(row[n]), n) for n in sorted(range(len(row)), key=lambda n: (-row[n], n))[:k]] for row in scores]


@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 45), st.integers(0, 99), st.integers(1, 5), st.data())
def test_it_is_brute_force_ties_included(n: int, m: int, k: int, seed: int, tile: int, data: Any) -> None:
    """Of small whole numbers, whose products are exact however they are cut; many scores are equal, some below 0."""
    rng = np.random.default_rng(seed)
    queries, passages = rng.integers(-2, 3, (n, 3)), rng.integers(-2, 3, (m, 3))
    scores = (queries @ passages.T).astype(np.float32)
    pairs = (rng.integers(0, n, 15), rng.integers(0, m, 15))
    found = top_k(Shuffled(queries, seed), Shuffled(passages, seed + 1), k, pairs=pairs, tile=tile)
    wanted = brute_force(scores, k)
    assert [[*zip(*(part.tolist() for part in found[row]), strict=True)] for row in range(n)] == wanted
    assert found.pair_scores.tolist() == scores[pairs].tolist()
    all_scores, numbers = found.arrays()
    assert [[*zip(*pair, strict=True)] for pair in zip(all_scores.tolist(), numbers.tolist(), strict=True)] == wanted


def test_real_numbers_in_blocks_are_those_at_once() -> None:
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((size, 24)).astype(np.float32) for size in (300, 3000))
    at_once = np.sort(queries @ passages.T, axis=1)[:, ::-1][:, :50]
    scores, numbers = top_k(InMemory(queries, 70), InMemory(passages, 512), 50).arrays()
    np.testing.assert_allclose(scores, at_once, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(queries @ passages.T, numbers, 1), scores, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == 50 for row in numbers.tolist())


def test_ascending_scores_are_found_too() -> None:
    """Each block is better than all before it, so that every score reaches the best so far."""
    passages = np.arange(1, 5001, dtype=np.float32)[:, None]
    scores, numbers = top_k(InMemory(np.ones((3, 1), np.float32)), InMemory(passages, 100), 7).arrays()
    assert numbers.tolist() == [list(range(4999, 4992, -1))] * 3
    assert scores[0].tolist() == list(range(5000, 4993, -1))


def test_fewer_passages_than_asked_for_and_none() -> None:
    found = top_k(InMemory(np.ones((2, 1), np.float32)), InMemory(np.ones((3, 1), np.float32)), 5)
    assert found[0][1].tolist() == [0, 1, 2]
    nothing = top_k(InMemory(np.ones((2, 1), np.float32)), InMemory(np.empty((0, 1), np.float32)), 5)
    assert nothing[0][1].tolist() == []
    assert nothing.arrays()[0].shape == (2, 0)


def test_memory_is_blocks_and_results_not_all_scores() -> None:
    """2,000 x 40,000 scores would be 320 MB."""
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((size, 4)).astype(np.float32) for size in (2_000, 40_000))
    tracemalloc.start()
    top_k(InMemory(queries), InMemory(passages, 2_000), 20, tile=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_what_does_not_fit_is_refused() -> None:
    one = InMemory(np.ones((1, 2), np.float32))
    with pytest.raises(UsageError, match="2 dimensions and passages 3"):
        top_k(one, InMemory(np.ones((1, 3), np.float32)), 1)
    with pytest.raises(UsageError, match="`k` and `tile` must be 1 or more"):
        top_k(one, one, 0)

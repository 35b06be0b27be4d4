"""Groups by cosine: those of all pairs at once, however the vectors are cut into blocks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from mixture.dedup.cosines import cosine_groups, cosines
from mixture.embeddings import Block, InMemory


class Shuffled:
    """Vectors in blocks of random sizes and in random order, the same each time."""

    def __init__(self, vectors, seed):
        self.vectors, self.seed = vectors.astype(np.float32), seed

    def __len__(self):
        return len(self.vectors)

    def blocks(self):
        rng = np.random.default_rng(self.seed)
        for part in np.split(rng.permutation(len(self)), np.sort(rng.integers(0, len(self) + 1, 4))):
            if len(part):
                yield Block(part, self.vectors[part])


def components(linked):
    """For each row the smallest row that it hangs together with; linked: (n, n)."""
    label = connected_components(linked, directed=False)[1]
    first = np.full(len(linked), len(linked))
    np.minimum.at(first, label, np.arange(len(linked)))
    return first[label].tolist()


@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([3, 4, 5]), st.integers(0, 99), st.integers(1, 9))
def test_it_is_brute_force_and_a_cosine_at_the_threshold_counts(n, d, fifths, seed, tile):
    """In whole numbers: (3, 4) and (0, 1) have the cosine 4/5 and no rounding decides."""
    vectors = np.random.default_rng(seed).integers(-4, 5, (n, d))
    products = vectors @ vectors.T
    lengths = np.outer(np.diag(products), np.diag(products))
    linked = (products > 0) & (25 * products**2 >= fifths**2 * lengths)
    found = cosine_groups(Shuffled(vectors, seed), fifths / 5, tile=tile)
    assert found.tolist() == components(linked)


def near(n, d, seed):
    """n vectors of any length in families whose cosines lie about 0.95."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n // 4, d))[rng.integers(0, n // 4, n)] + 0.23 * rng.standard_normal((n, d))
    return (vectors * rng.uniform(0.01, 100, (n, 1))).astype(np.float32)


def test_real_numbers_are_judged_alike_however_they_are_cut():
    vectors = near(1500, 96, 0)
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    all_cosines = wide @ wide.T
    assert (np.abs(all_cosines - 0.95) < 1e-5).sum() >= 2  # nearer than float32 can tell
    expected = components(all_cosines >= 0.95)
    assert 300 < sum(row != first for row, first in enumerate(expected)) < 1200
    for vectors_in_blocks, tile in (
        (InMemory(vectors, 7), 256),
        (InMemory(vectors, 400), 3),
        (Shuffled(vectors, 1), 64),
    ):
        assert cosine_groups(vectors_in_blocks, 0.95, tile=tile).tolist() == expected


def test_a_threshold_is_told_from_a_cosine_that_float32_takes_for_it():
    for pair in near(100, 300, 4).reshape(50, 2, 300):
        cosine = abs(float(cosines(pair[:1], pair[1:])[0]))
        vectors = InMemory((pair * [[1], [np.sign(pair[0] @ pair[1])]]).astype(np.float32))
        assert cosine_groups(vectors, cosine).tolist() == [0, 0]
        assert cosine_groups(vectors, cosine + 3e-9).tolist() == [0, 1]


def test_links_chain():
    turned = np.radians([0, 15, 30, 45, 90])
    vectors = InMemory(np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32))
    assert cosine_groups(vectors, 0.96).tolist() == [0, 0, 0, 0, 4]
    assert cosine_groups(vectors, 0.97).tolist() == [0, 1, 2, 3, 4]


def test_equal_vectors_are_near_at_1_whatever_their_length_and_zeros_are_near_to_nothing():
    vectors = near(4, 50, 3)
    rows = np.concatenate([vectors, vectors * 3, vectors * 1e-20, vectors * 1e20, np.zeros((2, 50), np.float32)])
    assert cosine_groups(InMemory(rows), 1.0).tolist() == [0, 1, 2, 3] * 4 + [16, 17]
    assert cosine_groups(InMemory(np.empty((0, 0), np.float32)), 0.5).tolist() == []


def test_cosines_of_pairs():
    left, right = near(50, 9, 1), near(50, 9, 2)
    left[7] = 0
    expected = [a @ b / max(1e-9, np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(cosines(left, right), expected, atol=1e-6)
    assert cosines(left[:1], left[:1]).tolist() == [1.0]


def test_memory_is_a_tile_and_not_all_pairs():
    vectors = InMemory(near(4000, 8, 0), 512)
    cosine_groups(vectors, 0.95)
    tracemalloc.start()
    cosine_groups(vectors, 0.95)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 4000 / 8


@pytest.mark.parametrize("least", [0.9, 1.0])
def test_thousands_of_equal_vectors_are_one_group_and_progress_is_told(least):
    counted = []
    vectors = np.tile(near(4, 256, 0)[:1], (3000, 1))
    found = cosine_groups(InMemory(vectors, 1000), least, progress=lambda *numbers: counted.append(numbers))
    assert not found.any()
    assert counted == [(1000, 3000), (2000, 3000), (3000, 3000)]

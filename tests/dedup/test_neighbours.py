import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.dedup import cross_pairs, near_duplicates, neighbours
from mixture.errors import MixtureError, UsageError


def brute(left, right, distance):
    return np.argwhere(np.bitwise_count(left[:, None] ^ right[None, :]) <= distance)


def planted(seed=0, num=1500, flips=9):
    """Random fingerprints, and as many copies of some of them with 0 to `flips` bits flipped, shuffled."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, num, dtype=np.uint64)
    copies = base[rng.integers(0, num, num)]
    for row, count in enumerate(rng.integers(0, flips + 1, num)):
        for bit in rng.choice(64, count, replace=False):
            copies[row] ^= np.uint64(1) << np.uint64(bit)
    return rng.permutation(np.concatenate([base, copies]))


@pytest.mark.parametrize("distance", range(8))
def test_all_pairs_as_by_brute_force(distance):
    values = planted()
    expected = brute(values, values, distance)
    expected = expected[expected[:, 0] < expected[:, 1]]
    found = near_duplicates(values, distance)
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)  # the same pairs in the same order, none twice
    assert len(found) > 100


@pytest.mark.parametrize("distance", range(8))
def test_cross_pairs_as_by_brute_force(distance):
    values = planted(1)
    left, right = values[:1000], values[1000:]
    found = cross_pairs(left, right, distance)
    assert found.dtype == np.int64
    assert np.array_equal(found, brute(left, right, distance))
    assert len(found) > 50


@pytest.mark.parametrize("blocks", range(1, 13))
def test_any_number_of_blocks_is_exact(monkeypatch, blocks):
    """The number of blocks is only a matter of speed; small inputs would otherwise never use most of them."""
    values = planted(2, num=300)
    for distance in range(min(blocks, 8)):
        monkeypatch.setattr(neighbours, "_num_blocks", lambda rows, distance: blocks)
        expected = brute(values, values, distance)
        assert np.array_equal(near_duplicates(values, distance), expected[expected[:, 0] < expected[:, 1]])


def test_more_rows_use_longer_keys():
    assert neighbours._num_blocks(1_000, 3) == 4 < neighbours._num_blocks(10_000_000, 3)


def test_exactly_at_the_distance_and_one_beyond():
    """Every choice of blocks is needed: spread the differing bits over them in all ways."""
    rng = np.random.default_rng(3)
    for distance in range(1, 8):
        for _ in range(50):
            bits = rng.choice(64, distance + 1, replace=False)
            near = sum(1 << int(bit) for bit in bits[:-1])
            far = near | 1 << int(bits[-1])
            assert near_duplicates(np.array([0, near], dtype=np.uint64), distance).tolist() == [[0, 1]]
            assert near_duplicates(np.array([0, far], dtype=np.uint64), distance).tolist() == []


def test_highest_and_lowest_bit():
    values = np.array([0, 1, 1 << 63, (1 << 64) - 1], dtype=np.uint64)
    assert near_duplicates(values, 2).tolist() == [[0, 1], [0, 2], [1, 2]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 7), st.integers(0, 63))
def test_invariants(numbers, distance, bit):
    values = np.array(numbers, dtype=np.uint64)
    pairs = near_duplicates(values, distance)
    flipped = near_duplicates(values ^ np.uint64(1 << bit), distance)  # the same bit of all: distances stay
    both = cross_pairs(values, values, distance)
    assert np.array_equal(pairs, flipped)
    assert np.array_equal(pairs, both[both[:, 0] < both[:, 1]])
    assert len(both) == 2 * len(pairs) + len(values)


def test_equal_fingerprints_cost_only_their_pairs():
    start = time.perf_counter()
    pairs = near_duplicates(np.full(2000, 12345, dtype=np.uint64), 3)
    assert time.perf_counter() - start < 3
    assert len(pairs) == 2000 * 1999 // 2
    assert np.array_equal(pairs[[0, 1, -1]], [[0, 1], [0, 2], [1998, 1999]])


def test_equal_keys_stay_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(neighbours, "_CANDIDATES", 50)
    values = np.arange(200, dtype=np.uint64)  # all blocks but the lowest are equal
    expected = brute(values, values, 2)
    assert np.array_equal(near_duplicates(values, 2), expected[expected[:, 0] < expected[:, 1]])


def test_a_flood_is_refused_before_it_fills_the_memory():
    same = np.zeros(100_000, dtype=np.uint64)
    with pytest.raises(MixtureError, match="collapse equal texts"):
        near_duplicates(same, 0)
    with pytest.raises(MixtureError, match="collapse equal texts"):
        cross_pairs(same, same, 3)


@pytest.mark.parametrize("distance", [-1, 8, 64, 2.0, None, True, "3"])
def test_distance_out_of_range(distance):
    with pytest.raises(UsageError, match="0 to 7"):
        near_duplicates(np.zeros(2, dtype=np.uint64), distance)
    with pytest.raises(UsageError, match="0 to 7"):
        cross_pairs(np.zeros(2, dtype=np.uint64), np.zeros(2, dtype=np.uint64), distance)


@pytest.mark.parametrize("values", [np.zeros(2, np.int64), np.zeros((2, 2), np.uint64), np.zeros(2), [1.5, 2.5]])
def test_only_uint64_vectors(values):
    with pytest.raises(UsageError, match="uint64"):
        near_duplicates(values, 3)


@pytest.mark.parametrize("num", [0, 1])
def test_nothing_to_pair(num):
    values = np.zeros(num, dtype=np.uint64)
    found = near_duplicates(values, 3)
    assert found.shape == (0, 2) and found.dtype == np.int64
    assert cross_pairs(values, values[:0], 3).shape == (0, 2)
    assert cross_pairs(values[:0], values, 3).dtype == np.int64


def test_the_input_is_not_changed():
    values = planted(4, num=50)
    before = values.copy()
    near_duplicates(values, 3)
    cross_pairs(values, values, 3)
    assert np.array_equal(values, before)

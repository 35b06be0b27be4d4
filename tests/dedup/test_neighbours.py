import gzip
import json
import time

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mixture.dedup import blocks, cross_pairs, near_duplicate_groups, near_duplicates, neighbours, simhash_fingerprints
from mixture.errors import MixtureError, UsageError


def brute(left, right, distance):
    return np.argwhere(np.bitwise_count(left[:, None] ^ right[None, :]) <= distance)


@numba.njit
def count_bits(word):
    count = 0
    while word:
        word &= word - np.uint64(1)
        count += 1
        if count > 7:
            break
    return count


@numba.njit
def brute_compiled(values, most):
    """All pairs i < j within `most` (up to 7) bits, in order, and their distances; nothing but two loops."""
    pairs, bits = [(0, 0)], [0]
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            count = count_bits(values[i] ^ values[j])
            if count <= most:
                pairs.append((i, j))
                bits.append(count)
    return np.array(pairs)[1:], np.array(bits)[1:]


def assert_as_by_brute_force(values, distances=range(8)):
    pairs, bits = brute_compiled(values, max(distances))
    for distance in distances:
        expected = pairs[bits <= distance]
        found = near_duplicates(values, distance)
        assert found.dtype == np.int64
        assert np.array_equal(found, expected), distance  # the same pairs in the same order, none twice
        assert np.array_equal(near_duplicate_groups(values, distance), labels(len(values), expected)), distance
    return bits


def labels(num, pairs):
    """The smallest row of each row's group."""
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    group = connected_components(graph, directed=False)[1]
    smallest = np.full(num, num)
    np.minimum.at(smallest, group, np.arange(num))
    return smallest[group]


def flipped(rng, values, flips):
    """Each value with 0 to `flips` random bits turned."""
    out = values.copy()
    for row, count in enumerate(rng.integers(0, flips + 1, len(values))):
        for bit in rng.choice(64, count, replace=False):
            out[row] ^= np.uint64(1) << np.uint64(bit)
    return out


def planted(seed=0, num=1500, flips=9):
    """Random fingerprints, and as many copies of some of them with 0 to `flips` bits flipped, shuffled."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, num, dtype=np.uint64)
    return rng.permutation(np.concatenate([base, flipped(rng, base[rng.integers(0, num, num)], flips)]))


def test_random_as_by_brute_force():
    """Random ones alone have hardly a pair, so a quarter are copies of others with bits flipped."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**64, 15_000, dtype=np.uint64)
    values = rng.permutation(np.concatenate([base, flipped(rng, base[:5000], 9)]))
    assert len(assert_as_by_brute_force(values)) > 3000


def test_real_as_by_brute_force(real_data):
    with gzip.open(real_data / "raw" / "altlex" / "altlex.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [text for line in file for text in json.loads(line)]
    bits = assert_as_by_brute_force(simhash_fingerprints(texts[:20_000]))
    assert all((bits == distance).sum() > 10 for distance in range(8))


def test_equal_in_three_blocks_of_four():
    """Whatever block is taken, a set with few varying bits must not be compared as a whole."""
    rng = np.random.default_rng(2)
    low = rng.permutation(2**16)[:20_000].astype(np.uint64)
    values = np.uint64(0xABCDEF0123456789) ^ (low << np.uint64(24))
    assert_as_by_brute_force(values, [0, 1, 3])
    assert_as_by_brute_force(values[:2500])


def comparisons(monkeypatch, values, distance):
    """How many pairs the search compares, as a share of all."""
    done, compare = [], blocks._compare

    def counting(part, rows, masks, bounds, *rest):
        sizes = bounds[:, 1] - bounds[:, 0]
        done.append(int((sizes * (sizes - 1)).sum()))
        return compare(part, rows, masks, bounds, *rest)

    monkeypatch.setattr(blocks, "_compare", counting)
    monkeypatch.setattr(blocks, "_BUFFER", 2**24)  # one call for each part
    near_duplicate_groups(values, distance)
    return sum(done) / (len(values) * (len(values) - 1))


def test_skewed_sets_are_split_on_the_bits_that_vary_and_again(monkeypatch):
    """48 bits are equal, but for one of them in every twentieth row.

    Blocks that do not look at the data would hold all varying bits in one: all pairs are compared. Without a second
    split it is a quarter.
    """
    monkeypatch.setattr(blocks, "LEAF", 256)
    rng = np.random.default_rng(5)
    numbers = rng.permutation(2**16)[:20_000].astype(np.uint64)
    varying = [8 * byte + bit for byte in range(8) for bit in (0, 7)]
    values = np.zeros_like(numbers)
    for place, bit in enumerate(varying):
        values |= (numbers >> np.uint64(place) & np.uint64(1)) << np.uint64(bit)
    rare = np.uint64(1) << rng.choice(np.setdiff1d(np.arange(64), varying), 20_000).astype(np.uint64)
    values ^= np.where(np.arange(20_000) % 20 == 0, rare, np.uint64(0))
    assert comparisons(monkeypatch, values, 3) < 0.15


@pytest.mark.parametrize("flips", [3, 8, 20])
def test_all_around_one_fingerprint(flips):
    """Every bit varies, but rarely: the worst case of a search by blocks."""
    rng = np.random.default_rng(flips)
    values = flipped(rng, np.full(2500, 0x123456789ABCDEF0, dtype=np.uint64), flips)
    assert_as_by_brute_force(values, [1, 3, 6])


def test_groups_within_groups(monkeypatch):
    """Small leaves and single tasks, so that every level of the search and every way to hand on its parts is used."""
    monkeypatch.setattr(blocks, "LEAF", 4)
    monkeypatch.setattr(blocks, "_OWN_TASK", 300)
    monkeypatch.setattr(blocks, "_WORK", 1000)
    monkeypatch.setattr(blocks, "_MAX_WIDTH", 5)
    monkeypatch.setattr(blocks, "_SMALL_GROUP", 1)
    monkeypatch.setattr(blocks, "_MOVE", 0)
    monkeypatch.setattr(blocks, "_BUFFER", 3)
    values = planted(7, num=1500)
    assert_as_by_brute_force(values)
    for distance in (0, 2, 5):
        assert np.array_equal(
            cross_pairs(values[:500], values[500:], distance), brute(values[:500], values[500:], distance)
        )


def test_number_of_threads_does_not_matter(monkeypatch):
    values = planted(8, num=20_000)
    expected = near_duplicates(values, 3), near_duplicate_groups(values, 3)
    for threads in (1, 5):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        assert np.array_equal(near_duplicates(values, 3), expected[0])
        assert np.array_equal(near_duplicate_groups(values, 3), expected[1])


@pytest.mark.parametrize("distance", range(8))
def test_cross_pairs_as_by_brute_force(distance):
    values = planted(1)
    for left, right in ((values[:1000], values[1000:]), (values[:30], values), (values, values[-2:])):
        found = cross_pairs(left, right, distance)
        assert found.dtype == np.int64
        assert np.array_equal(found, brute(left, right, distance))
    assert len(cross_pairs(values[:1000], values[1000:], distance)) > 50


def test_cross_pairs_of_sets_with_equal_rows():
    values = np.repeat(planted(3, num=50), 3)
    assert np.array_equal(cross_pairs(values[:100], values, 4), brute(values[:100], values, 4))


def test_groups_take_only_accepted_pairs(monkeypatch):
    monkeypatch.setattr(neighbours, "_ACCEPT_ROWS", 50)
    values = np.concatenate([planted(4, num=400), planted(4, num=400)[:100]])
    asked = []

    def accept(pairs):
        asked.append(pairs)
        return (pairs.sum(axis=1) % 3 > 0) & (pairs[:, 0] < pairs[:, 1])

    found = near_duplicate_groups(values, 3, accept)
    pairs = near_duplicates(values, 3)
    assert np.array_equal(found, labels(len(values), pairs[pairs.sum(axis=1) % 3 > 0]))
    assert {tuple(pair) for part in asked for pair in part.tolist()} <= {tuple(pair) for pair in pairs.tolist()}
    assert max(map(len, asked)) <= 50


def test_groups_of_a_million_equal_fingerprints():
    values = np.full(1_000_000, 77, dtype=np.uint64)
    values[500_000:500_002] = 76
    near_duplicate_groups(values[:2], 1)
    start = time.perf_counter()
    found = near_duplicate_groups(values, 1)
    assert time.perf_counter() - start < 3
    assert not found.any()
    assert np.flatnonzero(near_duplicate_groups(values, 0)).tolist() == [500_000, 500_001]


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
        near_duplicate_groups(np.zeros(2, dtype=np.uint64), distance)
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
    assert near_duplicate_groups(values, 3).tolist() == list(range(num))
    assert cross_pairs(values, values[:0], 3).shape == (0, 2)
    assert cross_pairs(values[:0], values, 3).dtype == np.int64


def test_the_input_is_not_changed():
    values = planted(4, num=50)
    before = values.copy()
    near_duplicates(values, 3)
    near_duplicate_groups(values, 3)
    cross_pairs(values, values, 3)
    assert np.array_equal(values, before)

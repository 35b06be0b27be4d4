import random

import numpy as np
import pytest

from mixture.dedup import bands, simhash_fingerprints
from mixture.dedup.duplicates import duplicate_groups
from mixture.dedup.second_look import Verifier


def edited(text, edits, rng):
    """The text with letters replaced at random places."""
    chars = list(text)
    for place in rng.sample(range(len(chars)), edits):
        chars[place] = rng.choice("abcdefgh")
    return "".join(chars)


def copies(num, edits, seed=5):
    """Texts at even rows, an edited copy of each after it."""
    rng = random.Random(seed)
    texts = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz  ", k=140)) for _ in range(num)]
    return [form for text in texts for form in (text, edited(text, edits, rng))]


def proposed(prints, num_blocks, similarity):
    packed = np.concatenate(list(bands.proposed_pairs(prints, num_blocks, similarity)))
    return [(int(word) >> 32, int(word) & 0xFFFFFFFF) for word in packed]


def naive(prints, num_blocks, similarity):
    """The definition: one block of one fingerprint is equal, and few bits of all differ."""
    width, k = 64 // num_blocks, prints.shape[1]
    most = int(bands.most_bits(similarity) * 64 * k)
    found = set()
    for i in range(len(prints)):
        for j in range(i + 1, len(prints)):
            differ = prints[i] ^ prints[j]
            agree = any(
                int(word) >> shift & (2**width - 1) == 0 for word in differ for shift in range(0, 65 - width, width)
            )
            if agree and int(np.bitwise_count(differ).sum()) <= most:
                found.add((i, j))
    return found


@pytest.mark.parametrize("num_blocks", [2, 3, 4])
def test_proposed_pairs_are_those_of_the_definition_each_once(num_blocks):
    prints = bands.many_fingerprints(copies(40, 2) + copies(40, 5, seed=6) + copies(40, 9, seed=7))
    found = proposed(prints, num_blocks, 0.8)
    assert len(found) == len(set(found)) > 30
    expected = naive(prints, num_blocks, 0.8)
    assert set(found) <= expected
    # a pair is passed over when the two fingerprints that are looked at first differ in far more bits than all do
    assert len(found) >= 0.98 * len(expected)


def test_fingerprints_are_independent_of_each_other_and_near_for_near_texts():
    prints = bands.many_fingerprints(copies(200, 3))
    assert prints.shape == (400, bands.NUM_FINGERPRINTS)
    within = np.bitwise_count(prints[:, :-1] ^ prints[:, 1:]).mean()
    near = np.bitwise_count(prints[::2] ^ prints[1::2]).mean()
    unlike = np.bitwise_count(prints[::2] ^ np.roll(prints[1::2], 1, axis=0)).mean()
    assert 31 < within < 33
    assert near < 12 < 28 < unlike


@pytest.mark.parametrize("similarity", [0.6, 0.7, 0.8, 0.9])
def test_bits_that_may_differ_are_those_expected_of_the_similarity(similarity):
    """Texts of random letters hardly repeat an n-gram: most pairs of this Jaccard similarity stay within the share."""
    assert bands.most_bits(similarity) <= bands.most_bits(similarity - 0.1)
    texts = copies(300, {0.6: 12, 0.7: 8, 0.8: 5, 0.9: 2}[similarity])
    pairs = np.arange(600).reshape(-1, 2)
    jaccard = Verifier(texts, None, same_numbers=False).similarities(pairs)
    prints = bands.many_fingerprints(texts)
    share = np.bitwise_count(prints[::2] ^ prints[1::2]).sum(axis=1) / (64 * prints.shape[1])
    alike = np.abs(jaccard - similarity) < 0.02
    assert alike.sum() > 20
    assert (share[alike] <= bands.most_bits(similarity)).mean() > 0.95
    assert (share[alike] > bands.most_bits(min(1.0, similarity + 0.15))).mean() > 0.5  # the bound is not idle


def test_verified_duplicates_include_those_too_far_apart_for_one_fingerprint():
    texts = copies(300, 4)
    pairs = np.arange(600).reshape(-1, 2)
    alike = Verifier(texts, 0.8, same_numbers=True).accept_pairs(pairs)
    prints = simhash_fingerprints(texts)
    far = alike & (np.bitwise_count(prints[::2] ^ prints[1::2]) > 7)
    assert far.sum() > 50
    groups = duplicate_groups(texts)
    assert (groups[1::2] == groups[::2])[far].mean() > 0.95
    assert not (groups[1::2] == groups[::2])[~alike].any()
    assert (duplicate_groups(texts, distance=0)[1::2] != np.arange(600)[::2])[far].all()


def test_short_texts_are_compared_too():
    texts = ["abcdefghijkl", "abcdefghijklm", "nopqrstuvw", "no"]  # 10 and 11 n-grams, 10 shared
    assert duplicate_groups(texts).tolist() == [0, 0, 2, 3]
    assert duplicate_groups(texts, verify=0.95).tolist() == [0, 1, 2, 3]


def test_texts_without_n_grams():
    prints = bands.many_fingerprints(["", "a", "ab", "a"])
    assert (prints[1] == prints[3]).all() and not (prints[0] == prints[1]).any()
    assert bands.many_fingerprints([]).shape == (0, bands.NUM_FINGERPRINTS)
    assert list(bands.proposed_pairs(bands.many_fingerprints([]), 4, 0.8)) == []


def test_many_texts_of_one_template_do_not_cost_the_square():
    """All agree on most blocks and are near in all bits: of 2 million pairs, each text is proposed with few others."""
    draw = np.random.default_rng(3)
    prints = draw.integers(0, 2**16, (2_000, bands.NUM_FINGERPRINTS), dtype=np.uint64) << np.uint64(48)
    found = np.concatenate(list(bands.proposed_pairs(prints, 4, 0.8)))
    assert 2_000 < len(found) <= 2_000 * 256
    assert len(np.unique(found)) == len(found)


def test_the_outcome_does_not_depend_on_the_number_of_threads(monkeypatch):
    prints = bands.many_fingerprints(copies(300, 4))
    found = proposed(prints, 4, 0.8)
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 1)
    assert proposed(prints, 4, 0.8) == found

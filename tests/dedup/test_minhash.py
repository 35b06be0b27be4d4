import random

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash

from mixture.dedup import normalise_text
from mixture.dedup.minhash import minhash_pairs, signatures
from mixture.dedup.second_look import Verifier
from mixture.dedup.simhash import GRAM
from mixture.errors import UsageError


def grams(text):
    form = normalise_text(text)
    return {form[i : i + GRAM] for i in range(len(form) - GRAM + 1)} or {form}


def similar(texts, threshold):
    """The pairs i < j with at least this Jaccard similarity, by sets."""
    sets = [grams(text) for text in texts]
    pairs = ((i, j) for j in range(len(sets)) for i in range(j))
    return {(i, j) for i, j in pairs if len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j])}


def families(seed, num):
    """Texts in families of near-equal ones, from few edits to many."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz     "
    bases = ["".join(rng.choices(letters, k=rng.randint(1, 120))) for _ in range(num // 8)]
    texts = []
    for _ in range(num):
        text = list(rng.choice(bases))
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 5, 12])):
            text[rng.randrange(len(text))] = rng.choice(letters)
        texts.append("".join(text))
    return texts


@pytest.mark.parametrize(("threshold", "num_perm"), [(0.5, 128), (0.8, 128), (0.9, 256)])
def test_no_pair_is_wrong_and_few_are_missing(threshold, num_perm):
    texts = families(1, 300)
    right = similar(texts, threshold)
    found = minhash_pairs(texts, threshold=threshold, num_perm=num_perm)
    assert found.dtype == np.int64
    pairs = [tuple(pair) for pair in found.tolist()]
    assert pairs == sorted(set(pairs) & right)
    assert len(found) >= 0.93 * len(right) > 150


def test_signatures_are_those_of_datasketch():
    """Computed here for speed; the library's own must come out. Its input: the low halves of the n-grams' hashes."""
    texts = ["what is dense retrieval", "", "红楼梦的作者", "a b c d e f"]
    reference = []
    for text in texts:
        minhash = MinHash(num_perm=32, hashfunc=int)
        minhash.update_batch([value & 0xFFFFFFFF for value in python_hashes(text)])
        reference.append(minhash.hashvalues)
    assert np.array_equal(signatures(texts, 32), np.stack(reference))


def python_hash(start, text):
    value = start % 2**64
    for char in text:
        value = ((value ^ ord(char)) + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        value ^= value >> 31
    return value


def python_hashes(text):
    width = 2 if "红" in text else 3
    found = [python_hash(width, text[i : i + width]) for i in range(len(text) - width + 1)]
    return found or [python_hash(len(text) + 0x2545F4914F6CDD1D, text)]


def test_equal_normal_forms_are_pairs_however_many():
    texts = pa.chunked_array([["Why?", "who", "why"], [" WHY ", ""], ["!", ""]])
    assert minhash_pairs(texts).tolist() == [[0, 2], [0, 3], [2, 3], [4, 6]]
    assert len(minhash_pairs(["same"] * 1000 + ["other"])) == 1000 * 999 // 2


@pytest.mark.parametrize("empty", [[], pa.array([], pa.string()), pa.chunked_array([], pa.string()), ["one"]])
def test_nothing_to_pair(empty):
    found = minhash_pairs(empty)
    assert found.shape == (0, 2) and found.dtype == np.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "0.1 to 0.95"),
        ({"threshold": 80}, "0.1 to 0.95"),
        ({"threshold": True}, "0.1 to 0.95"),
        ({"num_perm": 2}, "16 to 1024"),
        ({"num_perm": 128.0}, "16 to 1024"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        minhash_pairs(["a"], **options)


def test_nulls_are_refused():
    with pytest.raises(UsageError, match="null"):
        minhash_pairs(pa.array(["a", None]))


def test_candidates_in_parts(monkeypatch):
    texts = families(2, 300)
    whole = minhash_pairs(texts)
    monkeypatch.setattr("mixture.dedup.minhash._CANDIDATES", 5)
    assert np.array_equal(minhash_pairs(texts), whole)
    assert (Verifier(texts, 0.8, same_numbers=False).similarities(whole) >= 0.8).all()

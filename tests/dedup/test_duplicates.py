import math
import random
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.dedup import find_duplicates, simhash_fingerprints
from mixture.dedup.duplicates import REMOVED
from mixture.dedup.methods import METHODS
from mixture.dedup.methods.simhash import _of_equal_fingerprints
from mixture.dedup.second_look import Verifier
from mixture.errors import UsageError

BASE = "what is the name of the river that runs through the old town and past the mill before it meets the sea"
TYPO = BASE.replace("mill before", "mil before")
OTHER = "how many people live in the largest province of the country and what do most of them do for a living"


def removed(texts, ids=None, **options):
    ids = ids or [f"{row:04d}" for row in range(len(texts))]
    table = find_duplicates(texts, ids, **options)
    assert table.schema == REMOVED
    return {row["removed"]: (row["kept"], row["distance"]) for row in table.to_pylist()}


def bits(a, b):
    first, second = simhash_fingerprints([a, b]).tolist()
    return (first ^ second).bit_count()


def test_exact_is_equality_of_the_normal_form():
    texts = ["Why is it?", "why  IS it", "why is it not", BASE, TYPO]
    assert removed(texts, ["b", "a", "c", "d", "e"], method="exact") == {"b": ("a", 0)}


def test_simhash_finds_near_equal_texts_with_their_distance():
    assert 0 < bits(BASE, TYPO) <= 7
    assert removed([TYPO, OTHER, BASE], ["x", "y", "a"], distance=7) == {"x": ("a", bits(BASE, TYPO))}
    assert removed([TYPO, OTHER, BASE], distance=0) == {}


def test_simhash_finds_equal_short_texts_too():
    assert removed(["Why?", "why", "who"]) == {"0001": ("0000", 0)}


def test_chains_end_at_one_keeper():
    """Links a-b and b-c without a-c: all three are one group."""
    pieces = [BASE, BASE.replace("what", "whats"), BASE.replace("what", "whats").replace("name", "nam")]
    step = max(bits(pieces[0], pieces[1]), bits(pieces[1], pieces[2]))
    assert step < bits(pieces[0], pieces[2])
    found = removed(pieces, ["b", "c", "a"], distance=step)
    assert found == {"b": ("a", bits(pieces[0], pieces[2])), "c": ("a", bits(pieces[1], pieces[2]))}


def test_numbers_must_agree_unless_nothing_is_verified():
    texts = [BASE + " in the year 1914", BASE + " in the year 1917"]
    assert bits(*texts) <= 7
    assert removed(texts, distance=7, verify=1e-9) == {}
    assert len(removed(texts, distance=7, verify=None)) == 1


def test_verification_is_a_threshold_on_shared_grams():
    assert len(removed([BASE, TYPO], distance=7, verify=0.9)) == 1
    assert removed([BASE, TYPO], distance=7, verify=1.0) == {}


def test_texts_with_one_fingerprint_are_verified_too():
    """The same grams in another order: equal fingerprints, equal grams, different text; numbers tell two apart."""
    same = ["aaaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    assert bits(*same) == 0
    assert removed(same) == {"0001": ("0000", 0)}
    numbers = ["11111111111111111111111", "1111111111111111111111111"]
    assert bits(*numbers) == 0
    assert removed(numbers) == {}
    assert len(removed(numbers, verify=None)) == 1


def sample_texts(seed, num):
    """Texts in families of near-equal ones: a few edits on a few bases."""
    rng = random.Random(seed)
    vocabulary = [
        "river",
        "mountain",
        "council",
        "1914",
        "1917",
        "music",
        "engine",
        "hospital",
        "红楼梦",
        "ทีมรับ",
        "über",
    ]
    bases = [" ".join(rng.choices(vocabulary, k=rng.randint(2, 25))) for _ in range(6)]
    texts = []
    for _ in range(num):
        text = rng.choice(bases)
        if rng.random() < 0.6:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(["", "x", "?", " "]) + text[place + 1 :]
        texts.append(text.upper() if rng.random() < 0.2 else text)
    return texts


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["simhash", "exact"]), st.integers(0, 7), st.sampled_from([None, 0.8]))
def test_order_does_not_matter_and_a_second_run_removes_nothing(seed, method, distance, verify):
    texts = sample_texts(seed, 40)
    ids = [f"id{row * 7919 % 40:02d}" for row in range(40)]
    options = {"method": method, "distance": distance, "verify": verify}
    found = removed(texts, ids, **options)
    order = random.Random(seed).sample(range(40), 40)
    assert removed([texts[row] for row in order], [ids[row] for row in order], **options) == found
    assert not {kept for kept, _ in found.values()} & set(found)  # no keeper is removed
    assert all(kept < twin for twin, (kept, _) in found.items())
    text_of = dict(zip(ids, texts, strict=True))
    assert all(distance == bits(text_of[twin], text_of[kept]) for twin, (kept, distance) in found.items())
    left = [row for row in range(40) if ids[row] not in found]
    assert removed([texts[row] for row in left], [ids[row] for row in left], **options) == {}


def test_many_equal_rows_cost_nothing_extra():
    start = time.perf_counter()
    found = removed([BASE] * 100_000 + [TYPO], [f"{row:06d}" for row in range(100_001)], distance=7)
    assert time.perf_counter() - start < 10
    assert len(found) == 100_000
    assert {kept for kept, _ in found.values()} == {"000000"}


def test_arrow_input_and_empty_input():
    keys = pa.chunked_array([["Why?"], ["why"]], pa.large_string())
    ids = pa.array(["a", "b"])
    assert find_duplicates(keys, ids)["removed"].to_pylist() == ["b"]
    for method in ("simhash", "exact"):
        empty = find_duplicates([], [], method=method)
        assert empty.num_rows == 0 and empty.schema == REMOVED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lsh"}, "exact, minhash, semantic, simhash"),
        *(
            ({"method": method} | wrong, message)
            for method in METHODS
            for wrong, message in (
                ({"distance": 8}, "`distance` is 8; allowed: whole numbers from 0 to 7"),
                ({"distance": 3.0}, "`distance` is 3.0; allowed"),
                ({"verify": 80}, "`verify` is 80; allowed: above 0 to 1, or none"),
                ({"verify": 0}, "`verify` is 0; allowed: above 0 to 1, or none"),
                ({"verify": True}, "`verify` is True; allowed"),
                ({"verify": math.nan}, "`verify` is nan; allowed"),
                ({"similarity": 0}, "`similarity` is 0; allowed: above 0 to 1"),
                ({"similarity": 1.01}, "`similarity` is 1.01; allowed"),
                ({"similarity": math.nan}, "`similarity` is nan; allowed"),
                ({"similarity": True}, "`similarity` is True; allowed"),
            )
        ),
        ({"method": "semantic"}, "the method semantic needs `encode`"),
        ({"ids": ["a"]}, "one id for each"),
        ({"ids": ["a", "a"]}, "'a' occurs more than once"),
        ({"keys": ["a", None]}, "row 1 is NoneType"),
    ],
)
def test_wrong_values_are_refused(change, message):
    arguments = {"keys": ["x", "y"], "ids": ["a", "b"]} | change
    with pytest.raises(UsageError, match=message):
        find_duplicates(arguments.pop("keys"), arguments.pop("ids"), **arguments)


def test_minhash_finds_what_has_many_bits_apart():
    edited = BASE.replace("river", "stream").replace("old", "ancient")
    assert bits(BASE, edited) > 3
    assert removed([BASE, OTHER, edited], method="minhash", verify=0.6) == {"0002": ("0000", bits(BASE, edited))}
    assert removed([BASE, OTHER, edited]) == {}


def test_thousands_of_texts_with_one_fingerprint_are_told_apart():
    families = [BASE, OTHER, "a third text that has nothing in common with either of the first two, as one can see"]
    texts = pa.array([families[row % 3] + (" indeed" * (row % 2)) for row in range(3000)])
    found = _of_equal_fingerprints(np.zeros(len(texts), np.uint64), Verifier(texts, 0.8, same_numbers=True))
    assert found.tolist() == [row % 3 for row in range(3000)]

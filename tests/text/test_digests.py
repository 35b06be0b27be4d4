"""Digests of columns are those of the texts, equal texts get one number, and known ones are found."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mixture.text.digests import DigestIndex, bytes_of, digests_of, numbered, text_digests

TEXTS = ["", "a", "红楼梦", "a", "b" * 1000, ""]


def test_they_are_the_first_half_of_sha_256() -> None:
    wanted = b"".join(hashlib.sha256(text.encode()).digest()[:16] for text in TEXTS)
    for column in (TEXTS, pa.array(TEXTS), pa.chunked_array([TEXTS[:2], [], TEXTS[2:]]), pa.array(["x", *TEXTS])[1:]):
        assert bytes_of(text_digests(column)) == wanted
    assert (digests_of(wanted) == text_digests(TEXTS)).all()
    assert text_digests([]).shape == (0, 2)


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30)


def _of(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, np.uint64).reshape(-1, 2) * np.uint64(2**62)


@given(PAIRS)
def test_equal_ones_get_one_number_in_the_order_of_the_first(pairs: list[tuple[int, int]]) -> None:
    numbers, firsts = numbered(_of(pairs))
    different = list(dict.fromkeys(pairs))
    assert numbers.tolist() == [different.index(pair) for pair in pairs]
    assert firsts.tolist() == [pairs.index(pair) for pair in different]


@given(PAIRS, PAIRS)
def test_known_ones_are_found_also_where_first_halves_are_equal(
    known: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    found = DigestIndex(_of(known)).find(_of(asked))
    assert found.tolist() == [known.index(pair) if pair in known else -1 for pair in asked]

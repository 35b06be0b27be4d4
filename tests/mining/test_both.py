"""Candidates of BM25 and of a model in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixture.mining import MINERS, MiningPool
from mixture.mining.both import in_turn

WORDS = ["red", "blue", "green", "old", "new", "cat", "dog", "sun", "moon", "sea"]


def encode(texts: Sequence[str], kind: str) -> Any:
    counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvw"] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def pool(count: int = 60, queries: int = 12) -> MiningPool:
    random = np.random.default_rng(3)
    passages = [" ".join(random.choice(WORDS, 5)) + f" n{n}" for n in range(count)]
    ids = [f"p{n:03}" for n in range(count)]
    asked = [" ".join(random.choice(WORDS, 3)) for _ in range(queries)]
    positives = [[ids[n], ids[n + 1]][: 1 + n % 2] for n in range(queries)]
    return MiningPool.build([f"e{n}" for n in range(queries)], asked, positives, ids, passages)


def silent(done: int, total: int) -> None:
    pass


def test_the_candidates_of_both_in_turn_scored_by_the_model() -> None:
    mined = pool()
    vectors = encode(list(mined.queries), "query") @ encode(list(mined.passages), "passage").T
    searched = {name: list(MINERS[name].search(mined, 8, encode, silent)) for name in ("bm25", "dense", "both")}
    for example in range(len(mined.queries)):
        lexical, dense, both = (searched[name][example] for name in ("bm25", "dense", "both"))
        turns: dict[int, None] = {}
        for place in range(8):
            for found in (dense, lexical):
                if place < len(found.passages):
                    turns.setdefault(int(found.passages[place]))
        assert both.passages.tolist() == list(turns)[:8]
        assert set(both.passages.tolist()) - set(dense.passages.tolist())
        np.testing.assert_allclose(both.scores, vectors[example, both.passages], atol=1e-6)
        np.testing.assert_allclose(both.positives, vectors[example, mined.positives[example]], atol=1e-6)
        assert both.positive == both.positives.min()


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True), st.integers(1, 12))
def test_two_rankings_in_turn(first: list[int], second: list[int], most: int) -> None:
    turns: dict[int, None] = {}
    for place in range(max(len(first), len(second))):
        for ranking in (first, second):
            if place < len(ranking):
                turns.setdefault(ranking[place])
    passages, where = in_turn(np.array(first, np.int64), np.array(second, np.int64), most)
    assert passages.tolist() == list(turns)[:most]
    assert [*first, *second] == [] or np.array([*first, *second])[where].tolist() == passages.tolist()


def test_a_pool_without_queries() -> None:
    assert list(MINERS["both"].search(pool(queries=0), 8, encode, silent)) == []

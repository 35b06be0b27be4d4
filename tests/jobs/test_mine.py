"""What a miner's name means, and the filters that a caller names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.mining import MINERS, Miner
from mixture.mining.filters import Candidates


def encode(texts: list[str], kind: str) -> Any:
    """A bag of letters, of unit length."""
    counts = np.array([[text.count(letter) for letter in "abcdefghiklmnorstuv"] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def mined(store: Store) -> list[dict[str, Any]]:
    return store.rows(
        "SELECT example_id, passage_id, score, miner FROM negatives "
        "WHERE collection = 'easy' AND miner <> 'provided' ORDER BY ALL"
    )


def test_a_model_is_given_as_a_function_or_made_of_its_name(small_store: Store) -> None:
    asked = []

    def encoder(model: str) -> Any:
        asked.append(model)
        return encode

    jobs.mine(small_store, "easy", miner="bag", encode=encode, per_query=3)
    once = mined(small_store)
    assert {row["miner"] for row in once} == {"bag", "random"}
    jobs.mine(small_store, "easy", miner="bag", encoder=encoder, per_query=3)
    assert (asked, mined(small_store)) == (["bag"], once)


def test_a_miner_in_front_of_a_model_gets_its_embeddings(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(pool: Any, depth: int, encode: Any, progress: Any) -> Iterator[Candidates]:
        assert encode(["abc"], "query").shape == (1, 19)
        for _ in pool.queries:
            yield Candidates(np.array([7, 3]), np.array([2.0, 1.0], np.float32), np.inf)

    monkeypatch.setitem(MINERS, "two", Miner(search=search, needs_encoder=True))
    asked: list[str] = []
    jobs.mine(small_store, ["easy"], miner="two:C:/bag", encoder=lambda model: asked.append(model) or encode)  # type: ignore[func-returns-value]
    assert asked == ["C:/bag"]
    assert {row["score"] for row in mined(small_store) if row["miner"] == "two:C:/bag"} == {2.0, 1.0}
    with pytest.raises(UsageError, match="the miner two needs a model: two:MODEL in `miner`"):
        jobs.mine(small_store, miner="two")


def test_a_name_without_what_it_needs_is_refused(small_store: Store) -> None:
    with pytest.raises(UsageError, match=r"'bm52'.*miners: bm25, dense.*encode=trainers.encode_with\('bm52'\)"):
        jobs.mine(small_store, miner="bm52")
    with pytest.raises(UsageError, match="the miner bm25 reads no model; leave away `encode`"):
        jobs.mine(small_store, encode=encode)
    with pytest.raises(UsageError, match="reads no model; leave away 'some-model'"):
        jobs.mine(small_store, miner="bm25:some-model")

    def encoder(model: str) -> Any:
        raise UsageError(f"no model loads from {model!r}")

    with pytest.raises(UsageError, match=r"no model loads from 'bm52' \(miners: bm25, dense\)"):
        jobs.mine(small_store, miner="bm52", encoder=encoder)


def test_filters_take_the_place_of_the_miners_own(small_store: Store) -> None:
    def highest(**options: Any) -> float:
        jobs.mine(small_store, "easy", miner="bag", encode=encode, per_query=5, **options)
        return max(row["score"] for row in mined(small_store) if row["score"] is not None)

    own, none, strict = highest(), highest(filters={"max_ratio": None}), highest(filters={"max_ratio": 0.85})
    assert strict < own < none
    assert highest(filters={"max_ratio": 0.95}) == own


def test_depth_limits_the_candidates(small_store: Store) -> None:
    (wide,) = jobs.mine(small_store, "easy", per_query=5)
    (narrow,) = jobs.mine(small_store, "easy", per_query=5, depth=2)
    assert wide.filled == 0 < 120 <= narrow.filled

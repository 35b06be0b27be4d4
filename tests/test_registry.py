"""Mixtures in the store."""

from __future__ import annotations

import pytest

from mixture import Store, UsageError, jobs, registry


def _save(store: Store, name: str, **weights: float) -> registry.SavedMixture:
    parts = registry.pin(store)
    return registry.save(store, registry.weighted(parts, weights or dict.fromkeys(parts, 1.0)), name)


def test_versions_count_up_and_references_resolve(small_store: Store) -> None:
    first = _save(small_store, "mix", easy=1, hard=1)
    second = _save(small_store, "mix", easy=1, hard=3)
    assert (first.reference, second.reference) == ("mix:1", "mix:2")
    for reference, wanted in (
        ("mix", second), ("mix:latest", second), ("mix:1", first), (first.spec.id, first), (first.spec.id[:7], first),
    ):  # fmt: skip
        assert registry.resolve(small_store, reference).spec == wanted.spec
    assert second.spec.weights == {"easy": 0.25, "hard": 0.75}


def test_saving_the_newest_again_writes_nothing(small_store: Store) -> None:
    _save(small_store, "mix")
    snapshot = small_store.snapshot()
    assert _save(small_store, "mix").version == 1
    assert small_store.snapshot() == snapshot


def test_one_content_under_two_names_is_one_mixture(small_store: Store) -> None:
    assert _save(small_store, "a").spec.id == _save(small_store, "b").spec.id
    rows = small_store.sql("SELECT collection, weight, num_examples FROM mixture_weights").to_pylist()
    assert len(rows) == 3
    assert sum(r["weight"] for r in rows) == pytest.approx(1.0, abs=1e-12)
    assert {r["num_examples"] for r in rows} == {40}


@pytest.mark.parametrize(
    ("reference", "message"),
    [("mxi", "did you mean 'mix'"), ("mix:7", "versions 1 to 1"), ("0000", "no mixture '0000'")],
)
def test_unknown_references_say_what_there_is(small_store: Store, reference: str, message: str) -> None:
    _save(small_store, "mix")
    with pytest.raises(UsageError, match=message):
        registry.resolve(small_store, reference)


@pytest.mark.parametrize("name", ["", "7up", "a b", "a:b", "deadbeef", "x" * 101])
def test_names_that_could_not_be_referred_to_are_refused(small_store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="mixture name"):
        _save(small_store, name)


def test_a_mixture_outlives_a_change_of_its_collections(small_store: Store) -> None:
    saved = _save(small_store, "mix")
    jobs.mine(small_store, ["easy"], per_query=1)
    assert registry.resolve(small_store, "mix").spec == saved.spec
    assert _save(small_store, "mix").spec.id != saved.spec.id


def test_small_collections_are_left_out_unless_named(small_store: Store) -> None:
    with pytest.raises(UsageError, match="no collection with 41"):
        registry.pin(small_store, min_examples=41)
    with pytest.raises(UsageError, match="fewer than 41 examples in: easy"):
        registry.pin(small_store, ["easy"], min_examples=41)
    with pytest.raises(UsageError, match="did you mean 'easy'"):
        registry.pin(small_store, ["esay"])


def test_listing_says_what_weighs_most(small_store: Store) -> None:
    _save(small_store, "mix", easy=1, hard=3)
    row = registry.listing(small_store)[0]
    assert (row["reference"], row["collections"], row["heaviest"], row["heaviest_weight"]) == ("mix:1", 2, "hard", 0.75)

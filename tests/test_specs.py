"""The canonical form of a mixture, and how one is made from another."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.specs import Component, MixtureSpec, normalise, select_top, temperature_weights, uniform

names = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique=True)


def _spec(weights: dict[str, float], digest: str = "d") -> MixtureSpec:
    return MixtureSpec(tuple(Component(n, f"{digest}-{n}", w) for n, w in normalise(weights).items()))


@given(names, st.randoms(use_true_random=False))
def test_the_id_does_not_depend_on_order_and_survives_json(collections: list[str], shuffler: random.Random) -> None:
    spec = _spec({n: shuffler.random() + 0.01 for n in collections})
    mixed = list(spec.components)
    shuffler.shuffle(mixed)
    assert MixtureSpec(tuple(mixed)).id == spec.id
    again = MixtureSpec.from_json(spec.to_json())
    assert (again, again.id) == (spec, spec.id)
    assert math.isclose(math.fsum(spec.weights.values()), 1.0, abs_tol=1e-12)


def test_the_id_is_pinned() -> None:
    """A change of the canonical form would orphan every stored mixture."""
    spec = MixtureSpec((Component("b", "1" * 64, 0.75), Component("a", "0" * 64, 0.25, 2.0)))
    assert spec.id == "c04701b4fc78"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: Component(c.collection + "x", c.digest, c.weight),
        lambda c: Component(c.collection, c.digest + "x", c.weight),
        lambda c: Component(c.collection, c.digest, c.weight, 0.5),
    ],
)
def test_what_a_trainer_reads_changes_the_id(change) -> None:  # type: ignore[no-untyped-def]
    spec = _spec({"a": 1, "b": 1})
    first, *rest = spec.components
    assert MixtureSpec((change(first), *rest)).id != spec.id
    assert spec.with_weights({"a": 1, "b": 1.0000001}).id != spec.id


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6], "sum to 1.1"),
        ([1.5, -0.5], "allowed: 0 to 1"),
        ([math.nan, 1.0], "is nan"),
        ([], "at least one"),
    ],
)
def test_wrong_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixtureSpec(tuple(Component(str(n), "d", w) for n, w in enumerate(weights)))


def test_edited_and_foreign_json_is_refused() -> None:
    body = json.loads(_spec({"a": 1, "b": 1}).to_json())
    body["components"][0]["weight"], body["components"][1]["weight"] = 0.4, 0.6
    with pytest.raises(UsageError, match="it was edited"):
        MixtureSpec.from_json(json.dumps(body))
    for text in (
        "{}",
        "[]",
        "nonsense",
        json.dumps(body | {"schema_version": 9}),
        json.dumps(body | {"components": 3}),
    ):
        with pytest.raises(UsageError):
            MixtureSpec.from_json(text)


@pytest.mark.parametrize(
    ("count", "percent", "kept"), [(25, 70, 17), (12, 70, 8), (10, 100, 10), (3, 1, 1), (10, 70, 7)]
)
def test_top_rounds_down_and_weighs_equally(count: int, percent: float, kept: int) -> None:
    weights = {f"c{n:02d}": float(n + 1) for n in range(count)}
    top = select_top(_spec(weights), percent)
    assert sorted(top.weights) == sorted(weights)[count - kept :]
    assert set(top.weights.values()) == {1 / kept}


def test_top_breaks_ties_by_name_and_refuses_nonsense() -> None:
    assert sorted(select_top(_spec(dict.fromkeys("dcba", 1.0)), 50).weights) == ["a", "b"]
    for percent in (0, -1, 101, math.nan):
        with pytest.raises(UsageError, match="allowed: above 0 to 100"):
            select_top(_spec({"a": 1}), percent)


def test_temperature_against_the_formula() -> None:
    sizes = {"a": 10, "b": 1000, "c": 10**7}
    got = temperature_weights(sizes, 3.0)
    total = sum(n ** (1 / 3) for n in sizes.values())
    assert all(math.isclose(got[n], sizes[n] ** (1 / 3) / total) for n in sizes)
    assert temperature_weights(sizes, 0.001)["c"] == 1.0
    with pytest.raises(UsageError, match="temperature is 0"):
        temperature_weights(sizes, 0)


def test_uniform_sums_to_one_for_any_count() -> None:
    for count in range(1, 60):
        assert set(uniform([Component(str(n), "d", 0.0) for n in range(count)]).weights.values()) == {1 / count}


def test_huge_and_tiny_weights_are_scaled() -> None:
    assert normalise({"a": 1e308, "b": 1e308}) == {"a": 0.5, "b": 0.5}
    assert normalise({"a": 1e-300, "b": 3e-300}) == pytest.approx({"a": 0.25, "b": 0.75})
    for weights in ({}, {"a": 0.0}, {"a": math.inf}, {"a": -1.0}):
        with pytest.raises(UsageError):
            normalise(weights)

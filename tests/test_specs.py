"""The canonical form of a mixture, and its id."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.specs import Component, MixtureSpec
from mixture.transfers import uniform
from mixture.weights import normalise

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


def test_ten_thousand_components_are_checked_and_named_twice_is_refused() -> None:
    many = [Component(f"c{n:05d}", "d", 0.0) for n in range(10_000)]
    assert len(uniform(many).weights) == 10_000
    with pytest.raises(UsageError, match="named twice in a mixture: c00007"):
        uniform([*many, many[7]])

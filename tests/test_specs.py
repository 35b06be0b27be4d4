"""The canonical form of a mixture, and how one is made from another."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.specs import (
    Component,
    MixtureSpec,
    blend,
    loss_reweight,
    normalise,
    reweight,
    select_top,
    temper,
    temperature_weights,
    uniform,
    unimax_weights,
    with_floor,
)

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


def _unimax_by_hand(sizes: dict[str, int], budget: float, max_epochs: float) -> dict[str, float]:
    """The paper's algorithm as it is written: smallest first, each gets an equal part of what is left, or its cap."""
    left, drawn = float(budget), {}
    for place, name in enumerate(sorted(sizes, key=lambda n: sizes[n])):
        drawn[name] = min(left / (len(sizes) - place), max_epochs * sizes[name])
        left -= drawn[name]
    return {name: count / sum(drawn.values()) for name, count in drawn.items()}


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=12), st.integers(1, 10**7), st.floats(0.1, 20, allow_nan=False)
)
def test_unimax_is_the_papers_algorithm(counts: list[int], budget: int, max_epochs: float) -> None:
    sizes = {f"c{n}": count for n, count in enumerate(counts)}
    assert unimax_weights(sizes, budget, max_epochs) == pytest.approx(_unimax_by_hand(sizes, budget, max_epochs))


def test_unimax_at_its_ends() -> None:
    sizes = {"small": 10, "middle": 100, "large": 1000}
    assert unimax_weights(sizes, 15, 1) == pytest.approx(dict.fromkeys(sizes, 1 / 3))
    assert unimax_weights(sizes, 200, 2) == pytest.approx({"small": 0.1, "middle": 0.45, "large": 0.45})
    assert unimax_weights(sizes, 10**6, 2) == temperature_weights(sizes, 1.0)  # all are capped
    for budget, epochs, message in ((0, 1, "budget is 0"), (10, 0, "epoch cap is 0"), (10, math.nan, "cap is nan")):
        with pytest.raises(UsageError, match=message):
            unimax_weights(sizes, budget, epochs)
    with pytest.raises(UsageError, match="1 collections have no examples"):
        unimax_weights(sizes | {"empty": 0}, 10, 1)


def test_reweight_takes_weights_and_keeps_content() -> None:
    ours, learned = _spec({"a": 1, "b": 1}, digest="new"), _spec({"a": 3, "b": 1}, digest="old")
    got = reweight(ours, learned)
    assert got.weights == {"a": 0.75, "b": 0.25}
    assert [c.digest for c in got.components] == ["new-a", "new-b"]
    with pytest.raises(UsageError, match="differ in c"):
        reweight(ours, _spec({"a": 1, "b": 1, "c": 1}))


def test_loss_reweight_has_the_expected_loss_of_sampling_by_weight() -> None:
    spec = _spec({"a": 5, "b": 3, "c": 2})
    got = loss_reweight(spec)
    assert set(got.weights.values()) == {1 / 3}
    losses = {"a": 1.3, "b": 0.2, "c": 7.0}
    expected = sum(c.weight * c.loss_weight * losses[c.collection] for c in got.components)
    assert expected == pytest.approx(sum(spec.weights[n] * losses[n] for n in losses))
    assert math.fsum(c.loss_weight for c in got.components) / 3 == pytest.approx(1.0)
    assert got.id != uniform(spec.components).id
    twice = loss_reweight(MixtureSpec(tuple(Component(c.collection, c.digest, c.weight, 2.0) for c in spec.components)))
    assert [c.loss_weight for c in twice.components] == [2 * c.loss_weight for c in got.components]


def test_temper_flattens_and_sharpens_and_keeps_zeros() -> None:
    spec = _spec({"a": 16, "b": 1, "none": 0})
    assert temper(spec, 2.0).weights == pytest.approx({"a": 0.8, "b": 0.2, "none": 0.0})
    assert temper(spec, 0.5).weights == pytest.approx({"a": 256 / 257, "b": 1 / 257, "none": 0.0})
    assert temper(spec, math.inf).weights == {"a": 0.5, "b": 0.5, "none": 0.0}
    assert temper(spec, 1.0).weights == pytest.approx(spec.weights)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match=f"temperature is {wrong}; allowed: above 0"):
            temper(spec, wrong)


def test_blend_is_drawing_from_one_or_the_other() -> None:
    first, second = _spec({"a": 1, "b": 3}), _spec({"b": 1, "c": 1})
    assert blend(first, second, 0.2).weights == pytest.approx({"a": 0.2, "b": 0.7, "c": 0.1})
    assert blend(second, first, 0.8).weights == pytest.approx(blend(first, second, 0.2).weights)
    for share in (0.0, 1.0, math.nan, 3.0):
        with pytest.raises(UsageError, match="share of a blend"):
            blend(first, second, share)
    with pytest.raises(UsageError, match="different content of b;"):
        blend(first, _spec({"b": 1, "c": 1}, digest="other"), 0.5)
    with pytest.raises(UsageError, match="loss of a, b differently"):
        blend(first, loss_reweight(first), 0.5)


def test_a_floor_lifts_the_small_and_keeps_the_ratios_of_the_others() -> None:
    spec = _spec({"a": 60, "b": 30, "c": 9, "d": 1})
    assert with_floor(spec, 0.1).weights == pytest.approx({"a": 0.8 * 2 / 3, "b": 0.8 / 3, "c": 0.1, "d": 0.1})
    assert with_floor(spec, 0.25).weights == pytest.approx(dict.fromkeys("abcd", 0.25))
    assert with_floor(spec, 0.001).id == spec.id
    with pytest.raises(UsageError, match=r"floor is 0.3; allowed: 0 to 0.25"):
        with_floor(spec, 0.3)


def test_ten_thousand_components_are_checked_and_named_twice_is_refused() -> None:
    many = [Component(f"c{n:05d}", "d", 0.0) for n in range(10_000)]
    assert len(uniform(many).weights) == 10_000
    with pytest.raises(UsageError, match="named twice in a mixture: c00007"):
        uniform([*many, many[7]])

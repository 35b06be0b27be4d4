"""From one mixture to another."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.specs import Component, MixtureSpec
from mixture.transfers import blend, loss_reweight, reweight, select_top, temper, uniform, with_floor
from mixture.weights import normalise

names = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique=True)


def _spec(weights: dict[str, float], digest: str = "d") -> MixtureSpec:
    return MixtureSpec(tuple(Component(n, f"{digest}-{n}", w) for n, w in normalise(weights).items()))


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


def test_uniform_sums_to_one_for_any_count() -> None:
    for count in range(1, 60):
        assert set(uniform([Component(str(n), "d", 0.0) for n in range(count)]).weights.values()) == {1 / count}


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

"""Weights by size, and between a floor and caps: against a solver and by their defining properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from mixture.weights import bounded, epoch_caps, normalise, temperature_weights, unimax_weights


def _solved(weights: np.ndarray, floor: float, caps: np.ndarray) -> np.ndarray:
    """The projection of the relative entropy by its definition: minimise Σ w log(w / given) in the bounds, sum 1."""
    found = scipy.optimize.minimize(
        lambda w: (w * np.log(w / weights)).sum(),
        np.clip(weights, floor, caps),
        jac=lambda w: np.log(w / weights) + 1,
        bounds=list(zip(np.full(len(weights), max(floor, 1e-12)), caps, strict=True)),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-13},
    )
    return found.x


@pytest.mark.parametrize("seed", range(12))
def test_against_a_solver(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 9))
    weights = random.dirichlet(np.full(size, 0.7)) + 1e-3
    weights /= weights.sum()
    floor = random.uniform(0, 0.8 / size)
    caps = random.uniform(max(floor, 1.1 / size), 2.5 / size, size)
    found, bound = bounded(weights, floor, caps)
    np.testing.assert_allclose(found, _solved(weights, floor, caps), atol=2e-6)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert (bound == 1).tolist() == np.isclose(found, caps, atol=1e-12).tolist()
    assert (bound == -1).tolist() == np.isclose(found, floor, atol=1e-12).tolist()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.data())
def test_what_it_promises(values: list[float], data: st.DataObject) -> None:
    """In the bounds, sum 1, free weights share one factor, and what has to move moves no further than its bound."""
    raw = np.array(values) + (0 if sum(values) > 0 else 1)
    weights, size = raw / raw.sum(), len(raw)
    floor = data.draw(st.floats(0, 0.9 / size))
    caps = np.array(data.draw(st.lists(st.floats(max(floor, 1.05 / size), 1.5), min_size=size, max_size=size)))
    found, bound = bounded(weights, floor, caps)
    assert found.sum() == pytest.approx(1.0, abs=1e-9)
    assert (found >= floor - 1e-9).all()
    assert (found <= np.minimum(caps, 1) + 1e-9).all()
    free = (bound == 0) & (weights > 1e-9)
    factors = found[free] / weights[free]
    assert np.allclose(factors, factors[:1], rtol=1e-6)


def test_what_fits_keeps_its_bits() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(25))
    found, bound = bounded(weights, weights.min(), np.full(25, weights.max()))
    assert found.tolist() == weights.tolist()
    assert not bound.any()
    assert bounded(weights)[0].tolist() == weights.tolist()


def test_worked_numbers() -> None:
    found, bound = bounded(np.array([0.7, 0.2, 0.1]), 0.0, np.array([0.4, 0.3, 1.0]))
    assert found.tolist() == pytest.approx([0.4, 0.3, 0.3])
    assert bound.tolist() == [1, 1, 0]
    found, bound = bounded(np.array([1.0, 0.0, 0.0, 0.0]), 0.0, np.array([0.4, 0.1, 1.0, 1.0]))
    assert found.tolist() == pytest.approx([0.4, 0.1, 0.25, 0.25])  # zeros share what the cap leaves
    assert bound.tolist() == [1, 1, 0, 0]
    assert bounded(np.array([0.7, 0.3, 0.0]), 0.0, np.array([0.5, 1.0, 1.0]))[1].tolist() == [1, 0, 0]
    assert bounded(np.array([0.9, 0.1]), 0.5)[0].tolist() == [0.5, 0.5]
    assert bounded(np.array([0.9, 0.1]), 0.0, np.array([0.25, 0.75]))[0].tolist() == [0.25, 0.75]
    assert bounded(np.array([1.0]))[0].tolist() == [1.0]


@pytest.mark.filterwarnings("error")
def test_numbers_at_the_edge_of_floating_point() -> None:
    found, bound = bounded(np.linspace(1, 10, 10) / 55, 0.0, np.full(10, 0.1 - 1e-12))
    assert found.sum() == pytest.approx(1.0, abs=1e-15)
    assert found.tolist() == pytest.approx([0.1] * 10)
    assert bound.tolist() == [1] * 10
    found, _ = bounded(np.array([1.0, 1e-310, 0.0]), 0.1, np.array([0.5, 0.3, 1.0]))
    assert found.tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_ten_thousand_weights() -> None:
    weights = np.random.default_rng(2).dirichlet(np.full(10_000, 0.3))
    found, bound = bounded(weights, 2e-5, np.full(10_000, 3e-4))
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert set(bound.tolist()) == {-1, 0, 1}


def test_epoch_caps_are_where_a_collection_is_drawn_so_many_times() -> None:
    assert epoch_caps(np.array([10, 400]), budget=200, max_epochs=2).tolist() == pytest.approx([0.1, 4.0])


@pytest.mark.parametrize(
    ("weights", "floor", "caps", "message"),
    [
        ([0.5, 0.5], 0.6, None, "floor is 0.6; allowed: 0 to 0.5"),
        ([0.5, 0.5], -0.1, None, "floor is -0.1"),
        ([0.5, 0.5], 0.0, [0.3, 0.3], "caps sum to 0.6, so no weights fit"),
        ([0.5, 0.5], 0.2, [0.1, 1.0], "above the cap of 1 collections, down to 0.1"),
        ([0.5, 0.5], 0.0, [1.0], "1 caps for 2 weights"),
        ([0.5, 0.6], 0.0, None, "sum to 1"),
        ([], 0.0, None, "sum to 1"),
    ],
)
def test_bounds_that_nothing_fits_are_refused(
    weights: list[float], floor: float, caps: list[float] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bounded(np.array(weights), floor, None if caps is None else np.array(caps))


def test_temperature_against_the_formula() -> None:
    sizes = {"a": 10, "b": 1000, "c": 10**7}
    got = temperature_weights(sizes, 3.0)
    total = sum(n ** (1 / 3) for n in sizes.values())
    assert all(math.isclose(got[n], sizes[n] ** (1 / 3) / total) for n in sizes)
    assert temperature_weights(sizes, 0.001)["c"] == 1.0
    with pytest.raises(UsageError, match="temperature is 0"):
        temperature_weights(sizes, 0)


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

"""The worst mean over suites in a Kullback-Leibler ball: worked numbers, an optimiser, and the ends of the ball."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import rel_entr

from mixture.errors import UsageError
from trainers.evaluation.worst_case import worst_case

A, B = [0.7, 0.6, 0.2], [0.5, 0.48, 0.4]


@pytest.mark.parametrize(
    ("scores", "values"), [(A, (0.5, 0.4561, 0.4007, 0.3279)), (B, (0.46, 0.4512, 0.4401, 0.4256))]
)
def test_worked_numbers(scores: list[float], values: tuple[float, ...]) -> None:
    found = [worst_case(scores, radius=radius).value for radius in (0, 0.02, 0.1, 0.3)]
    np.testing.assert_allclose(found, values, atol=5e-5)


def test_spreads_of_one_shape_have_one_adversary() -> None:
    for scores in (A, B):
        np.testing.assert_allclose(worst_case(scores).weights, [0.2031, 0.2478, 0.5491], atol=5e-5)


def _optimised(scores: np.ndarray, base: np.ndarray, radius: float) -> float:
    found = minimize(
        lambda q: q @ scores, base, jac=lambda q: scores, method="SLSQP", bounds=[(0, 1)] * len(base),
        constraints=[{"type": "eq", "fun": lambda q: q.sum() - 1},
                     {"type": "ineq", "fun": lambda q: radius - rel_entr(q, base).sum()}],
        options={"maxiter": 500, "ftol": 1e-13},
    )  # fmt: skip
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("radius", [0.01, 0.1, 0.5])
def test_an_optimiser_finds_no_less(radius: float) -> None:
    random = np.random.default_rng(4)
    for count in (2, 5, 13):
        scores, base = random.uniform(0, 1, count), random.dirichlet(np.full(count, 3.0))
        found = worst_case(scores, base, radius=radius)
        assert rel_entr(found.weights, base).sum() <= radius + 1e-12
        assert found.weights.sum() == pytest.approx(1)
        assert found.value == pytest.approx(_optimised(scores, base, radius), abs=2e-6)


def test_the_ends_of_the_ball() -> None:
    assert worst_case(A, radius=0).value == pytest.approx(np.mean(A))
    np.testing.assert_array_equal(worst_case(A, radius=math.log(3) + 1e-12).weights, [0, 0, 1])
    assert worst_case(A, radius=5).value == 0.2
    assert worst_case(A, radius=math.log(3) - 1e-3).value > 0.2
    # Two that are worst share what is on them, as the reference does.
    np.testing.assert_allclose(worst_case([0.2, 0.9, 0.2], [0.2, 0.4, 0.4], radius=1).weights, [1 / 3, 0, 2 / 3])


def test_it_falls_with_the_radius_and_knows_no_order() -> None:
    scores = np.random.default_rng(0).uniform(0, 1, 13)
    values = [worst_case(scores, radius=radius).value for radius in np.linspace(0, 3, 31)]
    assert all(np.diff(values) <= 1e-12) and values[0] > values[1] > values[5]
    assert min(values) >= scores.min()
    order = np.random.default_rng(1).permutation(13)
    np.testing.assert_allclose(worst_case(scores[order]).weights, worst_case(scores).weights[order], atol=1e-9)


def test_equal_and_nearly_equal_scores() -> None:
    found = worst_case([0.5] * 4, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(found.weights, [0.1, 0.2, 0.3, 0.4])
    for scores in ([0.5, 0.5 + 1e-16, 0.5], [0.0, 5e-324, 1.0], [0.7]):
        found = worst_case(scores)
        assert np.isfinite(found.weights).all() and found.weights.sum() == pytest.approx(1)
        assert min(scores) <= found.value <= np.mean(scores)


def test_a_suite_without_weight_has_no_say() -> None:
    found = worst_case([0.0, 0.5, 0.6], [0.0, 0.5, 0.5], radius=0.1)
    assert found.weights[0] == 0 and 0.5 < found.value < 0.55


@pytest.mark.parametrize(
    ("scores", "reference", "radius"),
    [([], None, 0.1), ([0.1, float("nan")], None, 0.1), ([0.1, 0.2], [1.0], 0.1), ([0.1, 0.2], [0.5, 0.6], 0.1),
     ([0.1, 0.2], [1.5, -0.5], 0.1), ([0.1, 0.2], None, -0.1)],
)  # fmt: skip
def test_wrong_values(scores: list[float], reference: list[float] | None, radius: float) -> None:
    with pytest.raises(UsageError, match="allowed"):
        worst_case(scores, reference, radius=radius)

"""The power law through a loss curve: it finds what was planted, and forecasts nothing that was not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from trainers.learning.forecast import fit_power_law

COUNTS = np.linspace(200, 2000, 60)


@pytest.mark.parametrize(
    ("scale", "exponent", "floor"), [(8, 0.5, 0.3), (8, 0.6, 0.02), (20, 0.35, 0.3), (0.05, 0.5, 2.05), (3, 1.2, 0.0)]
)
def test_a_planted_curve_is_found(scale: float, exponent: float, floor: float) -> None:
    losses = scale * COUNTS**-exponent + floor
    law = fit_power_law(COUNTS, losses)
    assert law[:3] == pytest.approx((scale, exponent, floor), rel=1e-5, abs=1e-6)
    assert law.residual < 1e-7
    assert law.at(10_000) == pytest.approx(scale * 10_000**-exponent + floor, rel=1e-5)
    assert law.at(10_000) < losses.min()


def test_under_noise_of_one_percent_it_is_found_about_right() -> None:
    found = []
    for seed in range(20):
        scatter = 1 + 0.01 * np.random.default_rng(seed).normal(size=len(COUNTS))
        found.append(fit_power_law(COUNTS, (8 * COUNTS**-0.5 + 0.3) * scatter))
    assert np.mean([law.exponent for law in found]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([law.floor for law in found]) == pytest.approx(0.3, abs=0.03)
    # Scale and exponent go together; what is asked for is the end of the curve, here at five times the examples.
    assert [law.at(10_000) for law in found] == pytest.approx([0.38] * 20, abs=0.02)
    assert np.mean([law.residual for law in found]) == pytest.approx(0.005, abs=0.002)


def test_odd_points_are_let_be() -> None:
    losses = 8 * COUNTS**-0.5 + 0.3
    losses[[7, 23, 41]] *= 3
    assert fit_power_law(COUNTS, losses).at(10_000) == pytest.approx(0.38, abs=0.01)


@given(st.lists(st.floats(0, 20), min_size=3, max_size=40), st.integers(1, 10**6))
def test_a_forecast_is_never_above_the_fitted_curve_nor_below_0(losses: list[float], further: int) -> None:
    counts = np.arange(1, len(losses) + 1) * 7.0
    law = fit_power_law(counts, losses)
    assert 0 <= law.at(counts[-1] + further) <= min(map(law.at, counts))
    assert law.floor <= max(losses) + 1e-9


def test_what_does_not_fall_is_forecast_to_stay() -> None:
    assert fit_power_law(COUNTS, np.full(60, 1.4)).at(1e6) == pytest.approx(1.4)
    rising = fit_power_law(COUNTS, np.linspace(1, 2, 60))
    assert rising.at(2000) - rising.at(1e6) < 1e-3
    assert 1 < rising.at(1e6) < 2
    assert fit_power_law([1, 2, 3], [0, 0, 0]) == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_units_do_not_matter(size: float) -> None:
    losses = (8 * COUNTS**-0.5 + 0.3) * (1 + 0.05 * np.random.default_rng(1).normal(size=60))
    plain = fit_power_law(COUNTS, losses)
    assert fit_power_law(COUNTS, size * losses).at(9000) == pytest.approx(size * plain.at(9000), rel=1e-3)
    assert fit_power_law(50 * COUNTS, losses).at(50 * 9000) == pytest.approx(plain.at(9000), rel=1e-3)


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(UsageError, match="2 counts and 2 losses; allowed: as many of both, 3 or more"):
        fit_power_law([1, 2], [1.0, 2.0])
    for counts, losses in (([0, 1, 2], [1, 1, 1]), ([5, 5, 5], [1, 1, 1]), ([1, 2, 3], [1, np.nan, 1])):
        with pytest.raises(UsageError, match="counts must be finite, 1 or more and not all equal"):
            fit_power_law(counts, losses)

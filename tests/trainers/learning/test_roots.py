"""The law of diminishing returns: fitted to planted scores, and the mixture that it proposes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture.errors import UsageError
from trainers.learning.law import divergence, draw_candidates
from trainers.learning.roots import RootLaw, fit_roots, propose_roots

GROUPS = 6
BASE = np.full(GROUPS, 1 / GROUPS)
SLOPES = np.array([-3.0, -2.0, -1.0, -0.5, 0.2, 1.0])


def _planted(noise: float, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    weights = draw_candidates(count, BASE, seed=1)
    scores = 5.0 + np.sqrt(weights) @ SLOPES
    return weights, scores + noise * np.random.default_rng(2).normal(size=count)


def _penalty(p: np.ndarray, strength: float) -> float:
    return float(SLOPES @ np.sqrt(p)) + strength * divergence(p, BASE)


def test_the_fit_recovers_planted_slopes_and_says_how_well_it_orders_the_unseen() -> None:
    clean = fit_roots(*_planted(0.0))
    assert clean.slopes == pytest.approx(SLOPES, abs=0.02) and clean.order > 0.999
    weights, scores = _planted(0.1)
    noisy = fit_roots(weights, scores)
    assert noisy.slopes == pytest.approx(SLOPES, abs=0.3) and 0.9 < noisy.order < clean.order
    assert noisy.predict(weights) == pytest.approx(scores, abs=0.5)
    assert noisy.predict(weights[0]) == pytest.approx(float(noisy.predict(weights)[0]))


def test_noise_alone_is_no_law() -> None:
    weights, _ = _planted(0.0)
    assert abs(fit_roots(weights, np.random.default_rng(3).normal(size=len(weights))).order) < 0.5


def test_leaving_one_out_is_what_fits_without_it_say() -> None:
    """The short cut by one's own share in one's prediction, against as many fits as there are mixtures."""
    from scipy.stats import spearmanr

    weights, scores = _planted(0.3, count=24)
    found = fit_roots(weights, scores)
    roots = np.sqrt(weights)

    def predicted(ridge: float) -> np.ndarray:
        unseen = []
        for one in range(len(scores)):
            rest = np.arange(len(scores)) != one
            centre, mean = roots[rest].mean(axis=0), scores[rest].mean()
            inner = roots[rest] - centre
            slopes = np.linalg.solve(inner.T @ inner + ridge * np.eye(GROUPS), inner.T @ (scores[rest] - mean))
            unseen.append(mean + (roots[one] - centre) @ slopes)
        return np.array(unseen)

    best = min(np.geomspace(1e-3, 10.0, 13), key=lambda ridge: float(((predicted(ridge) - scores) ** 2).mean()))
    assert found.order == pytest.approx(float(spearmanr(predicted(best), scores).statistic), abs=0.03)


def test_equal_scores_give_the_base_bit_for_bit() -> None:
    weights, _ = _planted(0.0)
    law = fit_roots(weights, np.ones(len(weights)))
    assert not law.slopes.any() and law.order == 0.0
    assert (propose_roots(law, BASE, 0.1) == BASE).all()


def test_too_few_mixtures_are_refused() -> None:
    with pytest.raises(UsageError, match="allowed: 3 or more"):
        fit_roots(np.stack([BASE, BASE]), np.array([1.0, 2.0]))


@pytest.mark.parametrize("strength", [0.05, 0.5, 3.0])
def test_the_proposal_is_the_minimum(strength: float) -> None:
    found = propose_roots(RootLaw(0.0, SLOPES, 1.0), BASE, strength)
    assert found.sum() == pytest.approx(1.0) and (found >= 0).all()
    random = np.random.default_rng(4)
    others = random.dirichlet(np.full(GROUPS, 0.7), size=4000)
    nearby = np.abs(found + 0.02 * random.normal(size=(4000, GROUPS)))
    tries = np.concatenate([others, nearby / nearby.sum(axis=1, keepdims=True)])
    assert _penalty(found, strength) <= min(_penalty(p, strength) for p in tries) + 1e-5


def test_the_stronger_the_nearer_to_the_base() -> None:
    law = RootLaw(0.0, SLOPES, 1.0)
    distances = [divergence(propose_roots(law, BASE, strength), BASE) for strength in (0.05, 0.5, 3.0, 1e6)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-6


def test_without_a_pull_helpful_collections_share_by_the_squares_of_their_slopes() -> None:
    """argmin Σ a_g √p_g on the simplex is p ∝ a², where all a are below 0 (Cauchy and Schwarz)."""
    slopes = np.array([-3.0, -1.0, -2.0])
    found = propose_roots(RootLaw(0.0, slopes, 1.0), np.full(3, 1 / 3), 0.0)
    assert found == pytest.approx(slopes**2 / (slopes**2).sum(), abs=1e-4)


def test_floor_caps_and_a_base_of_zero_hold() -> None:
    law = RootLaw(0.0, SLOPES, 1.0)
    caps = np.array([0.25, 0.5, 0.5, 0.5, 0.5, 0.5])
    found = propose_roots(law, BASE, 0.01, floor=0.05, caps=caps)
    assert (found >= 0.05 - 1e-12).all() and (found <= caps + 1e-12).all() and found[0] == pytest.approx(0.25)
    base = np.array([0.0, 0.2, 0.2, 0.2, 0.2, 0.2])
    assert propose_roots(law, base, 0.1)[0] == 0.0


@given(st.permutations(range(GROUPS)))
def test_the_order_of_collections_does_not_matter(order: list[int]) -> None:
    weights, scores = _planted(0.1)
    one = propose_roots(fit_roots(weights, scores), BASE, 0.3)
    other = propose_roots(fit_roots(weights[:, order], scores), BASE, 0.3)
    assert other == pytest.approx(one[order], abs=1e-4)


def test_a_collection_under_two_names_gets_what_it_got_under_one() -> None:
    """√(a + b) is not √a + √b: the law sees two halves of a collection as two, each with returns of its own. What they
    get together is then more than the one got, but never more than √2 times its pull."""
    weights, scores = _planted(0.0)
    one = propose_roots(fit_roots(weights, scores), BASE, 1.0)
    twice = np.column_stack([weights[:, :1] / 2, weights[:, :1] / 2, weights[:, 1:]])
    base = np.concatenate([BASE[:1] / 2, BASE[:1] / 2, BASE[1:]])
    both = propose_roots(fit_roots(twice, scores), base, 1.0)
    assert both[0] == pytest.approx(both[1], abs=1e-4)
    assert both[:2].sum() == pytest.approx(one[0], abs=0.02)

"""The law of mixtures: candidates, fit and proposal, against closed forms, a solver and planted truths."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.errors import UsageError
from trainers.learning.law import (
    Law,
    divergence,
    draw_candidates,
    fit_law,
    held_out_correlation,
    nearest_within_error,
    propose,
)

SEEDS = st.integers(0, 10_000)


def _uniform(groups: int) -> np.ndarray:
    return np.full(groups, 1 / groups)


def _laws(groups: int, targets: int, seed: int) -> tuple[list[Law], np.ndarray, np.ndarray]:
    """Laws with the heights of fitted ones, weights of the targets, and a base."""
    random = np.random.default_rng(seed)
    laws = [Law(0.0, np.log(5) + random.normal(0, 0.6, groups), 0.0, 1.0, 10.0) for _ in range(targets)]
    return laws, random.dirichlet(np.ones(targets)), random.dirichlet(np.full(groups, 3.0))


def _truth(groups: int, seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured mixtures (count, G), their losses without noise, and the slopes."""
    slopes = np.random.default_rng(seed).normal(0, 1, groups)
    weights = draw_candidates(count, _uniform(groups), seed)
    return weights, 0.3 + np.exp(weights @ slopes), slopes


# Candidates


@given(groups=st.integers(1, 30), count=st.integers(1, 50), seed=SEEDS)
@settings(deadline=None, max_examples=50)
def test_candidates_are_mixtures_around_the_base(groups: int, count: int, seed: int) -> None:
    base = np.random.default_rng(seed).dirichlet(np.ones(groups))
    base[groups // 2 :: 3] = 0.0
    base = base / base.sum() if base.sum() else _uniform(groups)
    found = draw_candidates(count, base, seed)
    assert found.shape == (count, groups)
    np.testing.assert_array_equal(found[0], base)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert not found[:, base == 0].any()
    assert not ((found[1:] > 0) & (found[1:] < 2e-3)).any()
    np.testing.assert_array_equal(found, draw_candidates(count, base, seed))


def test_the_first_half_is_dense_and_the_second_sparse() -> None:
    base = np.random.default_rng(3).dirichlet(np.full(12, 5.0))
    found = draw_candidates(2001, base, 7)
    np.testing.assert_allclose(found.mean(axis=0), base, atol=0.01)
    dense, sparse = found[1:1001], found[1001:]
    assert (dense > 0).sum(axis=1).mean() > 10.5
    assert (sparse > 0).sum(axis=1).mean() < 6.5
    # κ rises within each half.
    assert dense[:200].var() > 2 * dense[-200:].var()
    assert sparse[:200].var() > 2 * sparse[-200:].var()


def test_candidates_are_the_same_on_every_machine() -> None:
    found = draw_candidates(4, np.array([0.5, 0.25, 0.25]), 42)
    pinned = [
        [0.6506059944751603, 0.3429691946013842, 0.006424810923455611],
        [0.6482529663449603, 0.14081242051327209, 0.21093461314176765],
        [0.9700984349131381, 0.02990156508686191, 0.0],
    ]
    np.testing.assert_allclose(found[1:], pinned, rtol=1e-9)
    assert not np.array_equal(found[1:], draw_candidates(4, np.array([0.5, 0.25, 0.25]), 43)[1:])


def test_more_collections_than_the_least_weight_has_room_for() -> None:
    found = draw_candidates(20, _uniform(800), 1)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


# The fit


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fit_recovers_a_law_and_predicts_new_mixtures(seed: int) -> None:
    weights, losses, slopes = _truth(12, seed)
    law = fit_law(weights, losses, 0)
    new = np.random.default_rng(seed).dirichlet(np.ones(12), 200)
    expected = 0.3 + np.exp(new @ slopes)
    np.testing.assert_allclose(law.predict(new), expected, atol=0.01 * losses.std())
    assert float(law.predict(new[0])) == pytest.approx(float(law.predict(new)[0]))


def test_mixtures_that_went_wrong_hardly_matter() -> None:
    weights, losses, _ = _truth(12, 5)
    spoiled = losses.copy()
    spoiled[[3, 17, 29, 41, 55]] += 4 * losses.std()
    law = fit_law(weights, spoiled, 0)
    np.testing.assert_allclose(law.predict(weights), losses, atol=0.1 * losses.std())


@given(seed=st.integers(0, 50), factor=st.sampled_from([1e-3, 1.0, 1e4]), shift=st.sampled_from([-50.0, 0.0, 3.0]))
@settings(deadline=None, max_examples=8)
def test_units_of_the_loss_do_not_matter(seed: int, factor: float, shift: float) -> None:
    """Losses below 0 too: the negative of a score is a loss."""
    weights, losses, _ = _truth(6, seed, 30)
    losses = losses + 0.2 * losses.std() * np.random.default_rng(seed).normal(size=30)
    plain, other = fit_law(weights, losses, 1), fit_law(weights, factor * losses + shift, 1)
    expected = factor * plain.predict(weights) + shift
    np.testing.assert_allclose(other.predict(weights), expected, atol=0.02 * factor * losses.std())


@pytest.mark.parametrize(("groups", "count", "noise"), [(12, 40, 0.5), (20, 60, 0.3), (20, 24, 0.1)])
def test_a_fit_is_as_good_as_the_best_of_many_random_starts(groups: int, count: int, noise: float) -> None:
    """Olmix takes 300 of them."""
    weights, losses, _ = _truth(groups, 11, count)
    random = np.random.default_rng(11)
    losses = losses + noise * losses.std() * random.normal(size=count)
    law = fit_law(weights, losses, 0)

    target = (losses - law.mean) / law.scale + law.shift

    def huber(x: np.ndarray) -> tuple[float, np.ndarray]:
        floor, rest = np.exp(x[0]), np.exp(weights @ x[1:])
        error = floor + rest - target
        size = np.where(np.abs(error) <= 0.02, error**2 / 2, 0.02 * (np.abs(error) - 0.01))
        slope = np.clip(error, -0.02, 0.02) / count
        return float(size.mean()), np.append(slope.sum() * floor, weights.T @ (slope * rest))

    begins = [np.append(np.log(random.uniform(0.1, 7)), np.log(5) + random.normal(0, 0.5, groups)) for _ in range(25)]
    options = {"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-8}
    best = min(
        float(scipy.optimize.minimize(huber, x, jac=True, method="L-BFGS-B", options=options).fun) for x in begins
    )
    assert huber(np.append(law.level, law.slopes))[0] <= 1.02 * best + 1e-7


def test_equal_losses_say_nothing() -> None:
    """Oracle (f): the base, exactly."""
    weights, base = draw_candidates(20, _uniform(5), 0), np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    law = fit_law(weights, np.full(20, 0.7), 0)
    np.testing.assert_allclose(law.predict(weights), 0.7, rtol=1e-14)
    assert propose([law], np.ones(1), base, 0.05).tolist() == base.tolist()
    assert held_out_correlation(weights, np.full(20, 0.7), seed=0) == 0.0


def test_held_out_mixtures_are_predicted_where_there_is_a_law() -> None:
    weights, losses, _ = _truth(8, 2)
    random = np.random.default_rng(2)
    assert held_out_correlation(weights, losses, seed=0) > 0.98
    noisy = losses + 0.5 * losses.std() * random.normal(size=60)
    assert 0.5 < held_out_correlation(weights, noisy, seed=0) < 0.97
    # A fit that saw what it predicts would be far above this.
    for _ in range(3):
        assert held_out_correlation(weights, random.normal(size=60), seed=0) < 0.4


# The proposal


@given(groups=st.integers(1, 12), targets=st.integers(1, 5), seed=SEEDS, strength=st.floats(0.01, 30))
@settings(deadline=None, max_examples=60)
def test_inside_the_bounds_a_proposal_is_the_fixed_point(groups: int, targets: int, seed: int, strength: float) -> None:
    """Oracle (a): p_g ∝ q_g · exp(−(1 / λ) Σ_t w_t a_tg exp(a_t · p))."""
    laws, say, base = _laws(groups, targets, seed)
    found = propose(laws, say, base, strength)
    uphill = sum(w * law.slopes * np.exp(law.slopes @ found) for w, law in zip(say, laws, strict=True))
    logs = np.log(base) - uphill / strength
    expected = np.exp(logs - logs.max())
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.02, 0.3, 2.0])
def test_within_bounds_against_a_solver(strength: float) -> None:
    for seed in range(4):
        laws, say, base = _laws(7, 3, seed)
        floor, caps = 0.02, np.minimum(1.0, 1.6 * base + 0.03)

        def objective(p: np.ndarray, laws: list[Law] = laws, say: np.ndarray = say, base: np.ndarray = base) -> float:
            p = np.maximum(p, 1e-12)
            loss = sum(w * law.predict(p) for w, law in zip(say, laws, strict=True))
            return float(loss + strength * (p * np.log(p / base)).sum())

        found = propose(laws, say, base, strength, floor, caps)
        assert found.sum() == pytest.approx(1.0)
        assert (found >= floor - 1e-12).all()
        assert (found <= caps + 1e-12).all()
        solved = scipy.optimize.minimize(
            objective, found * 0 + 1 / 7, bounds=[(floor, cap) for cap in caps], method="SLSQP",
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, options={"ftol": 1e-14, "maxiter": 1000},
        )  # fmt: skip
        assert objective(found) <= objective(solved.x) + 1e-7
        np.testing.assert_allclose(found, solved.x, atol=2e-3)


def test_from_the_base_to_the_best_collection() -> None:
    """Oracle (b)."""
    base = np.array([0.5, 0.2, 0.2, 0.1])
    laws = [Law(0.0, np.array([1.0, 1.1, -2.0, 0.9]), 0.0, 1.0, 10.0)]
    np.testing.assert_allclose(propose(laws, np.ones(1), base, 1e8), base, atol=1e-6)
    np.testing.assert_allclose(propose(laws, np.ones(1), base, 0.0), [0, 0, 1, 0], atol=1e-6)
    capped = propose(laws, np.ones(1), base, 0.0, caps=np.array([0.4, 1.0, 0.3, 1.0]))
    np.testing.assert_allclose(capped, [0, 0, 0.3, 0.7], atol=1e-6)
    distances = [divergence(propose(laws, np.ones(1), base, s), base) for s in (0.01, 0.1, 1.0, 10.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1.0
    assert distances[-1] < 0.05


def test_a_collection_that_the_base_lacks_stays_out() -> None:
    laws = [Law(0.0, np.array([1.0, -3.0, 1.2]), 0.0, 1.0, 10.0)]
    found = propose(laws, np.ones(1), np.array([0.5, 0.0, 0.5]), 0.05, floor=0.1, caps=np.array([0.8, 0.0, 1.0]))
    assert found[1] == 0.0
    assert found[0] > found[2] >= 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_gets_no_more_than_its_share(seed: int) -> None:
    """Oracle (c), with noisy scores: the last collection helps no target."""
    groups, random = 8, np.random.default_rng(seed)
    weights = draw_candidates(3 * (groups + 1), _uniform(groups), seed)
    laws = []
    for _ in range(4):
        slopes = np.append(random.uniform(-1.5, 0.0, groups - 1), 0.5)
        losses = 0.3 + np.exp(weights @ slopes)
        laws.append(fit_law(weights, losses + 0.2 * losses.std() * random.normal(size=len(losses)), seed))
    for strength in (0.05, 0.3, 1.0):
        assert propose(laws, np.ones(4), _uniform(groups), strength)[-1] < 1 / groups


@given(seed=SEEDS, strength=st.floats(0.02, 3))
@settings(deadline=None, max_examples=20)
def test_two_halves_of_a_collection_get_what_the_whole_got(seed: int, strength: float) -> None:
    """Oracle (d): the law sees their sum alone, and the penalty makes them equal."""
    laws, say, base = _laws(5, 3, seed)
    whole = propose(laws, say, base, strength)
    twice = [Law(law.level, np.append(law.slopes, law.slopes[-1]), 0.0, 1.0, 10.0) for law in laws]
    halves = propose(twice, say, np.append(base[:-1], [base[-1] / 2] * 2), strength)
    np.testing.assert_allclose(halves[:4], whole[:4], atol=1e-6)
    np.testing.assert_allclose(halves[4:], [whole[4] / 2] * 2, atol=1e-6)


def test_a_fit_gives_two_halves_of_a_collection_the_same() -> None:
    base = np.array([0.3, 0.3, 0.2, 0.1, 0.1])
    weights = draw_candidates(60, base, 4)
    merged = np.column_stack([weights[:, :3], weights[:, 3:].sum(axis=1)])
    losses = 0.3 + np.exp(merged @ np.array([0.2, -0.5, 1.0, -1.5]))
    halves = propose([fit_law(weights, losses, 0)], np.ones(1), base, 0.3)
    whole = propose([fit_law(merged, losses, 0)], np.ones(1), np.array([0.3, 0.3, 0.2, 0.2]), 0.3)
    assert halves[3] == pytest.approx(halves[4], abs=0.01)
    assert halves[3:].sum() == pytest.approx(whole[3], abs=0.01)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=10)
def test_the_order_of_the_collections_does_not_matter(seed: int) -> None:
    """Oracle (e), for fit and proposal."""
    weights, losses, _ = _truth(6, seed % 20, 40)
    order = np.random.default_rng(seed).permutation(6)
    base = np.random.default_rng(seed).dirichlet(np.full(6, 3.0))
    plain = propose([fit_law(weights, losses, 0)], np.ones(1), base, 0.2)
    other = propose([fit_law(weights[:, order], losses, 0)], np.ones(1), base[order], 0.2)
    np.testing.assert_allclose(other, plain[order], atol=5e-3)


def test_a_target_that_says_nothing_is_not_heard() -> None:
    laws, _, base = _laws(6, 2, 8)
    alone = propose(laws[:1], np.ones(1), base, 0.1)
    np.testing.assert_allclose(propose(laws, np.array([3.0, 0.0]), base, 0.1), alone, atol=1e-8)
    assert np.abs(propose(laws, np.array([1.0, 1.0]), base, 0.1) - alone).max() > 0.01


# The choice among proposals


def test_of_those_within_one_standard_error_the_nearest() -> None:
    base = np.array([0.5, 0.5])
    proposals = np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5]])
    best = np.array([1.0, 2.0, 3.0, 4.0])
    noisy = np.array([0.4, -0.2, 0.3, -0.3])  # mean 0.05, standard error 0.175
    steady = np.array([0.05, 0.06, 0.05, 0.04])  # as far behind, but always
    scores = np.stack([best, best + noisy, best + steady, best + 1.0])
    assert nearest_within_error(proposals, scores, base) == 1
    scores[2] = best + noisy
    assert nearest_within_error(proposals, scores, base) == 2
    # Targets that are hard for all do not widen the error: differences are paired.
    scores[1:3] = best + steady
    assert nearest_within_error(proposals, scores, base) == 0
    # With a single score nothing is as good as the best but its equal.
    assert nearest_within_error(proposals, np.array([[1.0], [1.1], [1.0], [2.0]]), base) == 2


def test_mistakes_are_said() -> None:
    laws, say, base = _laws(3, 2, 0)
    with pytest.raises(UsageError, match="0 candidates"):
        draw_candidates(0, base, 0)
    with pytest.raises(UsageError, match="must be 0 or more and sum to 1"):
        draw_candidates(3, base * 2, 0)
    with pytest.raises(UsageError, match=r"scores of shape \(3,\) for mixtures of shape \(2, 3\)"):
        fit_law(np.ones((2, 3)) / 3, np.ones(3), 0)
    with pytest.raises(UsageError, match="infinite or NaN"):
        fit_law(np.ones((2, 3)) / 3, np.array([1.0, np.nan]), 0)
    with pytest.raises(UsageError, match="7 folds of 2 mixtures"):
        held_out_correlation(np.ones((2, 3)) / 3, np.ones(2), 7, seed=0)
    with pytest.raises(UsageError, match="2 laws need as many target weights"):
        propose(laws, np.ones(3), base, 0.1)
    with pytest.raises(UsageError, match="`strength` is -1"):
        propose(laws, say, base, -1.0)
    with pytest.raises(UsageError, match="laws of 3 collections; the base has 2"):
        propose(laws, say, np.array([0.5, 0.5]), 0.1)
    with pytest.raises(UsageError, match="the caps sum to"):
        propose(laws, say, base, 0.1, caps=np.full(3, 0.2))
    with pytest.raises(UsageError, match="2 proposals and scores of shape"):
        nearest_within_error(np.ones((2, 3)) / 3, np.ones((3, 4)), base)

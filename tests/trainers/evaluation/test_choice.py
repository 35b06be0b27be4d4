"""Which prompt: the worked numbers, an optimiser, paired intervals against a slow bootstrap, and who goes on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import rel_entr

from trainers.evaluation.choice import OBJECTIVES, against_best, dropped, sizes, subset, worth
from trainers.evaluation.worst_case import worst_case

A, B = [0.7, 0.6, 0.2], [0.5, 0.48, 0.4]
SCORES = np.array([A, B])


@pytest.mark.parametrize(
    ("radius", "values"), [(0, (0.5, 0.46)), (0.02, (0.4561, 0.4512)), (0.1, (0.4007, 0.4401)), (0.3, (0.3279, 0.4256))]
)
def test_worked_numbers(radius: float, values: tuple[float, float]) -> None:
    found = worth(SCORES, "worst", radius=radius)
    np.testing.assert_allclose(found.values, values, atol=5e-5)
    assert found.values.argmax() == (radius >= 0.1)  # who is chosen turns with the radius


def test_worked_adversary_and_the_other_objectives() -> None:
    np.testing.assert_allclose(worth(SCORES, "worst").weights, [[0.2031, 0.2478, 0.5491]] * 2, atol=5e-5)
    mean, least = worth(SCORES, "mean"), worth(SCORES, "least")
    np.testing.assert_allclose(mean.values, [0.5, 0.46])
    np.testing.assert_array_equal(mean.weights, np.full((2, 3), 1 / 3))
    np.testing.assert_array_equal(least.values, [0.2, 0.4])
    np.testing.assert_array_equal(least.weights, [[0, 0, 1], [0, 0, 1]])
    # All mass is on the worst suite from log 3 on.
    np.testing.assert_array_equal(worth(SCORES, "worst", radius=1.0987).values, least.values)


def test_an_optimiser_finds_no_less_for_any_prompt() -> None:
    scores, equal = np.random.default_rng(4).uniform(0, 1, (5, 4)), np.full(4, 0.25)
    for row, value in zip(scores, worth(scores, "worst", radius=0.2).values, strict=True):
        found = minimize(
            lambda q, row=row: q @ row, equal, jac=lambda q, row=row: row, method="SLSQP", bounds=[(0, 1)] * 4,
            constraints=[{"type": "eq", "fun": lambda q: q.sum() - 1},
                         {"type": "ineq", "fun": lambda q: 0.2 - rel_entr(q, equal).sum()}],
            options={"maxiter": 500, "ftol": 1e-13},
        )  # fmt: skip
        assert found.success and value == pytest.approx(found.fun, abs=2e-6)


def test_worst_is_between_least_and_mean_falls_with_the_radius_and_knows_no_order() -> None:
    scores = np.random.default_rng(0).uniform(-0.1, 0.1, (6, 8))
    mean, least = worth(scores, "mean").values, worth(scores, "least").values
    np.testing.assert_allclose(worth(scores, "worst", radius=0).values, mean)
    before = mean
    for radius in (0.05, 0.1, 0.5, 1.0, 3.0):
        now = worth(scores, "worst", radius=radius).values
        assert (now < before + 1e-12).all() and (now >= least - 1e-12).all()
        before = now
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(worth(scores[:, order], "worst").weights, worth(scores, "worst").weights[:, order])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_of_no_gain_anywhere_the_worth_is_none(objective: str) -> None:
    found = worth(np.zeros((2, 5)), objective)
    np.testing.assert_array_equal(found.values, [0, 0])
    if objective != "least":
        np.testing.assert_allclose(found.weights, np.full((2, 5), 0.2))


def _drawn(scores: list[np.ndarray], objective: str, draws: int) -> np.ndarray:
    """The slow way: draw queries, have the adversary answer anew, take the difference to the best."""
    random = np.random.default_rng(7)
    whole = worth(np.stack([part.mean(axis=1) for part in scores], axis=1), objective)
    best, found = whole.values.argmax(), []
    for _ in range(draws):
        means = [part[:, random.integers(0, part.shape[1], part.shape[1])].mean(axis=1) for part in scores]
        values = worth(np.stack(means, axis=1), objective).values
        found.append(values - values[best])
    return np.quantile(np.array(found), [0.025, 0.975], axis=0).T


@pytest.mark.parametrize("objective", ["mean", "worst"])
def test_intervals_are_those_of_a_bootstrap_whose_adversary_answers_each_draw(objective: str) -> None:
    random = np.random.default_rng(3)
    scores = [np.clip(random.normal(level, 0.2, (1, count)) + random.normal(0, 0.05, (3, count))
                      + np.array([[0.0], [0.02], [-0.02]]), 0, 1)
              for level, count in ((0.8, 200), (0.5, 120), (0.3, 160))]  # fmt: skip
    found = worth(np.stack([part.mean(axis=1) for part in scores], axis=1), objective)
    ends, slow = against_best(scores, found), _drawn(scores, objective, 250)
    best = found.values.argmax()
    assert (ends[best] == 0).all()
    # Suites are drawn apart in the slow one; the ends of both are of 1/20 of the scores' spread.
    np.testing.assert_allclose(ends, slow, atol=0.005)
    assert (np.diff(ends)[np.arange(3) != best] > 0.005).all()


def test_pairs_see_the_same_draws_and_clusters_make_nothing_surer() -> None:
    noise = np.random.default_rng(0).uniform(0, 1, 50)
    apart = [np.stack([noise, noise - 0.1])]
    found = worth(np.stack([part.mean(axis=1) for part in apart], axis=1), "mean")
    np.testing.assert_allclose(against_best(apart, found)[1], [-0.1, -0.1])  # equal differences: no width
    random = np.random.default_rng(1).uniform(0, 1, (2, 50))
    four = [random] * 4
    means = worth(np.stack([part.mean(axis=1) for part in four], axis=1), "mean")
    other = 1 - means.values.argmax()
    wide = np.diff(against_best(four, means, [f"q{n}" for _ in range(4) for n in range(50)])[other])
    thin = np.diff(against_best(four, means)[other])
    assert wide > 1.7 * thin  # four translations of one question are one draw
    assert np.isnan(against_best([random, random[:, :1]], worth(np.zeros((2, 2)), "mean"))).all()


def test_who_is_surely_worse_goes_then_the_worse_half_and_the_kept_stay() -> None:
    values = np.array([0.5, 0.1, 0.49, 0.48, 0.47, 0.2])
    ends = np.stack([values - 0.5 - 0.05, values - 0.5 + 0.05], axis=1)
    assert dropped(values, ends) == {1: "surely worse", 5: "surely worse", 4: "worse half"}
    assert dropped(values, ends, kept=[1, 4]) == {5: "surely worse"}
    assert dropped(values, np.full((6, 2), np.nan)) == dict.fromkeys((1, 4, 5), "worse half")
    assert dropped(np.zeros(4), np.zeros((4, 2))) == dict.fromkeys((2, 3), "worse half")  # of equal ones the later go
    assert dropped(np.zeros(1), np.zeros((1, 2))) == {}


def test_rounds_double_and_hold_the_queries_of_those_before() -> None:
    assert sizes(30, 200) == [30, 60, 120, 200] and sizes(0, 200) == [200] and sizes(200, 200) == [200]
    ids = [f"q{n}" for n in range(40)]
    rounds = [subset(ids, size, 5) for size in (5, 10, 40)]
    assert set(rounds[0]) < set(rounds[1]) and rounds[2] == list(range(40))
    assert all(places == sorted(places) for places in rounds)
    assert subset(ids, 10, 5) == rounds[1] != subset(ids, 10, 6)
    fewer = [one for one in ids if one != "q7"]
    kept = {fewer[place] for place in subset(fewer, 9, 5)}
    assert len({ids[place] for place in rounds[1]} - kept) <= 1 + ("q7" in {ids[place] for place in rounds[1]})


def test_the_worst_case_of_gains_is_no_more_than_none() -> None:
    """None gains nothing; what loses somewhere is worth more only if the ball does not hold that loss alone."""
    gains = np.array([[0.0, 0.0, 0.0], [0.05, 0.04, -0.1], [0.02, 0.02, 0.01]])
    assert worth(gains, "worst").values.argmax() == 2
    assert worst_case(gains[1]).value < 0

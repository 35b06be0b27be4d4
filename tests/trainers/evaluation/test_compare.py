"""Two mixtures compared by the scores of their models: what the error is made of, how often chance is called a
difference, and how often a difference is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trainers.evaluation.compare import SIGNIFICANT, Comparison, compare, holm

SEEDS, SUITES, QUERIES = 3, 8, 60
NAMES = np.repeat([f"s{k}" for k in range(SUITES)], QUERIES)


def _scores(
    random: np.random.Generator, *, seed: float, query: float, rest: float, ahead: float = 0.0
) -> list[np.ndarray]:
    """Two sides. Spreads: `seed` of whole models, `query` of how a query tells the mixtures apart, `rest` of both."""
    total = SUITES * QUERIES
    told_apart = [random.normal(0, query, total), np.zeros(total)]
    return [
        0.5
        + ahead * (side == 0)
        + told_apart[side]
        + random.normal(0, seed, (SEEDS, 1))
        + random.normal(0, rest, (SEEDS, total))
        for side in (0, 1)
    ]


def _rejected(tests: int, **how: float) -> tuple[float, float]:
    """How often the comparison, and how often a test over queries alone, calls two sides different."""
    random = np.random.default_rng(5)
    found = []
    for _ in range(tests):
        ours, theirs = _scores(random, **how)
        by_queries = stats.ttest_1samp(ours.mean(axis=0) - theirs.mean(axis=0), 0).pvalue
        found.append((compare(ours, theirs, NAMES).p <= SIGNIFICANT, by_queries <= SIGNIFICANT))
    ours, queries = np.mean(found, axis=0)
    return float(ours), float(queries)


# Spreads as in real runs: single queries move by 0.1 from seed to seed, whole models by 0.1 / √480 and more.
@pytest.mark.parametrize("seed", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("query", [0.0, 0.1])
def test_chance_is_seldom_called_a_difference(seed: float, query: float) -> None:
    """300 comparisons of equals: 5 % is 15; 9 % would be three standard deviations more."""
    ours, by_queries = _rejected(300, seed=seed, query=query, rest=0.1)
    assert ours <= 0.09
    if seed == 0.02:  # a test over queries alone is sure of what the seeds did
        assert by_queries > 0.2


def test_differences_of_three_errors_are_found() -> None:
    """A t-test over the differences of three seeds needs 4.3 errors, and finds 0.4 of these."""
    ahead = 3 * 0.1 * (2 / (SEEDS * SUITES * QUERIES)) ** 0.5
    ours, _ = _rejected(200, seed=0.0, query=0.0, rest=0.1, ahead=ahead)
    assert ours > 0.53


def test_the_mean_gives_suites_equal_say() -> None:
    ours = np.array([[1.0, 0.0, 0.0, 0.0]] * 2)
    found = compare(ours, np.zeros((2, 4)), ["small", "large", "large", "large"])
    assert (found.ours, found.theirs, found.difference) == (0.5, 0.0, 0.5)
    assert (found.num_suites, found.num_queries) == (2, 4)


def test_the_error_by_hand() -> None:
    """One suite, two seeds, three queries, worked out from the docstring's formulas."""
    ours = np.array([[0.5, 0.7, 0.9], [0.6, 0.6, 0.6]])
    theirs = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.4]])
    differences = ours.mean(axis=0) - theirs.mean(axis=0)
    of_queries = differences.var(ddof=1) / 3
    of_seeds = sum(side.mean(axis=1).var(ddof=1) / 2 for side in (ours, theirs))
    rest = 0.0
    for side in (ours, theirs):
        left = side - side.mean(axis=0) - side.mean(axis=1)[:, None] + side.mean()
        rest += (left**2).sum() / (2 * 1) / (2 * 3)  # mean square over (S − 1)(Q − 1), over S Q
    error = (of_queries + of_seeds - min(of_queries, of_seeds, rest)) ** 0.5
    found = compare(ours, theirs, ["s"] * 3)
    assert found.error == pytest.approx(error)
    assert found.low < found.difference < found.high
    assert found.difference - found.low == pytest.approx(found.high - found.difference)
    assert (found.p <= SIGNIFICANT) == (found.low > 0)


def test_pairs_leave_out_what_equal_seeds_have_in_common() -> None:
    random = np.random.default_rng(2)
    ours, theirs = _scores(random, seed=0.001, query=0, rest=0.01)
    common = random.normal(0, 0.05, (SEEDS, 1))
    paired, apart = (compare(ours + common, theirs + common, NAMES, paired=how) for how in (True, False))
    assert paired.difference == apart.difference
    assert paired.error < apart.error / 10
    alone = compare(ours, theirs, NAMES, paired=True)
    assert (paired.error, paired.p) == pytest.approx((alone.error, alone.p))


def test_one_question_in_eight_languages_is_one_draw() -> None:
    random = np.random.default_rng(1)
    told_apart = np.tile(random.normal(0, 0.1, QUERIES), SUITES)
    ours, theirs = _scores(random, seed=0, query=0, rest=0.001)
    question = [str(place) for place in range(QUERIES)] * SUITES
    apart, together = (compare(ours + told_apart, theirs, NAMES, clusters) for clusters in (None, question))
    assert together.error == pytest.approx(0.1 / QUERIES**0.5, rel=0.2)
    assert together.error == pytest.approx(apart.error * SUITES**0.5, rel=0.05)
    assert together.difference == apart.difference


def test_models_without_any_spread() -> None:
    ours, theirs = np.full((2, 3), 0.5), np.full((2, 3), 0.25)
    assert compare(ours, theirs, ["s"] * 3) == Comparison(1, 3, 0.5, 0.25, 0.0, 0.25, 0.25, 0.0)
    assert compare(ours, ours, ["s"] * 3).p == 1.0


@pytest.mark.parametrize(("difference", "error", "p", "said"), [
    (0.003, 0.001, 0.01, "ahead of uniform by 0.3 ± 0.1 on 8 suites (p = 0.01)"),
    (-0.0312, 0.008, 0.0004, "behind uniform by 3.1 ± 0.8 on 8 suites (p < 0.001)"),
    (0.0005, 0.0004, 0.6, "not told apart from uniform on 8 suites (difference 0.05 ± 0.04, p = 0.6)"),
    (0.01, 0.0, 0.0, "ahead of uniform by 1.0 ± 0.0 on 8 suites (p < 0.001)"),
])  # fmt: skip
def test_the_line(difference: float, error: float, p: float, said: str) -> None:
    found = Comparison(8, 99, 0.5 + difference, 0.5, error, 0.0, 0.0, p)
    assert found.words("uniform") == said


def test_holm_keeps_order_and_bounds() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []

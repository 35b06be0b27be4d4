"""Tests and intervals over a suite's queries: scipy's numbers, false alarms, and what is found."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from trainers.evaluation.compare import holm
from trainers.evaluation.significance import DRAWS, EXACT, interval, paired_t, randomisation

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks/false_alarms_evaluate.py"


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("false_alarms_evaluate", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pairs(rows: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = np.array([0, 0, 0.3, 0.43, 0.63, 1.0])
    return random.choice(values, (rows, queries)), random.choice(values, (rows, queries))


@pytest.mark.parametrize("queries", [2, 3, 40, 700])
def test_the_t_test_is_scipys(queries: int) -> None:
    ours, theirs = _pairs(20, queries)
    ours[:, 0] = theirs[:, 0] + 0.1  # no row without a difference, where scipy has nan
    theirs[:, 1] = ours[:, 1] + 0.3
    expected = stats.ttest_rel(ours, theirs, axis=-1).pvalue
    np.testing.assert_allclose(paired_t(ours - theirs), expected, rtol=1e-10)


def test_the_t_test_where_nothing_scatters() -> None:
    same = np.stack([np.zeros(5), np.full(5, 0.1), [0.1, -0.1, 0, 0, 0]])
    np.testing.assert_allclose(paired_t(same), [1, 0, 1])
    np.testing.assert_array_equal(paired_t(same[:, :1]), [1, 1, 1])


@pytest.mark.parametrize("queries", [1, 4, EXACT, 60])
def test_few_differences_take_all_signs(queries: int) -> None:
    """Also among many queries, where the others are equal; scipy takes all signs of 10 or fewer alone."""
    random = np.random.default_rng(3)
    rows = np.zeros((6, queries))
    few = min(queries, 10)
    rows[:, random.permutation(queries)[:few]] = random.choice([-0.5, -0.25, 0.1, 0.25, 1.0], (6, few))
    for row, p in zip(rows, randomisation(rows), strict=True):
        values = row[row != 0]
        sums = [abs(np.dot(signs, values)) for signs in itertools.product([1, -1], repeat=len(values))]
        assert p == pytest.approx(np.mean([s >= abs(values.sum()) - 1e-9 for s in sums]), abs=1e-12)
    if queries == 1:  # scipy takes none
        return
    expected = stats.permutation_test((rows[0][rows[0] != 0],), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert randomisation(rows[0]) == pytest.approx(expected.pvalue)


def test_many_differences_take_drawn_signs() -> None:
    ours, theirs = _pairs(8, 80)
    found = randomisation(ours - theirs)
    expected = [stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=DRAWS,
                                       rng=np.random.default_rng(1)).pvalue for row in ours - theirs]  # fmt: skip
    # Two estimates, each with an error of 0.005 at most.
    np.testing.assert_allclose(found, expected, atol=0.025)
    np.testing.assert_array_equal(found, randomisation(ours - theirs))
    np.testing.assert_array_equal(found[2], randomisation(ours[2] - theirs[2]))


def test_p_is_never_below_what_the_draws_can_show() -> None:
    assert randomisation(np.ones(40)) == 1 / (DRAWS + 1)
    assert randomisation(np.ones(40), draws=99) == 0.01
    assert randomisation(np.zeros(40)) == 1
    assert randomisation(np.ones(3)) == 0.25


def test_blocks_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = _pairs(3, 50)
    whole = interval(ours), randomisation(ours - theirs, draws=500)
    monkeypatch.setattr("trainers.evaluation.significance.BLOCK", 50 * 7)
    np.testing.assert_allclose(interval(ours), whole[0], rtol=1e-12)
    np.testing.assert_array_equal(randomisation(ours - theirs, draws=500), whole[1])


def test_the_interval_is_scipys() -> None:
    ours, theirs = _pairs(5, 60)
    for values in (ours, ours - theirs):
        expected = stats.bootstrap((values,), np.mean, axis=-1, n_resamples=2000, method="percentile",
                                   rng=np.random.Generator(np.random.Philox(0))).confidence_interval  # fmt: skip
        np.testing.assert_allclose(interval(values), np.stack(expected, axis=-1), rtol=1e-12, atol=1e-15)
    assert np.isnan(interval(ours[:, :1])).all()


def test_power_is_that_of_theory() -> None:
    """Differences that are normal, as theory takes them: the noncentral t says how many of 4,000 are found."""
    queries, effect = 100, 0.25
    random = np.random.default_rng(7)
    differences = random.normal(effect, 1, (4000, queries))
    reach = stats.t.ppf(0.975, queries - 1)
    theory = 1 - np.diff(stats.nct.cdf([-reach, reach], queries - 1, effect * queries**0.5))[0]
    for p in (paired_t(differences), randomisation(differences, draws=1999)):
        assert np.mean(p <= 0.05) == pytest.approx(theory, rel=0.05)


@pytest.mark.parametrize("kind", ["binary", "ndcg", "smooth"])
def test_alike_models_are_called_different_as_often_as_promised(simulated: ModuleType, kind: str) -> None:
    """2,000 pairs: 5 % has a standard error of 0.5 %. Of 0 and 1 the randomisation test counts equal sums as far, and
    stays below."""
    differences = simulated.differences(np.random.default_rng(1), kind, 2000, 300)
    ends = interval(differences)
    assert 0.04 <= np.mean(paired_t(differences) <= 0.05) <= 0.06
    assert 0.04 <= np.mean((ends[:, 0] > 0) | (ends[:, 1] < 0)) <= 0.06
    assert (0.03 if kind == "binary" else 0.04) <= np.mean(randomisation(differences, draws=1999) <= 0.05) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "ndcg", "smooth"])
def test_thirteen_corrected_suites_have_a_false_alarm_in_one_of_twenty(simulated: ModuleType, kind: str) -> None:
    """2,000 pairs on 13 suites: at most 5 %, and two standard errors of 0.5 %. Uncorrected it is far more."""
    random = np.random.default_rng(2)
    p = np.stack([randomisation(simulated.differences(random, kind, 2000, q)) for q in simulated.SUITES], axis=1)
    assert p.shape[1] == 13
    assert np.mean([min(holm(list(row))) <= 0.05 for row in p]) <= 0.06
    assert np.mean(p.min(axis=1) <= 0.05) > 0.35

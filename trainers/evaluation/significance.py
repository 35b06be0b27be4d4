"""Do two given models differ on a suite? Tests and intervals over its queries.

Legend: Q queries, B draws. Scores are (…, Q); the last axis is of the queries, the others are of single comparisons,
which all see the same draws. Differences are paired: one model's score of a query less the other's.

Chance is here the choice of the queries alone. What is said is of these two models: another seed of the same training
is another model, and may say the opposite. Which of two *mixtures* is ahead, `compare` asks, over seeds and queries.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Of a randomisation test, whose p-value is a multiple of 1 / (DRAWS + 1), and of an interval.
DRAWS, RESAMPLES = 9_999, 2_000
LEVEL = 0.95
# So many differences have at most DRAWS ways to take signs: all of them are looked at.
EXACT = 13
# Sums that differ by less, as a share of the sum of absolute differences, are equal: order of addition changes bits.
EQUAL = 1e-12
# Numbers held at once.
BLOCK = 2**22


def paired_t(differences: np.ndarray) -> np.ndarray:
    """Two-sided p-values (…,) of Student's paired t-test, as scipy.stats.ttest_rel has them.

    1 where no query differs, or where there is one query alone, which says nothing of others; 0 where all differ by
    the same.
    """
    from scipy import stats

    values = np.asarray(differences, dtype=np.float64)
    queries = values.shape[-1]
    if queries < 2:
        return np.ones(values.shape[:-1])
    error = values.std(axis=-1, ddof=1) / np.sqrt(queries)
    mean = values.mean(axis=-1)
    flat = error <= EQUAL * np.abs(mean)  # equal differences, up to how their mean was rounded
    found = 2 * stats.t.sf(np.abs(mean) / np.where(flat, 1.0, error), queries - 1)
    return np.where(flat, (mean == 0).astype(float), found)


def randomisation(differences: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Two-sided p-values (…,) of Fisher's randomisation test of the mean of paired differences.

    Were the models alike, each difference could as well have the other sign. p is the share of sign vectors whose sum
    is as far from 0 as the one seen, which counts as one of them (Phipson and Smyth 2010): (1 + found) / (1 + draws).
    Where `EXACT` differences or fewer are not 0, all sign vectors are looked at, and p is exact. Equal sums count as
    as far, so with few values, as 0 and 1, the test errs on the safe side.
    """
    values = np.asarray(differences, dtype=np.float64)
    rows = values.reshape(-1, values.shape[-1])
    reach = np.abs(rows.sum(axis=-1)) - EQUAL * np.abs(rows).sum(axis=-1)
    few = np.count_nonzero(rows, axis=-1) <= EXACT
    found: np.ndarray = np.empty(len(rows))
    if few.any():
        kept = min(EXACT, rows.shape[-1])
        largest = np.take_along_axis(rows[few], np.argsort(-np.abs(rows[few]), axis=-1)[:, :kept], axis=-1)
        # The first sign stays: the opposite of each vector is as far from 0.
        ways: np.ndarray = 1 - 2 * ((np.arange(2 ** (kept - 1))[:, None] >> np.arange(kept)) & 1)
        found[few] = (np.abs(largest @ ways.T) >= reach[few, None]).mean(axis=-1)
    many = rows[~few]
    if len(many):
        beyond = np.zeros(len(many), dtype=np.int64)
        random = np.random.Generator(np.random.Philox(seed))
        for count in _blocks(draws, max(many.shape)):
            # Not as int8, whose draws depend on the size of a block.
            signs = 2.0 * random.integers(0, 2, (count, many.shape[-1])) - 1.0
            beyond += (np.abs(many @ signs.T) >= reach[~few, None]).sum(axis=-1)
        found[~few] = (1 + beyond) / (1 + draws)
    return found.reshape(values.shape[:-1])


def interval(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """The bootstrap interval of each mean, (…, 2): low and high, the percentiles of `LEVEL`.

    The numbers are those of scipy.stats.bootstrap(method="percentile") with the same generator, in a tenth of its
    time, because a resample is kept as how often it holds each query. NaN for one query alone.

    values: scores of one model, or paired differences
    """
    scores = np.asarray(values, dtype=np.float64)
    rows = scores.reshape(-1, scores.shape[-1])
    queries = rows.shape[-1]
    if queries < 2:
        return np.full((*scores.shape[:-1], 2), np.nan)
    random = np.random.Generator(np.random.Philox(seed))
    means = []
    for count in _blocks(resamples, queries):
        drawn = random.integers(0, queries, (count, queries))
        flat = (drawn + queries * np.arange(count)[:, None]).ravel()
        times = np.bincount(flat, minlength=count * queries).reshape(count, queries)
        means.append(rows @ times.T.astype(np.float64) / queries)
    tail = (1 - LEVEL) / 2
    ends = np.quantile(np.concatenate(means, axis=-1), [tail, 1 - tail], axis=-1)
    return np.moveaxis(ends, 0, -1).reshape(*scores.shape[:-1], 2)


def by_cluster(shares: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Rows (R, C) whose mean is the sum of the row of `shares`, (R, Q): what is drawn together is one number.

    cluster: (Q,) of each query which of the C clusters it is in, each with one or more

    >>> by_cluster(np.array([[1.0, 2.0, 4.0]]), np.array([0, 1, 0])).tolist()
    [[10.0, 4.0]]
    """
    return np.asarray((cluster.max() + 1) * np.stack([np.bincount(cluster, row) for row in shares]))


def _blocks(draws: int, width: int) -> Iterator[int]:
    """How many draws to make at once, each of so many numbers."""
    most = max(1, BLOCK // width)
    for first in range(0, draws, most):
        yield min(most, draws - first)

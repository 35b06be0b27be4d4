"""Is one mixture ahead of another? Models trained with several seeds, scored on the same queries, compared.

Legend: S seeds a side, Q queries of all suites together, K suites. Scores are (S, Q), within 0 to 1.

What is estimated is the mean over the suites, each of equal say, of the mean over its queries: ours less theirs. The
suites are taken as given. Chance has two sources, and p is a statement about both: would other queries of these suites
*and* other seeds say the opposite? A test over queries alone takes the seeds for no chance, and calls two models that
differ in their seed alone different.

The variance of the difference is that of a two-way layout, seeds by queries, both random (Searle, Casella and McCulloch
1992, chapter 4). With D = the mean difference,

    V_queries  how the queries' differences, averaged over the seeds, scatter around their suite's mean
    V_seeds    how the means of the single models scatter, of both sides
    V_rest     what scatters by seed and query together; it is in both of the above, so once too often
    V        = V_queries + V_seeds − min(V_queries, V_seeds, V_rest)

and D / √V is held against t, with the degrees of freedom of Satterthwaite (1946) from those of V_seeds and V_queries.
V is at least V_queries: so three seeds that happen to agree do not make a small difference sure, which is what makes
a t-test over three seeds so weak.

Equal questions of a group of suites, as xquad's in eight languages, are one draw of a query: they have one cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of a verdict: how often chance alone may look like a difference.
SIGNIFICANT = 0.05
FEWEST_SEEDS = 2


@dataclass(frozen=True)
class Comparison:
    """The difference of two mixtures over `num_suites` suites.

    ours, theirs: means over suites, queries and seeds
    error:        standard error of the difference, over new queries and new seeds
    freedom:      its degrees of freedom
    p:            how often chance alone gives a difference as far from 0, two-sided
    """

    num_suites: int
    num_queries: int
    ours: float
    theirs: float
    error: float
    freedom: float
    p: float

    @property
    def difference(self) -> float:
        return self.ours - self.theirs

    @property
    def word(self) -> str:
        """ahead, behind, or level: not told apart from chance."""
        return "level" if self.p > SIGNIFICANT else "ahead" if self.difference > 0 else "behind"


def compare(
    ours: np.ndarray, theirs: np.ndarray, suites: Sequence[str], clusters: Sequence[object] | None = None
) -> Comparison:
    """Compare two mixtures by the scores of their models.

    ours, theirs: (S, Q); the number of seeds may differ
    suites:       (Q,) the suite of each query
    clusters:     (Q,) queries with equal ones are drawn together; default: each by itself
    """
    from scipy import stats

    places, suite = np.unique(np.asarray(suites), return_inverse=True)
    cluster = np.arange(len(suite)) if clusters is None else np.unique(_keys(clusters), return_inverse=True)[1]
    sizes = np.bincount(suite)
    weights = 1.0 / (len(places) * sizes[suite])
    # A suite's n deviations from its own mean scatter by (n − 1) / n too little.
    spread = weights * np.sqrt(sizes / np.maximum(sizes - 1, 1))[suite]
    sides = [np.asarray(side, dtype=np.float64) for side in (ours, theirs)]
    means = [float((side @ weights).mean()) for side in sides]

    def centred(values: np.ndarray) -> np.ndarray:
        """Less each suite's mean: (…, Q)."""
        sums = np.stack([np.bincount(suite, row) for row in np.atleast_2d(values)])
        return np.atleast_2d(values) - (sums / sizes)[:, suite]

    def by_cluster(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(cluster, row * spread) for row in values])

    drawn = by_cluster(centred(sides[0].mean(axis=0) - sides[1].mean(axis=0)))[0]
    of_queries = float((drawn**2).sum())
    # 2 V² over the variance of V, which the fourth powers bound.
    freedom_queries = 2 * of_queries**2 / float((drawn**4).sum()) if of_queries else 1.0
    of_seeds, rest, together = 0.0, 0.0, 0.0
    for side in sides:
        count = len(side)
        scatter = float((side @ weights).var(ddof=1)) / count
        left = by_cluster(centred(side - side.mean(axis=0)))
        of_seeds += scatter
        together += scatter**2 / (count - 1)
        rest += float((left**2).sum()) / (count * (count - 1))
    variance = of_queries + of_seeds - min(of_queries, of_seeds, rest)
    difference = means[0] - means[1]
    if variance == 0:
        return Comparison(len(places), len(suite), *means, 0.0, float("inf"), float(difference == 0))
    freedom = variance**2 / (together + of_queries**2 / freedom_queries)
    error = variance**0.5
    p = 2 * float(stats.t.sf(abs(difference) / error, freedom))
    return Comparison(len(places), len(suite), *means, error, freedom, min(1.0, p))


def _keys(clusters: Sequence[object]) -> np.ndarray:
    return np.asarray([str(key) for key in clusters])


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): each at most α keeps all false alarms together at most α.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    steps = np.asarray(p, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    found = np.empty(len(order))
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in found]

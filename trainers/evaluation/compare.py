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

and D / √V is held against t, with the degrees of freedom of Satterthwaite (1946) from those of V_queries and, where it
has a share in V, of V_seeds. V is at least V_queries. So three seeds that happen to agree make no small
difference sure, which a t-test over the seeds must allow for: it needs 4.3 errors where this one mostly needs 2 to 2.8.
Simulated with 4 degrees of freedom of V_seeds or more (3 seeds a side, or 5 pairs), equals are told apart in 2 to 6 %
of the cases, whatever the share of the seeds; with 2 (2 seeds a side, or 3 pairs) in up to 8 %.

Models of two mixtures with one seed see much the same batches where the mixtures are alike, and their means then move
together. Taken as pairs, V_seeds is of the differences: far smaller then, at half the degrees of freedom. Where the
mixtures are far apart, pairs have nothing in common, and the freedom would be lost for nothing.

Equal questions of a group of suites, as xquad's in eight languages, are one draw of a query: they have one cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# How often chance alone may look like a difference.
SIGNIFICANT = 0.05
# One model a side does not tell what its seed did.
FEWEST_SEEDS = 2
# Two pairs have one degree of freedom, which says next to nothing.
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Comparison:
    """The difference of two mixtures over `num_suites` suites with `num_queries` queries in all.

    ours, theirs: means over suites, queries and seeds
    error:        standard error of the difference, over new queries and new seeds
    low, high:    its 95 % interval, which leaves 0 out where p is at most `SIGNIFICANT`, and only there
    p:            how often chance alone gives a difference as far from 0, two-sided
    """

    num_suites: int
    num_queries: int
    ours: float
    theirs: float
    error: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        return self.ours - self.theirs

    def words(self, other: str) -> str:
        """`ahead of uniform by 0.3 ± 0.1 on 8 suites (p = 0.01)`: points are hundredths, ± is the standard error."""
        points, error = 100 * self.difference, 100 * self.error
        digits = min(3, max(1, math.ceil(-math.log10(error)))) if error > 0 else 1
        suites = f"{self.num_suites} suite{'s' * (self.num_suites != 1)}"
        p = f"p = {self.p:.2g}" if self.p >= 0.001 else "p < 0.001"
        if self.p > SIGNIFICANT:
            return f"not told apart from {other} on {suites} (difference {points:.{digits}f} ± {error:.{digits}f}, {p})"
        way = "ahead of" if points > 0 else "behind"
        return f"{way} {other} by {abs(points):.{digits}f} ± {error:.{digits}f} on {suites} ({p})"


def compare(
    ours: np.ndarray, theirs: np.ndarray, suites: Sequence[str], clusters: Sequence[str] | None = None, *,
    paired: bool = False,
) -> Comparison:  # fmt: skip
    """Compare two mixtures by the scores of their models.

    ours, theirs: (S, Q), S at least `FEWEST_SEEDS`; the number of seeds may differ where they are not paired
    suites:       (Q,) the suite of each query
    clusters:     (Q,) queries with equal ones are drawn together; default: each by itself
    paired:       V_seeds is of the differences, seed by seed; to be settled before the scores are looked at
    """
    from scipy import stats

    names, suite = np.unique(np.asarray(suites), return_inverse=True)
    cluster = np.arange(len(suite)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sizes = np.bincount(suite)
    weights = 1.0 / (len(names) * sizes[suite])
    # The deviations of n queries from their own mean scatter by (n − 1) / n too little.
    spread = weights * np.sqrt(sizes / np.maximum(sizes - 1, 1))[suite]

    def by_cluster(values: np.ndarray) -> np.ndarray:
        """(n, Q), less the suites' means, weighed and summed: (n, clusters)."""
        means = np.stack([np.bincount(suite, row) for row in values]) / sizes
        return np.stack([np.bincount(cluster, row * spread) for row in values - means[:, suite]])

    sides = [np.asarray(side, dtype=np.float64) for side in (ours, theirs)]
    drawn = by_cluster((sides[0].mean(axis=0) - sides[1].mean(axis=0))[None])
    of_queries = float((drawn**2).sum())
    # A variance's square over its freedom is half the variance's own variance, which fourth powers bound.
    of_seeds = rest = uncertain = 0.0
    for side in [sides[0] - sides[1]] if paired else sides:
        count = len(side)
        scatter = float((side @ weights).var(ddof=1)) / count
        of_seeds += scatter
        uncertain += scatter**2 / (count - 1)
        rest += float((by_cluster(side - side.mean(axis=0)) ** 2).sum()) / (count * (count - 1))
    twice = min(of_queries, of_seeds, rest)
    variance = of_queries + of_seeds - twice
    uncertain = float((drawn**4).sum()) / 2 + (uncertain if of_seeds > twice else 0.0)
    own, other = (float((side @ weights).mean()) for side in sides)
    difference, error = own - other, math.sqrt(variance)
    if not uncertain:  # no spread: all moved alike, or none did
        return Comparison(len(names), len(suite), own, other, 0.0, difference, difference, float(difference == 0))
    freedom = variance**2 / uncertain
    reach = error * float(stats.t.ppf(1 - SIGNIFICANT / 2, freedom))
    p = 2 * float(stats.t.sf(abs(difference) / error, freedom))
    return Comparison(
        len(names), len(suite), own, other, error, difference - reach, difference + reach, min(1.0, p)
    )  # fmt: skip


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): all those at most α keep false alarms among them at most α.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    steps = np.asarray(p, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    found = np.empty(len(order))
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in found]

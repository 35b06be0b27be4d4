"""Which of several prompts? What each is worth over suites, which are surely worse, and who goes on to more queries.

Legend: P prompts, T suites, Q_t queries of suite t, the prompts' scores of a suite (P, Q_t). Arrays in, arrays out.
Prompts are given in the order in which they are preferred where they are worth the same: to use none comes first.

The robust objective is the idea of DRO-InstructZero (arXiv 2510.15260) for prompts that are there already. Departs from
it: no model writes the prompts, all of them are scored, the ball is Kullback-Leibler's, and its centre stays where it
is (their notes move it towards suites with low scores, so that the aim drifts). Halving is that of Karnin et al. (ICML
2013) with one more rule: who is surely worse goes as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from trainers.evaluation.significance import by_cluster, interval
from trainers.evaluation.worst_case import RADIUS, worst_case

WORST, MEAN, LEAST = OBJECTIVES = ("worst", "mean", "least")
"""The worst case in a ball around equal weights of suites; their mean; the least of them."""
SURELY_WORSE, WORSE_HALF = "surely worse", "worse half"


@dataclass(frozen=True)
class Worth:
    """values: (P,) what the prompts are worth; weights: (P, T) of the suites, under which that is each one's mean."""

    values: np.ndarray
    weights: np.ndarray


def worth(scores: np.ndarray, objective: str, *, radius: float = RADIUS) -> Worth:
    """What prompts are worth by an objective of `OBJECTIVES`. Of several least suites the first has the weight.

    scores: (P, T) means over queries, or what they gain over another prompt's

    >>> found = worth(np.array([[0.7, 0.6, 0.2], [0.5, 0.48, 0.4]]), "worst")
    >>> found.values.round(4).tolist(), found.weights[0].round(4).tolist()
    ([0.4007, 0.4401], [0.2031, 0.2478, 0.5491])
    """
    count = scores.shape[1]
    if objective == WORST:
        found = [worst_case(row, radius=radius) for row in scores]
        return Worth(np.array([one.value for one in found]), np.stack([one.weights for one in found]))
    weights = np.full(scores.shape, 1 / count) if objective == MEAN else np.eye(count)[scores.argmin(axis=1)]
    return Worth((weights * scores).sum(axis=1), weights)


def against_best(
    of_queries: Sequence[np.ndarray], found: Worth, clusters: Sequence[str] | None = None
) -> np.ndarray:  # fmt: skip
    """The 95 % bootstrap interval (P, 2) of what each prompt is worth less what the best one is, over other queries.

    All prompts see the same draws of queries. The weights of suites stay those of `found`: the least mean over weights
    has their scores as its gradient, so that what a draw moves in the weights is of second order. NaN where a suite has
    one query alone, which says nothing of others.

    of_queries: T arrays (P, Q_t)
    clusters:   of each query, suite after suite, what it is drawn together with; default: each by itself
    """
    best = int(found.values.argmax())
    parts = []
    for suite, scores in enumerate(of_queries):
        shares = found.weights[:, [suite]] * (scores - scores.mean(axis=1, keepdims=True)) / scores.shape[1]
        parts.append(shares - shares[best])
    rows = np.concatenate(parts, axis=1)
    cluster = np.arange(rows.shape[1]) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    ends = interval(by_cluster(rows, cluster)) + (found.values - found.values[best])[:, None]
    return np.full_like(ends, np.nan) if any(scores.shape[1] < 2 for scores in of_queries) else ends


def dropped(values: np.ndarray, ends: np.ndarray, kept: Collection[int] = ()) -> dict[int, str]:
    """Which prompts do not go on to more queries, and why: those whose interval against the best excludes it, then the
    worse half of all, where so many are left. Of equal values the later one goes. `kept` and the best always go on.

    values: (P,)
    ends:   (P, 2) of `against_best`

    >>> dropped(np.array([0.5, 0.4, 0.3, 0.45]), np.array([[0, 0], [-0.2, 0.1], [-0.3, -0.1], [-0.1, 0.1]]))
    {2: 'surely worse', 1: 'worse half'}
    """
    safe = {*kept, int(values.argmax())}
    found = {one: SURELY_WORSE for one in range(len(values)) if ends[one, 1] < 0 and one not in safe}
    left = sorted((one for one in range(len(values)) if one not in found), key=lambda one: -values[one])
    return found | dict.fromkeys(sorted(set(left[(len(values) + 1) // 2 :]) - safe), WORSE_HALF)


def sizes(first: int, most: int) -> list[int]:
    """Queries of a suite in each round: `first`, twice as many, and so on, the last time all; 0: all at once.

    >>> sizes(50, 300), sizes(0, 300), sizes(400, 300)
    ([50, 100, 200, 300], [300], [300])
    """
    found = []
    while 0 < first < most:
        found.append(first)
        first *= 2
    return [*found, most]


def subset(query_ids: Sequence[str], size: int, seed: int) -> list[int]:
    """Places of `size` queries, in their order. Those of a smaller size are among them, whatever other queries are
    there: each has its turn from seed and id alone.

    >>> subset(["a", "b", "c"], 2, 0), subset(["a", "b", "c"], 1, 0), subset(["a", "b", "c"], 9, 0)
    ([0, 1], [1], [0, 1, 2])
    """

    def turn(place: int) -> bytes:
        return hashlib.sha256(f"{seed} {query_ids[place]}".encode()).digest()

    return sorted(sorted(range(len(query_ids)), key=turn)[:size])

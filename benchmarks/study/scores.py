"""Scores of models of several seeds, compared. Legend: a model's scores are suite -> query -> nDCG@10."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from mixture.suites.families import family
from trainers.evaluation.compare import compare

Scores = dict[str, dict[str, float]]


def compared(
    ours: Sequence[Scores], theirs: Sequence[Scores], chosen: Callable[[str], bool] = lambda suite: True, *,
    paired: bool = False,
) -> dict[str, Any] | None:  # fmt: skip
    """nDCG@10 × 100 over the chosen suites, each of one say, and how far from theirs; None for no suite.

    mean, sd:              of ours; over seeds
    difference, error, p:  with the 95 % interval `low` to `high`, by the test of `mixture verdict`
    """
    columns = [(suite, query) for suite in sorted(ours[0]) if chosen(suite) for query in sorted(ours[0][suite])]
    if not columns:
        return None
    sides = [np.array([[one[s][q] for s, q in columns] for one in side]) for side in (ours, theirs)]
    suites = [s for s, _ in columns]
    found = compare(sides[0], sides[1], suites, [f"{family(s)} {q}" for s, q in columns], paired=paired)
    means = [mean({s: one[s] for s in dict.fromkeys(suites)}) for one in ours]
    return {
        "mean": round(100 * found.ours, 2), "sd": round(100 * float(np.std(means, ddof=1)), 2) if len(means) > 1 else 0,
        "difference": round(100 * found.difference, 2), "error": round(100 * found.error, 2),
        "low": round(100 * found.low, 2), "high": round(100 * found.high, 2), "p": float(f"{found.p:.2g}"),
    }  # fmt: skip


def mean(scores: Scores) -> float:
    """Over suites, of the mean over queries."""
    return float(np.mean([np.mean(list(queries.values())) for queries in scores.values()]))


def mean_over_families(models: Sequence[Scores]) -> float:
    """× 100: suites of one family, as xquad's languages, count as one."""
    names = sorted({family(suite) for suite in models[0]})
    return round(100 * float(np.mean([mean({s: q for s, q in one.items() if family(s) == name})
                                      for one in models for name in names])), 2)  # fmt: skip


def stitched(first: Sequence[Scores], second: Sequence[Scores], of_first: Collection[str]) -> list[Scores]:
    """Of two models of each seed, the scores of the first on these suites and those of the second on the others: every
    suite is scored by the model whose weights were learned on the others, or on it."""
    return [{suite: (one if suite in of_first else other)[suite] for suite in one}
            for one, other in zip(first, second, strict=True)]  # fmt: skip

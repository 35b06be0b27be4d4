"""The positive-aware filter of NV-Retriever (arXiv 2407.15831, section 3, TopK-PercPos).

A retriever scores passages; a good part of the best ones are answers that nobody marked. A candidate that scores above
a share of the positive's own score is taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixture.mining.filters.base import FILTERS, Candidates, check_number
from mixture.mining.pool import MiningPool


@dataclass(frozen=True)
class MaxRatio:
    """Keeps candidates that score at most this share of the lowest-scored positive; all where there is no positive."""

    share: float

    def __post_init__(self) -> None:
        check_number("max_ratio", self.share, "numbers above 0 (0.95 is usual)", lambda share: share > 0)

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        if not np.isfinite(candidates.positive):
            return np.ones(len(candidates.scores), np.bool_)
        return candidates.scores.astype(np.float64) <= allowed_score(candidates.positive, self.share)


def allowed_score(positive_score: float, max_ratio: float) -> float:
    """The highest score that a negative may have: `max_ratio` of the positive's, also below a score under zero.

    >>> allowed_score(0.8, 0.5), allowed_score(-0.8, 0.5)
    (0.4, -1.2)
    """
    return positive_score - (1 - max_ratio) * abs(positive_score)


FILTERS["max_ratio"] = MaxRatio

"""Filters by score alone: a distance to the positive, a least and a most score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixture.mining.filters.base import FILTERS, Candidates, check_number
from mixture.mining.pool import MiningPool


@dataclass(frozen=True)
class Margin:
    """Keeps candidates that score at least this much less than the lowest-scored positive; all where there is no
    positive (TopK-MarginPos of NV-Retriever, arXiv 2407.15831, section 3)."""

    margin: float

    def __post_init__(self) -> None:
        check_number("margin", self.margin, "numbers", np.isfinite)

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        return np.asarray(candidates.scores.astype(np.float64) <= candidates.positive - self.margin)


@dataclass(frozen=True)
class MinScore:
    """Keeps candidates that score this or more: what scores less is no hard negative."""

    score: float

    def __post_init__(self) -> None:
        check_number("min_score", self.score, "numbers", np.isfinite)

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        return np.asarray(candidates.scores >= self.score)


@dataclass(frozen=True)
class MaxScore:
    """Keeps candidates that score this or less: what scores more may be an answer (TopK-Abs, ibid.)."""

    score: float

    def __post_init__(self) -> None:
        check_number("max_score", self.score, "numbers", np.isfinite)

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        return np.asarray(candidates.scores <= self.score)


FILTERS["margin"] = Margin
FILTERS["min_score"] = MinScore
FILTERS["max_score"] = MaxScore

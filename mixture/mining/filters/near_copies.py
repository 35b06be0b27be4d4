"""An edited copy of an answer is an answer, and so is a passage that holds one whole.

What is a known answer: the example's positives, and those of all examples that ask the same (`MiningPool.blocked`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixture.dedup.second_look import Verifier
from mixture.errors import UsageError
from mixture.mining.filters.base import FILTERS, Candidates
from mixture.mining.pool import MiningPool
from mixture.text.form import normalise_text

# Of texts in which every fifth word was changed, dropped or doubled, 95 of 100 are more alike than this, and of BM25's
# five best candidates one in 200 on most collections (docs/benchmarks.md).
USUAL = 0.6
# A shorter answer ("yes", "1917") stands in many passages that do not answer the question.
SHORTEST_ANSWER = 24


@dataclass(frozen=True)
class NearCopies:
    """Keeps candidates whose character n-grams have at most this Jaccard similarity to those of each known answer:
    those of dedup's second look (`mixture.dedup.second_look`)."""

    similarity: float

    def __post_init__(self) -> None:
        _check_share("near_copies", self.similarity)

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        answers = sorted(pool.blocked[example])
        if not answers or not len(candidates.passages):
            return np.ones(len(candidates.passages), np.bool_)
        texts = [pool.passages[number] for number in (*answers, *candidates.passages.tolist())]
        count, found = len(answers), len(candidates.passages)
        pairs = np.stack([np.tile(np.arange(count), found), np.repeat(np.arange(count, count + found), count)], axis=1)
        alike = Verifier(texts, None, same_numbers=False).similarities(pairs)
        return np.asarray(alike.reshape(found, count).max(axis=1) <= self.similarity)


@dataclass(frozen=True)
class Containing:
    """Drops candidates that hold a known answer whole, up to case and punctuation, where it has this many characters
    or more."""

    least: int

    def __post_init__(self) -> None:
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise UsageError(
                f"`containing` is {self.least!r}; allowed: whole numbers from 1 ({SHORTEST_ANSWER} is usual)"
            )

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        answers = [normalise_text(pool.passages[number]) for number in pool.blocked[example]]
        answers = [f" {answer} " for answer in answers if len(answer) >= self.least]
        texts = (f" {normalise_text(pool.passages[number])} " for number in candidates.passages.tolist())
        return np.array([not any(answer in text for answer in answers) for text in texts], np.bool_)


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UsageError(f"`{name}` is {value!r}; allowed: above 0 to 1")


FILTERS["near_copies"] = NearCopies
FILTERS["containing"] = Containing

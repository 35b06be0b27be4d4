"""An edited copy of an answer is an answer, and so is a passage that holds one whole.

What is a known answer: the example's positives, and those of all examples that ask the same (`MiningPool.blocked`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.dedup.second_look import Verifier
from mixture.mining.filters.base import FILTERS, Candidates, check_number
from mixture.mining.pool import MiningPool
from mixture.text.form import normalise_text

# Of planted copies with each tenth or fifth word changed it finds all, for 2 % of the true hard negatives
# (docs/benchmarks.md, "Answers that nobody labelled").
USUAL = 0.6
# Of a text with fewer characters one other word, or number, may be another answer: "Heron reads maps", "Heron prints
# maps". It is a copy only where it is nearly equal and its numbers are the same.
SHORT, NEARLY_EQUAL = 100, 0.9
# A shorter answer ("yes", "1917") stands in many passages that do not answer the question.
SHORTEST_ANSWER = 24


@dataclass(frozen=True)
class NearCopies:
    """Drops candidates whose character n-grams have this Jaccard similarity, or more, to those of a known answer: those
    of dedup's second look (`mixture.dedup.second_look`). With less than `SHORT` characters in one of the two,
    `NEARLY_EQUAL` and the same numbers are asked for."""

    similarity: float

    def __post_init__(self) -> None:
        check_number("near_copies", self.similarity, "above 0 to 1", lambda share: 0 < share <= 1)

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        answers = sorted(pool.blocked[example])
        keep = np.ones(len(candidates.passages), np.bool_)
        count, found = len(answers), len(keep)
        texts = pool.passages.take(np.concatenate([np.array(answers, np.int64), candidates.passages])).arrow
        pairs = np.stack([np.repeat(np.arange(count), found), np.tile(np.arange(count, count + found), count)], axis=1)
        lengths = np.sort(pc.utf8_length(texts).to_numpy().astype(np.int64)[pairs], axis=1)
        near = lengths[:, 0] > lengths[:, 1] * self.similarity / 2  # others cannot be alike, and need no look
        short = lengths[:, 0] < SHORT
        for some, least in ((~short, self.similarity), (short, max(self.similarity, NEARLY_EQUAL))):
            chosen = pairs[near & some]
            if len(chosen):
                alike = Verifier(texts, least, same_numbers=some is short).accept_pairs(chosen)
                keep[chosen[alike, 1] - count] = False
        return keep


@dataclass(frozen=True)
class Containing:
    """Drops candidates that hold a known answer whole, up to case and punctuation, where it has this many characters
    or more."""

    least: int

    def __post_init__(self) -> None:
        allowed = f"whole numbers from 1 ({SHORTEST_ANSWER} is usual)"
        check_number("containing", self.least, allowed, lambda least: isinstance(least, int) and least >= 1)

    def __call__(self, pool: MiningPool, example: int, candidates: Candidates) -> NDArray[np.bool_]:
        answers = [normalise_text(pool.passages[number]) for number in pool.blocked[example]]
        answers = [f" {answer} " for answer in answers if len(answer) >= self.least]
        texts = (f" {normalise_text(pool.passages[number])} " for number in candidates.passages.tolist())
        return np.array([not any(answer in text for answer in answers) for text in texts], np.bool_)


FILTERS["near_copies"] = NearCopies
FILTERS["containing"] = Containing

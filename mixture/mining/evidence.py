"""What a reader should see of a mining: how scores fall with the rank, and some of what each filter dropped."""

from __future__ import annotations

import bisect
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixture.mining.filters import Candidates
from mixture.mining.pool import MiningPool

SCORED = 1_000  # examples whose scores are kept, evenly spread
SHOWN = 10  # dropped candidates of each filter
RANKS_SHOWN = 100


@dataclass(frozen=True)
class Dropped:
    """A candidate that a filter dropped, to read: its rank among the candidates counts from 1."""

    filter: str
    query: str
    positive: str
    candidate: str
    rank: int
    score: float
    positive_score: float | None


@dataclass(frozen=True)
class Seen:
    """scores:    the mean score at each rank
    counts:    of how many examples, `SCORED` at most
    positives: the scores of these examples' lowest-scored positives
    dropped:   up to `SHOWN` of each filter
    """

    scores: list[float]
    counts: list[int]
    positives: list[float]
    dropped: list[Dropped]


class Evidence:
    """Of one collection. Which candidates are shown hangs on their example's id alone."""

    def __init__(self, pool: MiningPool) -> None:
        self._pool = pool
        self._every = max(1, -(-len(pool.queries) // SCORED))
        self._scores: list[NDArray[np.float32]] = []
        self._positives: list[float] = []
        # filter -> (digest of the example's id, example, passage, rank, score, score of the positive), by digest
        self._dropped: dict[str, list[tuple[bytes, int, int, int, float, float]]] = {}

    def note(self, example: int, candidates: Candidates) -> None:
        """An example's candidates, best first."""
        if example % self._every == 0:
            self._scores.append(candidates.scores[:RANKS_SHOWN].copy())
            if np.isfinite(candidates.positive):
                self._positives.append(candidates.positive)

    def note_dropped(self, name: str, example: int, candidates: Candidates, dropped: NDArray[np.bool_]) -> None:
        """Which of an example's candidates a filter drops; the best of them may be shown."""
        if not dropped.any():
            return
        rank = int(dropped.argmax())
        some = self._dropped.setdefault(name, [])
        digest = hashlib.sha256(f"{name}:{self._pool.example_ids[example]}".encode("utf-8", "surrogatepass")).digest()
        if len(some) < SHOWN or digest < some[-1][0]:
            shown = int(candidates.passages[rank]), rank + 1, float(candidates.scores[rank]), candidates.positive
            bisect.insort(some, (digest, example, *shown))
            del some[SHOWN:]

    def seen(self) -> Seen:
        sums, counts = np.zeros(RANKS_SHOWN), np.zeros(RANKS_SHOWN, np.int64)
        for scores in self._scores:
            sums[: len(scores)] += scores
            counts[: len(scores)] += 1
        there = counts > 0
        means = (sums[there] / counts[there]).tolist()
        return Seen(means, counts[there].tolist(), self._positives, self._texts())

    def _texts(self) -> list[Dropped]:
        pool = self._pool
        return [
            Dropped(
                name,
                pool.queries[example],
                pool.passages[int(pool.positives[example][0])] if len(pool.positives[example]) else "",
                pool.passages[passage],
                rank,
                score,
                positive if np.isfinite(positive) else None,
            )
            for name, some in self._dropped.items()
            for _, example, passage, rank, score, positive in some
        ]

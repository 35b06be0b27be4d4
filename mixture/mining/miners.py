"""What a miner is, and which there are. It finds candidates; filters and table are the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixture.embeddings.source import Encode as Encode
from mixture.embeddings.source import Kind as Kind
from mixture.errors import UsageError
from mixture.mining.filters import Candidates
from mixture.mining.judges import Judge
from mixture.mining.negatives import RANDOM, MiningSettings, NegativeTable
from mixture.mining.pool import MiningPool

Rescore: TypeAlias = Callable[[list[tuple[str, str]]], NDArray[np.floating[Any]]]
"""Pairs of query and passage to scores, shape (len(pairs),): higher is more relevant."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (examples or passages done, total)."""

Search: TypeAlias = Callable[[MiningPool, int, Encode | None, Progress], Iterator[Candidates]]
"""From a pool of n examples, the depth, the encoder of a miner that needs one, and progress, to n candidates: those of
each example, in the order of the pool. At most depth of them, positives included, best first, ties by passage id."""


# Examples whose pairs are rescored together.
AT_ONCE = 64


def silent(done: int, total: int) -> None:
    """No progress shown."""


@dataclass(frozen=True, kw_only=True)
class Miner:
    """A way to find candidates for hard negatives.

    search:        finds the candidates
    needs_encoder: callers name a model along with it
    model:         the model where none is named
    filters:       values of the filters that it has by itself, by name
    """

    search: Search
    needs_encoder: bool = False
    model: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)

    def mine(
        self,
        pool: MiningPool,
        settings: MiningSettings,
        *,
        recorded: str,
        random: str = RANDOM,
        encode: Encode | None = None,
        rescore: Rescore | None = None,
        judge: Judge | None = None,
        progress: Progress = silent,
    ) -> NegativeTable:
        """Negatives of every example of the pool.

        recorded: the miner's name in the table; random: that of random passages
        rescore:  scores all possible candidates (`NegativeTable.possible`), and the positives, anew; filters see these
        judge:    asked of the candidates that would be negatives, until enough of them are
        """
        negatives = NegativeTable(pool, settings, recorded, random, judge)
        found = self.search(pool, settings.reach(pool), encode, progress)
        candidates = map(negatives.possible, count(), found)
        for example, some in enumerate(candidates if rescore is None else rescored(pool, candidates, rescore)):
            negatives.add(example, some)
        negatives.settle()
        return negatives


def rescored(pool: MiningPool, candidates: Iterator[Candidates], rescore: Rescore) -> Iterator[Candidates]:
    """Each example's candidates with their new scores, best first, ties in the miner's order. Pairs of `AT_ONCE`
    examples are scored together. Raises `UsageError` where `rescore` gives another shape or no numbers."""
    example = 0
    while some := list(islice(candidates, AT_ONCE)):
        asked = [np.concatenate([pool.positives[example + n], one.passages]) for n, one in enumerate(some)]
        pairs = [(pool.queries[example + n], pool.passages[int(number)])
                 for n, numbers in enumerate(asked) for number in numbers]  # fmt: skip
        scores = np.asarray(rescore(pairs), dtype=np.float32) if pairs else np.empty(0, np.float32)
        if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
            raise UsageError(
                f"rescore: {len(pairs)} pairs gave shape {scores.shape}, expected ({len(pairs)},) of numbers"
            )
        for one, new in zip(some, np.split(scores, np.cumsum([len(numbers) for numbers in asked])[:-1]), strict=True):
            own = len(pool.positives[example])
            order = np.argsort(-new[own:], kind="stable")
            yield Candidates.found(one.passages[order], new[own:][order], new[:own])
            example += 1


MINERS: dict[str, Miner] = {}
"""Filled by the modules of this package."""


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k highest of the scores, highest first, ties by place. Exact, unlike a bare argpartition.

    scores: shape (m,). Returns shape (min(k, m),).

    >>> top_k(np.array([1, 3, 3, 2, 3], dtype=np.float32), 2)
    array([1, 2])
    """
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")][:k]

"""What a miner is, and which there are. It finds candidates; filters and table are the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.embeddings.source import Encode as Encode
from mixture.embeddings.source import Kind as Kind
from mixture.mining.filters import Candidates
from mixture.mining.negatives import MiningSettings, NegativeTable
from mixture.mining.pool import MiningPool

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (examples or passages done, total)."""

Search: TypeAlias = Callable[[MiningPool, int, Encode | None, Progress], Iterator[Candidates]]
"""From a pool of n examples, the depth, the encoder of a miner that needs one, and progress, to n candidates: those of
each example, in the order of the pool. At most depth of them, positives included, best first, ties by passage id."""


def silent(done: int, total: int) -> None:
    """No progress shown."""


@dataclass(frozen=True, kw_only=True)
class Miner:
    """A way to find candidates for hard negatives.

    search:        finds the candidates
    needs_encoder: callers name a model along with it
    filters:       values of the filters that it has by itself, by name
    """

    search: Search
    needs_encoder: bool = False
    filters: Mapping[str, Any] = field(default_factory=dict)

    def mine(
        self,
        pool: MiningPool,
        settings: MiningSettings,
        *,
        recorded: str,
        encode: Encode | None = None,
        progress: Progress = silent,
    ) -> pa.Table:
        """Negatives of every example of the pool, as a table in the schema `NEGATIVES`.

        recorded: the miner's name in the table
        """
        negatives = NegativeTable(pool, settings, recorded)
        for example, candidates in enumerate(self.search(pool, settings.depth, encode, progress)):
            negatives.add(example, candidates)
        return negatives.table()


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

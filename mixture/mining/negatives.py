"""From a miner's candidates to negatives, for all miners: filters, random passages, and the table.

Shapes: n examples, m distinct passages, k candidates an example.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mixture.errors import UsageError
from mixture.mining.filters import Candidates, Filter
from mixture.mining.pool import MiningPool
from mixture.rows import NEGATIVES

RANDOM = "random"  # the miner of what fills up


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """How many negatives, from where. A wrong value is a UsageError.

    per_query: negatives an example gets. depth: candidates looked at for each example, its positives included.
    filters: a candidate that one of them does not keep is dropped. fill_random: whether random passages fill up where
    too few candidates remain. seed: of these.
    """

    per_query: int = 8
    depth: int = 100
    filters: tuple[Filter, ...] = ()
    fill_random: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("per_query", "depth"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` is {getattr(self, name)}; allowed: 1 or more")


def random_passages(
    example_id: str, num_passages: int, excluded: set[int] | frozenset[int], wanted: int, seed: int
) -> list[int]:
    """Distinct numbers below `num_passages` and outside `excluded`, `wanted` of them or as many as there are.

    Counter-based (Philox, keyed by seed and example id): what an example draws does not depend on the others.
    """
    wanted = min(wanted, num_passages - len(excluded))
    key = hashlib.sha256(f"{seed}:{example_id}".encode("utf-8", "surrogatepass")).digest()[:16]
    numbers = np.random.Philox(key=int.from_bytes(key, "little"))
    drawn: dict[int, None] = {}
    while len(drawn) < wanted:  # random_raw is the same in every version of NumPy; Generator's methods need not be
        for number in (numbers.random_raw(2 * wanted) % np.uint64(num_passages)).tolist():
            if number not in excluded and len(drawn) < wanted:
                drawn[number] = None
    return list(drawn)


class NegativeTable:
    """Collects the negatives of one example after another and gives them as a table. miner: the name to record."""

    def __init__(self, pool: MiningPool, settings: MiningSettings, miner: str) -> None:
        self._pool, self._settings, self._miner = pool, settings, miner
        self._rows: list[tuple[str, str, int, float | None, str]] = []

    def add(self, example: int, candidates: Candidates) -> None:
        """Choose the negatives of one example: the first `per_query` that may be and that every filter keeps.

        Where these are fewer, random passages follow if the settings say so, with miner "random" and no score. No
        filter looks at them, but none is a candidate that a filter dropped.
        """
        settings, pool = self._settings, self._pool
        keep = np.ones(len(candidates.passages), np.bool_)
        for keeps in settings.filters:
            keep &= keeps(pool, example, candidates)
        blocked = pool.blocked[example]
        chosen: dict[int, float | None] = {}
        for number, score in zip(candidates.passages[keep].tolist(), candidates.scores[keep].tolist(), strict=True):
            if number not in blocked and len(chosen) < settings.per_query:
                chosen[number] = score
        example_id = pool.example_ids[example]
        missing = settings.per_query - len(chosen)
        if missing and settings.fill_random:
            excluded = blocked.union(candidates.passages[~keep].tolist(), chosen)
            filled = random_passages(example_id, len(pool.passages), excluded, missing, settings.seed)
            chosen.update(dict.fromkeys(filled))
        for rank, (number, score_or_none) in enumerate(chosen.items(), start=1):
            miner = RANDOM if score_or_none is None else self._miner
            self._rows.append((example_id, pool.passage_ids[number], rank, score_or_none, miner))

    def table(self) -> pa.Table:
        """All negatives added so far, in the schema `NEGATIVES`."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(NEGATIVES)
        return pa.table([list(column) for column in columns], schema=NEGATIVES)

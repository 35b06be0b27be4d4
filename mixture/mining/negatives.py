"""From a miner's candidates to negatives, for all miners: filters, random passages, and the table.

Shapes: n examples, m distinct passages, k candidates an example.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.mining.filters import Candidates, Filter
from mixture.mining.pool import MiningPool
from mixture.rows import NEGATIVES

RANDOM = "random"  # the miner of what fills up
SAMPLES = ("top", "random")
RANKS = "ranks"  # among what dropped candidates, beside the filters' names


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """How many negatives, from where. A wrong value is a UsageError.

    per_query:   negatives an example gets
    depth:       candidates looked at for each example, its positives included
    ranks:       (a, b): only candidates after the first a and up to b count, known answers not counted; None: all
    filters:     by name; a candidate that one of them does not keep is dropped
    sample:      of what remains, the best (top), or any with equal chances (random)
    fill_random: whether random passages fill up where too few candidates remain
    seed:        of what is drawn
    """

    per_query: int = 8
    depth: int = 100
    ranks: tuple[int, int] | None = None
    filters: Mapping[str, Filter] = field(default_factory=dict)
    sample: str = "top"
    fill_random: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("per_query", "depth"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` is {getattr(self, name)}; allowed: 1 or more")
        if self.sample not in SAMPLES:
            raise UsageError(f"`sample` is {self.sample!r}; allowed: {', '.join(SAMPLES)}")
        if self.ranks is not None and not 0 <= self.ranks[0] < self.ranks[1]:
            raise UsageError(f"`ranks` is {self.ranks[0]}:{self.ranks[1]}; allowed: 0 or more, then more, as 10:100")

    def reach(self, pool: MiningPool) -> int:
        """Candidates to look for: `depth`, or as many as the ranks need where known answers come first."""
        if self.ranks is None:
            return self.depth
        return max(self.depth, self.ranks[1] + max(map(len, pool.blocked), default=0))


def random_passages(
    example_id: str, num_passages: int, excluded: set[int] | frozenset[int], wanted: int, seed: int
) -> list[int]:
    """Distinct numbers below `num_passages` and outside `excluded`, `wanted` of them or as many as there are.

    Counter-based (Philox, keyed by seed and example id): what an example draws does not depend on the others.
    """
    wanted = min(wanted, num_passages - len(excluded))
    numbers = _philox(f"{seed}:{example_id}")
    drawn: dict[int, None] = {}
    while len(drawn) < wanted:  # random_raw is the same in every version of NumPy; Generator's methods need not be
        for number in (numbers.random_raw(2 * wanted) % np.uint64(num_passages)).tolist():
            if number not in excluded and len(drawn) < wanted:
                drawn[number] = None
    return list(drawn)


def _philox(key: str) -> np.random.Philox:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:16]
    return np.random.Philox(key=int.from_bytes(digest, "little"))


def _sampled(example_id: str, count: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """`wanted` of `count` places, in order, each with the same chance."""
    keys = _philox(f"sample:{seed}:{example_id}").random_raw(count)
    return np.sort(np.argsort(keys, kind="stable")[:wanted])


class NegativeTable:
    """Collects the negatives of one example after another and gives them as a table. miner: the name to record.

    dropped: filter -> candidates that it drops, each counted on its own, whatever the others do; and `RANKS`. Known
             answers are not among them
    """

    def __init__(self, pool: MiningPool, settings: MiningSettings, miner: str) -> None:
        self._pool, self._settings, self._miner = pool, settings, miner
        # Of each negative; the score of a random one is NaN.
        self._examples, self._passages, self._ranks, self._scores = array("q"), array("q"), array("q"), array("d")
        self._outside: dict[int, list[int]] = {}  # of the ranks; until the example is added
        self.dropped = dict.fromkeys([RANKS] * (settings.ranks is not None) + list(settings.filters), 0)

    def possible(self, example: int, candidates: Candidates) -> Candidates:
        """The candidates that are no known answers and within the ranks of the settings."""
        blocked = self._pool.blocked[example]
        free = np.array([number not in blocked for number in candidates.passages.tolist()], np.bool_)
        passages, scores = candidates.passages[free], candidates.scores[free]
        if self._settings.ranks is not None:
            first, last = self._settings.ranks
            self._outside[example] = passages[:first].tolist() + passages[last:].tolist()
            self.dropped[RANKS] += len(self._outside[example])
            passages, scores = passages[first:last], scores[first:last]
        return Candidates(passages, scores, candidates.positive)

    def add(self, example: int, candidates: Candidates) -> None:
        """Choose the negatives of one example among its `possible` candidates: those that every filter keeps.

        Where these are fewer than asked for, random passages follow if the settings say so, with miner "random" and no
        score. No filter looks at them, but none is a candidate that was dropped.
        """
        settings, pool = self._settings, self._pool
        example_id, outside = pool.example_ids[example], self._outside.pop(example, ())
        keep = np.ones(len(candidates.passages), np.bool_)
        for name, keeps in settings.filters.items():
            kept = keeps(pool, example, candidates)
            self.dropped[name] += int((~kept).sum())
            keep &= kept
        places = np.flatnonzero(keep)
        if settings.sample == "random":
            places = places[_sampled(example_id, len(places), settings.per_query, settings.seed)]
        places = places[: settings.per_query]
        chosen: dict[int, float | None] = dict(
            zip(candidates.passages[places].tolist(), candidates.scores[places].tolist(), strict=True)
        )
        missing = settings.per_query - len(chosen)
        if missing and settings.fill_random:
            excluded = pool.blocked[example].union(candidates.passages[~keep].tolist(), outside, chosen)
            filled = random_passages(example_id, len(pool.passages), excluded, missing, settings.seed)
            chosen.update(dict.fromkeys(filled))
        for rank, (number, score) in enumerate(chosen.items(), start=1):
            self._examples.append(example)
            self._passages.append(number)
            self._ranks.append(rank)
            self._scores.append(np.nan if score is None else score)

    def table(self) -> pa.Table:
        """All negatives added so far, in the schema `NEGATIVES`."""
        examples, passages, ranks = (np.array(one, np.int64) for one in (self._examples, self._passages, self._ranks))
        scores = np.array(self._scores, np.float64)
        random = np.isnan(scores)
        columns = [
            self._pool.example_ids.take(examples).arrow,
            self._pool.passage_ids.take(passages).arrow,
            pa.array(ranks),
            pa.array(scores, mask=random),
            pa.array([self._miner, RANDOM]).take(pa.array(random.astype(np.int64))),
        ]
        made = [column.cast(field.type) for column, field in zip(columns, NEGATIVES, strict=True)]
        return pa.table(made, schema=NEGATIVES)

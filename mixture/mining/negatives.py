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
from mixture.mining.evidence import Evidence
from mixture.mining.filters import Candidates, Filter
from mixture.mining.judges import KEEP, POSITIVE, Judge, judged
from mixture.mining.pool import MiningPool
from mixture.rows import NEGATIVES

RANDOM = "random"  # the miner of what fills up
SAMPLES = ("top", "random")
RANKS, JUDGE = "ranks", "judge"  # among what dropped candidates, beside the filters' names
_JUDGED_AT_ONCE = 65_536  # examples


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


def _shuffled(example_id: str, count: int, seed: int) -> NDArray[np.int64]:
    """The places of `count` candidates in an order in which each has the same chance to come first."""
    return np.argsort(_philox(f"sample:{seed}:{example_id}").random_raw(count), kind="stable")


@dataclass(slots=True)
class _Open:
    """An example whose negatives are not chosen yet.

    ranks:    of the candidates that no filter dropped, in the order in which they are to be taken
    excluded: passages that may not fill up
    asked:    how many of the ranks the judge was asked of; kept: those that he keeps
    """

    example: int
    candidates: Candidates
    ranks: NDArray[np.int64]
    excluded: set[int]
    asked: int = 0
    kept: list[int] = field(default_factory=list)

    def next(self, wanted: int) -> list[int]:
        return [int(rank) for rank in self.ranks[self.asked : self.asked + wanted - len(self.kept)]]

    def passage(self, rank: int) -> int:
        return int(self.candidates.passages[rank])


class NegativeTable:
    """Collects the negatives of one example after another and gives them as a table.

    miner, random: the names to record, of what the miner found and of what fills up
    dropped:   filter -> candidates that it drops, each counted on its own, whatever the others do; `RANKS` and `JUDGE`
               among them. Known answers are not
    evidence:  of scores, and of what was dropped
    """

    def __init__(
        self, pool: MiningPool, settings: MiningSettings, miner: str, random: str = RANDOM, judge: Judge | None = None
    ) -> None:
        self._pool, self._settings, self._names, self._judge = pool, settings, (miner, random), judge
        # Of each negative; the score of a random one is NaN.
        self._examples, self._passages, self._ranks, self._scores = array("q"), array("q"), array("q"), array("d")
        self._positives: list[NDArray[np.float32]] = []
        self._outside: dict[int, list[int]] = {}  # of the ranks; until the example is added
        self._open: list[_Open] = []
        self._answers: list[tuple[int, int, float]] = []  # (example, passage, score)
        self.evidence = Evidence(pool)
        others = [RANKS] * (settings.ranks is not None) + [JUDGE] * (judge is not None)
        self.dropped = dict.fromkeys(others + list(settings.filters), 0)

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
        return candidates._replace(passages=passages, scores=scores)

    def add(self, example: int, candidates: Candidates) -> None:
        """Choose the negatives of one example among its `possible` candidates: those that every filter keeps, and the
        judge, who is asked of many examples together (`settle`).

        Where these are fewer than asked for, random passages follow if the settings say so, with no score. Neither
        filters nor the judge look at them, but none is a candidate that was dropped.
        """
        settings, pool = self._settings, self._pool
        keep = np.ones(len(candidates.passages), np.bool_)
        self.evidence.note(example, candidates)
        for name, keeps in settings.filters.items():
            kept = keeps(pool, example, candidates)
            self.dropped[name] += int((~kept).sum())
            self.evidence.note_dropped(name, example, candidates, ~kept)
            keep &= kept
        ranks = np.flatnonzero(keep)
        if settings.sample == "random":
            ranks = ranks[_shuffled(pool.example_ids[example], len(ranks), settings.seed)]
        excluded = {*candidates.passages[~keep].tolist(), *self._outside.pop(example, ())}
        self._positives.append(candidates.positives)
        found = _Open(example, candidates, ranks, excluded)
        if self._judge is None:
            self._choose(found, ranks[: settings.per_query])
            return
        self._open.append(found)
        if len(self._open) == _JUDGED_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Ask the judge of what would be negatives, and in further rounds of what comes in the place of those that it
        drops, until each example has enough or no more candidates."""
        wanted = self._settings.per_query
        while self._judge is not None and self._open:
            asked = [(one, rank) for one in self._open for rank in one.next(wanted)]
            if not asked:
                break
            pairs = [(self._pool.queries[one.example], self._pool.passages[one.passage(rank)]) for one, rank in asked]
            for (one, rank), label in zip(asked, judged(self._judge, pairs), strict=True):
                one.asked += 1
                if label == KEEP:
                    one.kept.append(rank)
                    continue
                self.dropped[JUDGE] += 1
                only = np.arange(len(one.candidates.passages)) == rank
                self.evidence.note_dropped(JUDGE, one.example, one.candidates, only)
                one.excluded.add(one.passage(rank))
                if label == POSITIVE:
                    score = float(one.candidates.scores[rank])
                    self._answers.append((one.example, one.passage(rank), score))
        for one in self._open:
            self._choose(one, np.array(one.kept, np.int64))
        self._open.clear()

    def _choose(self, one: _Open, ranks: NDArray[np.int64]) -> None:
        settings, pool, example = self._settings, self._pool, one.example
        ranks = np.sort(ranks)
        chosen: dict[int, float | None] = dict(
            zip(one.candidates.passages[ranks].tolist(), one.candidates.scores[ranks].tolist(), strict=True)
        )
        missing = settings.per_query - len(chosen)
        if missing and settings.fill_random:
            excluded = pool.blocked[example].union(one.excluded, chosen)
            filled = random_passages(pool.example_ids[example], len(pool.passages), excluded, missing, settings.seed)
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
            pa.array(self._names).take(pa.array(random.astype(np.int64))),
        ]
        made = [column.cast(field.type) for column, field in zip(columns, NEGATIVES, strict=True)]
        return pa.table(made, schema=NEGATIVES)

    def positive_scores(self) -> pa.Table:
        """example_id, passage_id, score and miner of the positives of the examples added so far, as far as the miner
        says what they score, and of the judge's answers."""
        counts = np.array([len(scores) for scores in self._positives], np.int64)
        known = np.flatnonzero(counts)
        examples, passages, scores = self._answered()
        examples = np.concatenate([np.repeat(known, counts[known]), examples])
        passages = np.concatenate([self._pool.positives.take(known).pairs()[1], passages])
        scores = np.concatenate([np.empty(0, np.float32), *self._positives, scores])
        columns = self._ids(examples, passages) | {"score": pa.array(scores, pa.float32())}
        return pa.table(columns | {"miner": pa.repeat(self._names[0], len(scores))})

    def answers(self) -> pa.Table:
        """example_id, passage_id of what the judge calls an answer."""
        examples, passages, _ = self._answered()
        return pa.table(self._ids(examples, passages))

    def _answered(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        examples, passages = np.array([pair[:2] for pair in self._answers], np.int64).reshape(-1, 2).T
        return examples, passages, np.array([score for _, _, score in self._answers], np.float32)

    def _ids(self, examples: NDArray[np.int64], passages: NDArray[np.int64]) -> dict[str, pa.ChunkedArray]:
        found = (self._pool.example_ids.take(examples).arrow, self._pool.passage_ids.take(passages).arrow)
        return {
            name: column.cast(NEGATIVES.field(name).type)
            for name, column in zip(("example_id", "passage_id"), found, strict=True)
        }

"""What may be a negative of an example, shared by all miners, and the table they make.

A retriever scores passages; a good part of the best ones are answers that nobody marked. Never a negative of an
example are: its positives, the positives of any example with the same normalised query, and passages whose normalised
text equals one of these. On top comes the positive-aware filter of NV-Retriever (arXiv 2407.15831, section 3,
TopK-PercPos): a candidate that scores above a share of the positive's own score is taken for an unmarked answer.

Passages that are equal after `normalise_text` count as one, the one with the smallest id; so an example never gets the
same text twice as a negative. Shapes: n examples, m distinct passages, k candidates an example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.rows import NEGATIVES
from mixture.text.form import normalise_text

Progress = Callable[[int, int], None]
"""Called with (examples or passages done, total)."""


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """How many negatives, from where. A wrong value is a UsageError.

    per_query: negatives an example gets. depth: candidates looked at for each example, its positives included.
    max_ratio: drop candidates that score above this share of the lowest-scored positive; None for no such filter.
    seed: of the random passages that fill up where too few candidates remain.
    """

    per_query: int = 8
    depth: int = 100
    max_ratio: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.per_query < 1 or self.depth < 1:
            raise UsageError(f"per_query {self.per_query}, depth {self.depth}: both must be at least 1")
        if self.max_ratio is not None and not self.max_ratio > 0:
            raise UsageError(f"max_ratio {self.max_ratio}: allowed are None and numbers above 0 (0.95 is usual)")


@dataclass(frozen=True, slots=True)
class MiningPool:
    """One collection, checked and numbered: m distinct passages in the order of their ids, n examples.

    passage_ids, passages: the m passages that stand for all with their normalised text. positives: for each example
    the numbers of its own positives. blocked: for each example the numbers of all passages that it must not get.
    """

    example_ids: list[str]
    queries: list[str]
    passage_ids: list[str]
    passages: list[str]
    positives: list[NDArray[np.int64]]
    blocked: list[frozenset[int]]

    @classmethod
    def build(
        cls,
        example_ids: Sequence[str],
        queries: Sequence[str],
        positives: Sequence[Sequence[str]],
        passage_ids: Sequence[str],
        passages: Sequence[str],
        wanted: Collection[str] | None = None,
    ) -> MiningPool:
        """From n' example ids, n' queries, n' lists of positive passage ids, m' passage ids and m' passage texts.

        wanted: the n examples to mine for, None for all; the others still say what answers an equal query
        """
        if not len(example_ids) == len(queries) == len(positives):
            raise UsageError(
                f"{len(example_ids)} example ids, {len(queries)} queries, {len(positives)} lists of positives: "
                "there must be equally many"
            )
        if len(set(example_ids)) != len(example_ids):
            raise UsageError(f"{len(example_ids) - len(set(example_ids))} example ids are repeated; make them unique")
        if len(passage_ids) != len(passages):
            raise UsageError(f"{len(passage_ids)} passage ids and {len(passages)} passages: must be equally many")
        numbers, firsts = _number_passages(passage_ids, passages)
        own = [
            np.unique([_number(numbers, passage, example) for passage in ids]).astype(np.int64)
            for example, ids in zip(example_ids, positives, strict=True)
        ]
        same_query: dict[str, set[int]] = {}
        normal = [normalise_text(query) for query in queries]
        for query, mine in zip(normal, own, strict=True):
            same_query.setdefault(query, set()).update(mine.tolist())
        frozen = {query: frozenset(blocked) for query, blocked in same_query.items()}
        kept = [place for place, name in enumerate(example_ids) if wanted is None or name in wanted]
        return cls(
            example_ids=[example_ids[place] for place in kept],
            queries=[queries[place] for place in kept],
            passage_ids=[passage_ids[row] for row in firsts],
            passages=[passages[row] for row in firsts],
            positives=[own[place] for place in kept],
            blocked=[frozen[normal[place]] for place in kept],
        )


def _number_passages(ids: Sequence[str], texts: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    """The number of each passage id, equal for equal normal forms, and the row that stands for each number."""
    numbers: dict[str, int] = {}
    firsts: list[int] = []
    by_text: dict[str, int] = {}
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        if ids[row] in numbers:
            raise UsageError(f"passage id {ids[row]!r} occurs more than once; make the ids unique")
        number = by_text.setdefault(normalise_text(texts[row]), len(firsts))
        if number == len(firsts):
            firsts.append(row)
        numbers[ids[row]] = number
    return numbers, firsts


def _number(numbers: dict[str, int], passage: str, example: str) -> int:
    if passage not in numbers:
        raise UsageError(f"example {example!r}: its positive {passage!r} is not among the passages")
    return numbers[passage]


def allowed_score(positive_score: float, max_ratio: float) -> float:
    """The highest score that a negative may have: `max_ratio` of the positive's, also below a score under zero.

    >>> allowed_score(0.8, 0.5), allowed_score(-0.8, 0.5)
    (0.4, -1.2)
    """
    return positive_score - (1 - max_ratio) * abs(positive_score)


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
    """Collects the negatives of one example after another and gives them as a table."""

    def __init__(self, pool: MiningPool, settings: MiningSettings, miner: str) -> None:
        self._pool, self._settings, self._miner = pool, settings, miner
        self._rows: list[tuple[str, str, int, float | None, str]] = []

    def add(self, example: int, candidates: NDArray[np.int64], scores: NDArray[np.float32], positive: float) -> None:
        """Choose the negatives of one example.

        candidates: shape (k,), passage numbers, best first. scores: shape (k,), theirs. positive: the score of the
        lowest-scored positive, infinite if there is none. Where filters leave fewer than `per_query`, random
        passages follow, with miner "random" and no score; never one that a filter dropped.
        """
        settings, pool = self._settings, self._pool
        blocked = pool.blocked[example]
        highest = np.inf
        if settings.max_ratio is not None and np.isfinite(positive):
            highest = allowed_score(positive, settings.max_ratio)
        chosen: dict[int, float | None] = {}
        dropped = set(blocked)
        for number, score in zip(candidates.tolist(), scores.tolist(), strict=True):
            if score > highest:
                dropped.add(number)
            elif number not in blocked and len(chosen) < settings.per_query:
                chosen[number] = score
        example_id = pool.example_ids[example]
        missing = settings.per_query - len(chosen)
        if missing:
            excluded = dropped.union(chosen)
            filled = random_passages(example_id, len(pool.passages), excluded, missing, settings.seed)
            chosen.update(dict.fromkeys(filled))
        for rank, (number, score_or_none) in enumerate(chosen.items(), start=1):
            miner = "random" if score_or_none is None else self._miner
            self._rows.append((example_id, pool.passage_ids[number], rank, score_or_none, miner))

    def table(self) -> pa.Table:
        """All negatives added so far, in the schema `NEGATIVES`."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(NEGATIVES)
        return pa.table([list(column) for column in columns], schema=NEGATIVES)

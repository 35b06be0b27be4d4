"""One collection as miners see it: queries, distinct passages, and what may never be a negative.

Never a negative of an example are: its positives, the positives of any example with the same normalised query, and
passages whose normalised text equals one of these. Passages that are equal after `normalise_text` count as one, the one
with the smallest id; so an example never gets the same text twice as a negative.

Shapes: n examples, m distinct passages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.text.form import normalise_text


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

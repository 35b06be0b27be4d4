"""Which training texts are rows of a test set: any number of suites, each by its own rule.

A training query matches as `mixture.dedup.decontaminate` says, a training passage as `mixture.dedup.containment`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from mixture.dedup.containment import DEFAULT_SHARE, PassageSearch, checked_share
from mixture.dedup.decontaminate import DEFAULT_DISTANCE, QuerySearch, checked_distance
from mixture.text.form import Texts

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """How near a row must be to a test set to match it. A wrong value is a UsageError.

    distance:        most edits between a query and a test query, 0 to 64
    passage_overlap: least share of a test passage's n-grams that a positive holds, above 0 to 1; None: test passages
                     are not looked for
    """

    distance: int = DEFAULT_DISTANCE
    passage_overlap: float | None = DEFAULT_SHARE

    def __post_init__(self) -> None:
        checked_distance(self.distance)
        if self.passage_overlap is not None:
            checked_share(self.passage_overlap, "passage_overlap")


@dataclass(frozen=True)
class Match:
    """The test text that a training text is.

    id:         of the test query, or of the test passage
    distance:   edits between the queries; None for passages
    similarity: 1 - edits / letters of the longer query; of passages the share of the test passage's n-grams
    """

    suite: str
    id: str
    text: str
    distance: int | None
    similarity: float


class TestSets:
    """Test sets, to be searched any number of times.

    queries: suite, query_id, query. passages: suite, doc_id, text. rules: of each suite in them.
    """

    __test__ = False  # no class of tests

    def __init__(self, queries: pa.Table, passages: pa.Table, rules: Mapping[str, Rule]) -> None:
        self.queries, self.passages, self.rules = queries, passages, dict(rules)

    def of(self, suite: str) -> TestSets:
        """One of them alone."""
        return TestSets(_of(self.queries, [suite]), _of(self.passages, [suite]), {suite: self.rules[suite]})

    @cached_property
    def _queries(self) -> list[QuerySearch]:
        return [
            QuerySearch(_of(self.queries, suites), distance=distance)
            for distance, suites in _by_value({suite: rule.distance for suite, rule in self.rules.items()})
        ]

    @cached_property
    def _passages(self) -> list[PassageSearch]:
        return [
            PassageSearch(part, share=share)
            for share, suites in _by_value({suite: rule.passage_overlap for suite, rule in self.rules.items()})
            if share is not None and (part := _of(self.passages, suites)).num_rows
        ]

    @property
    def has_passages(self) -> bool:
        """Whether there are passages to look for."""
        return bool(self._passages)

    def match_queries(self, queries: Texts) -> dict[int, Match]:
        """For the rows of n training queries that match, the nearest test query."""
        hits = (hit for search in self._queries for hit in search.find(queries).to_pylist())
        return _nearest(
            (hit["row"], Match(hit["suite"], hit["query_id"], hit["test_query"], hit["distance"], hit["similarity"]))
            for hit in hits
        )

    def match_passages(self, texts: Texts) -> dict[int, Match]:
        """For the rows of n training passages that match, the test passage that they hold most of."""
        hits = (hit for search in self._passages for hit in search.find(texts).to_pylist())
        return _nearest(
            (hit["row"], Match(hit["suite"], hit["doc_id"], hit["test_passage"], None, hit["share"])) for hit in hits
        )


def _nearest(matches: Iterable[tuple[int, Match]]) -> dict[int, Match]:
    """The nearest match of each row."""
    found: dict[int, Match] = {}
    for row, match in matches:
        found[row] = min(found.get(row, match), match, key=nearness)
    return found


def nearness(match: Match) -> tuple[float, float, str, str]:
    """By this the nearest of several matches is the least."""
    return (match.distance or 0, -match.similarity, match.suite, match.id)


def _of(rows: pa.Table, suites: Iterable[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows["suite"], pa.array(list(suites), pa.string())))


def _by_value(values: Mapping[str, T]) -> list[tuple[T, list[str]]]:
    """Suites of one value together, in a stated order."""
    groups: dict[T, list[str]] = {}
    for suite in sorted(values):
        groups.setdefault(values[suite], []).append(suite)
    return list(groups.items())

"""Halves of a suite: one to learn weights on, the other to report on. Which half a query is in follows from its text
alone, so it is the same in every corpus, run and language version of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from mixture.errors import UsageError
from mixture.suites.documents import not_there
from mixture.suites.suite import Suite
from mixture.text.form import normalise_text

LEARN, REPORT = HALVES = ("learn", "report")


def half_of(query: str) -> str:
    """`learn` or `report`: a bit of a hash of the query, up to case and punctuation.

    >>> half_of("Who wrote Faust?") == half_of("who wrote faust")
    True
    """
    return HALVES[hashlib.sha256(normalise_text(query).encode()).digest()[0] & 1]


def halved(suite: Suite, half: str | None) -> Suite:
    """The suite with the queries of one half, and its whole corpus; None leaves it whole.

    Raises `UsageError` for another word, and where the half has no query.
    """
    if half is None:
        return suite
    if half not in HALVES:
        raise UsageError(f"`half` is {half!r}; allowed: {', '.join(HALVES)}")
    places = [place for place, query in enumerate(suite.queries) if half_of(query) == half]
    if not places:
        raise UsageError(f"{suite.name}: none of its {len(suite.queries)} queries is in the half {half!r}")
    return replace(with_queries(suite, places), half=half)


def with_queries(suite: Suite, places: Sequence[int]) -> Suite:
    """The suite with the queries at these places, and its whole corpus."""
    ids, queries = ([column[place] for place in places] for column in (suite.query_ids, suite.queries))
    qrels = {key: suite.qrels[key] for key in ids}
    missing = not_there((document for grades in qrels.values() for document in grades), suite.corpus_ids)
    answers = None if suite.answers is None else {key: suite.answers[key] for key in ids}
    excluded = None if suite.excluded is None else {key: suite.excluded[key] for key in ids}
    return replace(suite, query_ids=ids, queries=queries, qrels=qrels, missing_documents=missing, answers=answers,
                   excluded=excluded)  # fmt: skip

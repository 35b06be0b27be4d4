from __future__ import annotations

import pytest

from mixture.errors import UsageError
from mixture.suites.halves import HALVES, half_of, halved
from mixture.suites.suite import Suite

QUERIES = [f"what is number {n} of the list" for n in range(400)]


@pytest.fixture
def suite() -> Suite:
    ids = [f"q{n}" for n in range(len(QUERIES))]
    qrels = {key: {f"d{n}": 1} for n, key in enumerate(ids)} | {"q0": {"gone": 1}}
    corpus = [f"d{n}" for n in range(1, len(QUERIES))]
    return Suite("s", corpus, [("", c) for c in corpus], ids, QUERIES, qrels, missing_documents=1)


def test_the_halves_part_the_queries_and_keep_the_corpus(suite: Suite) -> None:
    parts = [halved(suite, half) for half in HALVES]
    assert sorted(q for part in parts for q in part.query_ids) == sorted(suite.query_ids)
    assert not set(parts[0].query_ids) & set(parts[1].query_ids)
    assert all(150 < len(part.queries) < 250 and part.corpus == suite.corpus for part in parts)
    assert all(set(part.qrels) == set(part.query_ids) for part in parts)
    assert sum(part.missing_documents for part in parts) == 1
    assert len({suite.digest, *(part.digest for part in parts)}) == 3
    assert [part.title for part in parts] == ["s/learn", "s/report"]
    assert halved(suite, None) is suite and suite.title == "s"


def test_a_query_keeps_its_half_in_other_words_of_case_and_blanks() -> None:
    assert all(half_of(query) == half_of(f"  {query.upper()} ") for query in QUERIES)


def test_another_word_and_an_empty_half_are_refused(suite: Suite) -> None:
    with pytest.raises(UsageError, match="`half` is 'test'; allowed: learn, report"):
        halved(suite, "test")
    half = half_of(QUERIES[0])
    other = next(h for h in HALVES if h != half)
    lone = Suite("s", ["d0"], [("", "x")], ["q0"], QUERIES[:1], {"q0": {"d0": 1}})
    assert halved(lone, half).queries == QUERIES[:1]
    with pytest.raises(UsageError, match="s: none of its 1 queries is in the half"):
        halved(lone, other)

"""What a collection in the store really holds, counted there: what a datacard's claims are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mixture.errors import unknown_name
from mixture.store import read
from mixture.store.connect import Store

LENGTHS = "coalesce(avg(length(t)), 0) AS mean, coalesce(quantile_disc(length(t), 0.95), 0) AS p95"


@dataclass(frozen=True)
class Lengths:
    """Characters of a kind of text: the mean, and the length that 95 % of the texts do not pass."""

    mean: float
    p95: int


@dataclass(frozen=True)
class Mined:
    """What one miner gave: how many negatives, to how many examples."""

    negatives: int
    examples: int


@dataclass(frozen=True)
class Facts:
    """A collection as measured. Shares are between 0 and 1.

    `positive_chars` counts each positive of each example, title and text joined by a space as in training.
    `languages` counts examples ("unknown" where a row does not say its language). `negatives_per_query` is the mean
    over all examples. The shares of removed examples are of those that ever were in the collection.
    """

    collection: str
    num_examples: int
    num_passages: int
    num_files: int
    num_rejected: int
    query_chars: Lengths
    positive_chars: Lengths
    languages: dict[str, int]
    negatives_per_query: float
    share_with_negatives: float
    negatives_by_miner: dict[str, Mined]
    share_removed_by_dedup: float
    share_removed_by_decontamination: float


def measured(store: Store, collection: str) -> Facts:
    """Count one collection of the store. Raises `UsageError` for a name that the store does not hold."""
    names = [row["collection"] for row in store.rows("SELECT collection FROM collections")]
    if collection not in names:
        raise unknown_name("collection", collection, names)
    info = read.collections(store, [collection])[0]
    counts = _one(
        store,
        """SELECT (SELECT count(DISTINCT file) FROM sources WHERE collection = $c) AS files,
                  (SELECT count(*) FROM rejects WHERE collection = $c) AS rejected,
                  (SELECT count(*) FROM removals WHERE collection = $c AND suite IS NULL
                   AND reason <> 'forgotten') AS repeats,
                  (SELECT count(*) FROM removals WHERE collection = $c AND suite IS NOT NULL) AS test_queries""",
        collection,
    )
    miners = _miners(store, collection)
    ever = info.num_examples + counts["repeats"] + counts["test_queries"]
    return Facts(
        collection=collection,
        num_examples=info.num_examples,
        num_passages=info.num_passages,
        num_files=counts["files"],
        num_rejected=counts["rejected"],
        query_chars=Lengths(
            **_one(store, f"SELECT {LENGTHS} FROM (SELECT query AS t FROM examples WHERE collection = $c)", collection)
        ),
        positive_chars=_positive_lengths(store, collection),
        languages=_languages(store, collection),
        negatives_per_query=_share(sum(m.negatives for m in miners.values()), info.num_examples),
        share_with_negatives=_share(info.num_with_negatives, info.num_examples),
        negatives_by_miner=miners,
        share_removed_by_dedup=_share(counts["repeats"], ever),
        share_removed_by_decontamination=_share(counts["test_queries"], ever),
    )


def _positive_lengths(store: Store, collection: str) -> Lengths:
    row = _one(
        store,
        f"""SELECT {LENGTHS} FROM (
                SELECT CASE WHEN p.title = '' THEN p.text ELSE p.title || ' ' || p.text END AS t
                FROM (SELECT unnest(positives).passage_id AS passage_id FROM examples WHERE collection = $c) e
                JOIN passages p ON p.passage_id = e.passage_id WHERE p.collection = $c)""",
        collection,
    )
    return Lengths(**row)


def _languages(store: Store, collection: str) -> dict[str, int]:
    rows = store.rows(
        """SELECT coalesce(language, 'unknown') AS language, count(*) AS n FROM examples WHERE collection = ?
           GROUP BY ALL ORDER BY n DESC, language""",
        [collection],
    )
    return {row["language"]: row["n"] for row in rows}


def _miners(store: Store, collection: str) -> dict[str, Mined]:
    rows = store.rows(
        """SELECT miner, count(*) AS negatives, count(DISTINCT example_id) AS examples FROM negatives
           WHERE collection = ? GROUP BY ALL ORDER BY negatives DESC, miner""",
        [collection],
    )
    return {row["miner"]: Mined(row["negatives"], row["examples"]) for row in rows}


def _one(store: Store, query: str, collection: str) -> dict[str, Any]:
    return store.rows(query, {"c": collection})[0]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

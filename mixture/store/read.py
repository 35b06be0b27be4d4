"""Reads that several commands share: collections with their counts, digests, and columns as Arrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import UsageError, unknown_name
from mixture.store.connect import Store


@dataclass(frozen=True)
class CollectionInfo:
    """A collection and how much it holds now."""

    collection: str
    card: str | None
    prompts: tuple[str, ...]
    num_examples: int
    num_passages: int
    num_with_negatives: int


def collections(store: Store, names: Sequence[str] = ()) -> list[CollectionInfo]:
    """All collections in order of name, or those named. An unknown name is a `UsageError`."""
    found = store.rows(
        """SELECT c.collection, c.card, c.prompts, coalesce(e.n, 0) AS num_examples,
                  coalesce(p.n, 0) AS num_passages, coalesce(g.n, 0) AS num_with_negatives
           FROM collections c
           LEFT JOIN (SELECT collection, count(*) AS n FROM examples GROUP BY ALL) e USING (collection)
           LEFT JOIN (SELECT collection, count(*) AS n FROM passages GROUP BY ALL) p USING (collection)
           LEFT JOIN (SELECT collection, count(DISTINCT example_id) AS n FROM negatives GROUP BY ALL) g
               USING (collection)
           ORDER BY c.collection"""
    )
    infos = {row["collection"]: CollectionInfo(**(row | {"prompts": tuple(row["prompts"] or ())})) for row in found}
    if not names:
        return list(infos.values())
    for name in names:
        if name not in infos:
            raise unknown_name("collection", name, infos)
    return [infos[name] for name in dict.fromkeys(names)]


def digest(store: Store, collection: str) -> str:
    """SHA-256 of what training reads of a collection: prompts, example ids (query and positives), negatives in order.

    It depends on neither the order of ingestion nor the store.
    """
    prompts = store.rows("SELECT prompts FROM collections WHERE collection = ?", [collection])
    if not prompts:
        raise UsageError(f"no collection {collection!r} in the store")
    result = hashlib.sha256(json.dumps(prompts[0]["prompts"], ensure_ascii=False).encode())
    reader = store.connection.execute(
        """SELECT e.example_id || coalesce(n.hash, '') AS line FROM examples e LEFT JOIN (
               SELECT example_id, md5(string_agg(passage_id, ',' ORDER BY miner, rank, passage_id)) AS hash
               FROM negatives WHERE collection = $c GROUP BY example_id) n USING (example_id)
           WHERE e.collection = $c ORDER BY e.example_id""",
        {"c": collection},
    ).to_arrow_reader(100_000)
    for batch in reader:
        result.update(("\n".join(batch.column(0).to_pylist()) + "\n").encode())
    return result.hexdigest()


def queries(store: Store, collection: str) -> pa.Table:
    """example_id, query, simhash, language of a collection, in order of example_id."""
    return store.read(
        """SELECT example_id, query, simhash, language FROM examples WHERE collection = ? ORDER BY example_id""",
        [collection],
    )


def pairs(store: Store, collection: str, *, without_negatives: bool = False) -> pa.Table:
    """example_id, query, positives (list of passage ids) of a collection, in order of example_id.

    `without_negatives` leaves out the examples that have negatives.
    """
    lacking = "ANTI JOIN (SELECT example_id FROM negatives WHERE collection = $c) USING (example_id)"
    return store.read(
        f"""SELECT example_id, query, list_transform(positives, lambda p: p.passage_id) AS positives
            FROM examples {lacking if without_negatives else ""} WHERE collection = $c ORDER BY example_id""",
        {"c": collection},
    )


def passages(store: Store, collection: str) -> pa.Table:
    """passage_id, title, text of a collection, in order of passage_id."""
    return store.read(
        "SELECT passage_id, title, text FROM passages WHERE collection = ? ORDER BY passage_id", [collection]
    )


def test_queries(store: Store, suites: Sequence[str] = ()) -> pa.Table:
    """suite, query_id, query, simhash of the registered suites, or of those named."""
    rows = store.read("SELECT suite, query_id, query, simhash FROM test_queries ORDER BY suite, query_id")
    if not suites:
        return rows
    known = set(rows["suite"].to_pylist())
    for name in suites:
        if name not in known:
            raise unknown_name("test suite", name, known)
    return rows.filter(pc.is_in(rows["suite"], pa.array(list(suites))))

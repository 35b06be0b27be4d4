"""Reads that several commands share: collections with their counts, digests, and columns as Arrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mixture.errors import StoreError, UsageError, unknown_name
from mixture.specs import Part
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


def names(store: Store) -> set[str]:
    """The collections of the store."""
    return {row["collection"] for row in store.rows("SELECT collection FROM collections")}


def part_examples(part: Part) -> str:
    """Its rows of `examples`, to stand in FROM; what a judge calls answers are positives too, without a grade.
    `part_parameters` has the values of what it refers to."""
    return f"""(SELECT e.* REPLACE (list_concat(positives, coalesce(a.more, [])) AS positives)
                FROM {_as_given(part)} e LEFT JOIN ({ANSWERS}) a USING (example_id))"""


def part_negatives(part: Part) -> str:
    """example_id, passage_id and `place`, by which an example's negatives are ordered, to stand in FROM. What several
    miners found is there once, at its first place; what a judge calls an answer is not. `part_parameters` has the
    values of what it refers to."""
    miner, those = "miner", ""
    if part.miners is not None:
        miner, those = "list_position($m, miner)", "AND list_contains($m, miner)"
    return f"""(SELECT example_id, passage_id, min({{'miner': {miner}, 'rank': rank}}) AS place
                FROM negatives {_chosen(part)}
                ANTI JOIN (SELECT example_id, passage_id FROM answers WHERE collection = $c)
                     USING (example_id, passage_id)
                WHERE collection = $c {those} GROUP BY example_id, passage_id)"""


# Of each example the passages that a judge calls answers, and that its file does not have as positives.
ANSWERS = """SELECT example_id, list({'passage_id': passage_id, 'grade': NULL::FLOAT} ORDER BY passage_id) AS more
             FROM (SELECT DISTINCT example_id, passage_id FROM answers
                   ANTI JOIN (SELECT example_id, unnest(positives).passage_id AS passage_id FROM examples
                              WHERE collection = $c) USING (example_id, passage_id) WHERE collection = $c)
             GROUP BY example_id"""


def _as_given(part: Part) -> str:
    """Its rows of `examples` as the files gave them, to stand in FROM."""
    return f"(SELECT * FROM examples {_chosen(part)} WHERE collection = $c)"


def _chosen(part: Part) -> str:
    chosen = "SEMI JOIN (SELECT example_id FROM selected_examples WHERE selection = $s) USING (example_id)"
    return chosen if part.selection else ""


def part_parameters(part: Part, *, negatives: bool = True) -> dict[str, Any]:
    """The values of `part_examples`, and of `part_negatives`."""
    values: dict[str, Any] = {"c": part.collection} | ({"s": part.selection} if part.selection else {})
    return values | ({"m": list(part.miners)} if negatives and part.miners is not None else {})


def digest(store: Store, part: Part) -> str:
    """SHA-256 of what training reads of a collection: prompts, example ids (query and positives), negatives in order,
    answers that a judge found.

    It depends on neither the order of ingestion nor the store.
    """
    prompts = store.rows("SELECT prompts FROM collections WHERE collection = ?", [part.collection])
    if not prompts:
        raise UsageError(f"no collection {part.collection!r} in the store")
    result = hashlib.sha256(json.dumps(prompts[0]["prompts"], ensure_ascii=False).encode())
    reader = store.connection.execute(
        f"""SELECT e.example_id || coalesce(n.hash, '') || coalesce('+' || a.hash, '') AS line
            FROM {_as_given(part)} e
            LEFT JOIN (SELECT example_id, md5(string_agg(passage_id, ',' ORDER BY place, passage_id)) AS hash
                       FROM {part_negatives(part)} GROUP BY example_id) n USING (example_id)
            LEFT JOIN (SELECT example_id, md5(list_transform(more, lambda p: p.passage_id)::VARCHAR) AS hash
                       FROM ({ANSWERS})) a USING (example_id)
            ORDER BY e.example_id""",
        part_parameters(part),
    ).to_arrow_reader(100_000)
    for batch in reader:
        result.update(("\n".join(batch.column(0).to_pylist()) + "\n").encode())
    return result.hexdigest()


LINKS = "SELECT collection, example_id, unnest(positives).passage_id AS passage_id FROM examples"
LINKS_WITH_ANSWERS = f"""{LINKS} UNION (SELECT collection, example_id, passage_id FROM answers
                                       SEMI JOIN examples USING (collection, example_id))"""
PLACES = "(SELECT unnest($names) AS collection, unnest(range(len($names))) AS place)"


def query_prints(store: Store, collections: Sequence[str]) -> pa.Table:
    """collection, id (of the example), simhash of its query, row (`store.parts`); in the order of the collections
    given, then of id."""
    return store.read(
        f"""SELECT collection, example_id AS id, simhash, rowid AS "row" FROM examples JOIN {PLACES} USING (collection)
            ORDER BY place, id""",
        {"names": list(collections)},
    )


def positive_prints(store: Store, collections: Sequence[str], *, answers: bool = False) -> pa.Table:
    """collection, id (of the passage), simhash, row of every passage that is a positive; ordered as `query_prints`.

    answers: also of those that a judge calls answers
    """
    return store.read(
        f"""SELECT collection, passage_id AS id, simhash, "row" FROM (SELECT *, rowid AS "row" FROM passages)
            SEMI JOIN ({LINKS_WITH_ANSWERS if answers else LINKS}) USING (collection, passage_id)
            JOIN {PLACES} USING (collection) ORDER BY place, id""",
        {"names": list(collections)},
    )


QUERY_TEXTS = """SELECT "at", query AS "text" FROM wanted w JOIN examples e
                 ON e.collection = w.collection AND e.example_id = w.id"""
PASSAGE = """CASE WHEN title = '' THEN "text" ELSE title || ' ' || "text" END"""
POSITIVE_TEXTS = f"""SELECT "at", {PASSAGE} AS "text"
                    FROM wanted w JOIN passages p ON p.collection = w.collection AND p.passage_id = w.id"""

FIRST_POSITIVE_TEXTS = f"""SELECT "at", {PASSAGE} AS "text"
                          FROM wanted w JOIN examples e ON e.collection = w.collection AND e.example_id = w.id
                          JOIN passages p ON p.collection = w.collection AND p.passage_id = e.positives[1].passage_id"""
TEXTS = {"query": QUERY_TEXTS, "positive": POSITIVE_TEXTS, "first positive": FIRST_POSITIVE_TEXTS}


def texts_of(store: Store, kind: str, wanted: pa.Table) -> pa.Array:
    """The texts of the rows of `wanted` (collection, id), in order. kind: of `TEXTS`; a positive is title and text, and
    the id is the passage's, for the first positive the example's."""
    rows = wanted.select(["collection", "id"]).append_column("at", pa.array(range(wanted.num_rows), pa.int64()))
    return texts_for(store, rows, f'SELECT "text" FROM ({TEXTS[kind]}) ORDER BY "at"')


def texts_for(store: Store, wanted: pa.Table, query: str) -> pa.Array:
    """The column "text" of a query of `wanted` that has a row for each of its rows; a `StoreError` where some lack."""
    store.connection.register("wanted", wanted)
    try:
        found = store.read(query)["text"].combine_chunks()
    finally:
        store.connection.unregister("wanted")
    if len(found) != wanted.num_rows:
        raise StoreError(f"{wanted.num_rows - len(found)} of {wanted.num_rows} rows went away; run the command again")
    return found


def positives_of(store: Store, collections: Sequence[str], *, answers: bool = False) -> pa.Table:
    """collection, example_id, passage_id of every positive; `answers` as in `positive_prints`."""
    return store.read(
        f"FROM ({LINKS_WITH_ANSWERS if answers else LINKS}) WHERE list_contains($names, collection)",
        {"names": list(collections)},
    )


def queries(store: Store, collection: str) -> pa.Table:
    """example_id, query of a collection, in order of example_id."""
    return store.read("SELECT example_id, query FROM examples WHERE collection = ? ORDER BY example_id", [collection])


def pairs(store: Store, collection: str) -> pa.Table:
    """example_id, query, positives (list of passage ids) of a collection, in order of example_id."""
    return store.read(
        f"""SELECT example_id, query, list_transform(positives, lambda p: p.passage_id) AS positives
            FROM {part_examples(Part(collection))} ORDER BY example_id""",
        {"c": collection},
    )


def first_pairs(store: Store, part: Part) -> pa.Table:
    """example_id, query, positive (the text of its first one) of what a mixture draws from, in order of example_id."""
    return store.read(
        f"""SELECT e.example_id, e.query, {PASSAGE} AS positive FROM {part_examples(part)} e
            JOIN (FROM passages WHERE collection = $c) p ON p.passage_id = e.positives[1].passage_id
            ORDER BY e.example_id""",
        part_parameters(part, negatives=False),
    )


def without_negatives(store: Store, collection: str, miners: Sequence[str] | None = None) -> pa.ChunkedArray:
    """The ids of the examples of a collection that have no negatives, or none of these miners."""
    those = "" if miners is None else "AND list_contains($m, miner)"
    return store.read(
        f"""SELECT example_id FROM examples ANTI JOIN
                (SELECT example_id FROM negatives WHERE collection = $c {those}) USING (example_id)
            WHERE collection = $c""",
        {"c": collection} | ({} if miners is None else {"m": list(miners)}),
    )["example_id"]


def passages(store: Store, collection: str) -> pa.Table:
    """passage_id, title, text of a collection, in order of passage_id; those that an example uses.

    What only removed examples used stays in the store, for an undo: near-copies of answers, or a test query's.
    """
    return store.read(
        """SELECT passage_id, title, text FROM passages SEMI JOIN (
               SELECT unnest(positives).passage_id AS passage_id FROM examples WHERE collection = $c
               UNION SELECT passage_id FROM negatives SEMI JOIN
                   (SELECT example_id FROM examples WHERE collection = $c) USING (example_id) WHERE collection = $c
               UNION SELECT passage_id FROM answers SEMI JOIN
                   (SELECT example_id FROM examples WHERE collection = $c) USING (example_id) WHERE collection = $c
           ) USING (passage_id) WHERE collection = $c ORDER BY passage_id""",
        {"c": collection},
    )

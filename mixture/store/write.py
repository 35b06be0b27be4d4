"""Writes to the large tables. Each function is one transaction: killed at any point, it leaves the last whole one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import StoreError
from mixture.store import givers
from mixture.store.change import earlier_names
from mixture.store.connect import Store


def add_negatives(store: Store, collection: str, negatives: pa.Table, *, replace: Sequence[str]) -> int:
    """Store mined negatives (schema `rows.NEGATIVES`) of a collection in place of those of the miners in `replace`."""

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        connection.execute(
            "DELETE FROM negatives WHERE collection = ? AND list_contains(?, miner)", [collection, list(replace)]
        )
        connection.register("new_negatives", negatives)
        # A passage that is a negative of the example already, of another miner, stays as it is. Examples that were
        # taken out since come back, if they do, with the negatives that they had.
        connection.execute(
            """INSERT INTO negatives BY NAME SELECT $c AS collection, n.* FROM new_negatives n
               SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id) ANTI JOIN
               (SELECT example_id, passage_id FROM negatives WHERE collection = $c) USING (example_id, passage_id)""",
            {"c": collection},
        )
        return negatives.num_rows

    return store.transaction(work)


def add_test_suites(store: Store, queries: pa.Table, passages: pa.Table | None) -> None:
    """Register test queries (suite, query_id, query, simhash) and passages (suite, doc_id, text); what the suites named
    in `queries` had before is replaced."""

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        connection.register("new_queries", queries)
        for table in ("test_queries", "test_passages"):
            connection.execute(f"DELETE FROM {table} WHERE suite IN (SELECT suite FROM new_queries)")
        connection.execute("INSERT INTO test_queries BY NAME SELECT * FROM new_queries")
        if passages is not None and passages.num_rows:
            connection.register("new_passages", passages)
            connection.execute("INSERT INTO test_passages BY NAME SELECT * FROM new_passages")

    store.transaction(work)


def remove_examples(store: Store, removals: pa.Table, snapshot: int | None = None) -> pa.Array:
    """Take examples out and write down why; which of the rows of `removals` were, a boolean each.

    Examples that are there no more are passed over, and duplicates of an example that is there no more. What is taken
    out stays readable by time travel, and is not ingested again.

    removals: the columns of the table but for `removed_at`, `query` and `snapshot_before`; what it lacks is null
    snapshot: of the store that the rows were found in; an undo needs it
    """
    rows = removals.append_column("snapshot_before", pa.array([snapshot] * removals.num_rows, pa.int64()))
    kept = (
        ""
        if "kept_id" not in rows.column_names
        else """
        AND (kept_id IS NULL OR EXISTS (
            FROM examples k WHERE k.collection = f.kept_collection AND k.example_id = f.kept_id))"""
    )

    def work(connection: duckdb.DuckDBPyConnection) -> pa.Array:
        connection.register("found", rows.append_column("row", pa.array(range(rows.num_rows), pa.int64())))
        there = connection.execute(
            f"""SELECT row FROM found f WHERE EXISTS (
                    FROM examples e WHERE e.collection = f.collection AND e.example_id = f.example_id) {kept}"""
        ).to_arrow_table()["row"]
        taken = pc.is_in(pa.array(range(rows.num_rows), pa.int64()), there.combine_chunks())
        connection.register("gone", rows.filter(taken))
        connection.execute(
            """INSERT INTO removals BY NAME SELECT gone.*, e.query, now() AS removed_at
               FROM gone JOIN examples e USING (collection, example_id)"""
        )
        for table in ("examples", "negatives"):
            connection.execute(
                f"DELETE FROM {table} WHERE (collection, example_id) IN (SELECT collection, example_id FROM gone)"
            )
        return taken

    return store.transaction(work)


def restore_removed(store: Store, reasons: Sequence[str]) -> dict[str, int]:
    """Put back what the newest command with one of these reasons took out, by time travel; examples by collection.

    The examples come back with the negatives that they had, as far as files and miners still give them. What no file of
    the collection gives any more stays out. Nothing to put back gives an empty dictionary.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        newest = connection.execute(
            "SELECT max(snapshot_before) FROM removals WHERE list_contains(?, reason)", [list(reasons)]
        ).fetchone()
        if newest is None or newest[0] is None:
            return {}
        before = int(newest[0])
        removed = connection.execute(
            "SELECT collection, example_id FROM removals WHERE snapshot_before = ? AND list_contains(?, reason)",
            [before, list(reasons)],
        ).to_arrow_table()
        connection.register("removed", removed)
        # A collection that an older version stored, and that was not added to since, has no links.
        back = connection.execute(
            """SELECT * FROM removed WHERE collection NOT IN (SELECT collection FROM file_examples)
               OR (collection, example_id) IN (SELECT (collection, example_id) FROM file_examples)"""
        ).to_arrow_table()
        names = pc.unique(back["collection"]).to_pylist()
        versions = connection.execute(
            "SELECT snapshot_id FROM lake.snapshots() WHERE snapshot_id >= ? ORDER BY 1", [before]
        ).fetchall()
        # What another process ingested while the command ran is in a later version than the one before it.
        lacking = back
        for (version,) in versions:
            _copy_from(connection, version, lacking, earlier_names(connection, names, version))
            lacking = connection.execute(
                "SELECT * FROM lacking ANTI JOIN examples USING (collection, example_id)"
            ).to_arrow_table()
            if not lacking.num_rows:
                break
        connection.execute(
            "DELETE FROM removals WHERE (collection, example_id) IN (SELECT (collection, example_id) FROM removed)"
        )
        for name in names:
            givers.settle_only(connection, name, back.filter(pc.equal(back["collection"], name))["example_id"])
        found = back.group_by("collection").aggregate([("example_id", "count")])
        return dict(zip(found["collection"].to_pylist(), found["example_id_count"].to_pylist(), strict=True))

    return store.transaction(work)


def _copy_from(
    connection: duckdb.DuckDBPyConnection, version: int, lacking: pa.Table, earlier: dict[str, str]
) -> None:  # fmt: skip
    """Insert the examples `lacking` as a version of the store had them, with their negatives, and the passages of both
    that are there no more. earlier: what the collections were called then."""
    connection.register("lacking", lacking)
    connection.register("earlier", pa.table({"now": list(earlier), "then": list(earlier.values())}))
    for table in ("negatives", "examples"):
        connection.execute(
            f"""INSERT INTO {table} BY NAME SELECT e."now" AS collection, t.* EXCLUDE (collection)
                FROM (FROM {table} AT (VERSION => {version})) t JOIN earlier e ON t.collection = e."then"
                SEMI JOIN lacking l ON l.collection = e."now" AND l.example_id = t.example_id"""
        )
    connection.execute(
        f"""INSERT INTO passages BY NAME SELECT e."now" AS collection, t.* EXCLUDE (collection)
            FROM (FROM passages AT (VERSION => {version})) t JOIN earlier e ON t.collection = e."then"
            WHERE (e."now", t.passage_id) IN (
                SELECT (collection, passage_id) FROM (
                    SELECT collection, example_id, unnest(positives).passage_id AS passage_id FROM examples
                    UNION ALL SELECT collection, example_id, passage_id FROM negatives)
                SEMI JOIN lacking USING (collection, example_id))
            AND (e."now", t.passage_id) NOT IN (SELECT (collection, passage_id) FROM passages)"""
    )


def append(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[dict[str, Any]] | pa.Table) -> None:
    """Append rows to one of the small tables (runs, weight_history, mixtures, …) by column name, in a transaction."""
    if not len(rows):
        return
    data = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    known = {row[0] for row in connection.execute(f'DESCRIBE lake."{table}"').fetchall()}
    if not known.issuperset(data.column_names):
        raise StoreError(f"table {table} has no column {sorted(set(data.column_names) - known)}")
    connection.register("new_rows", data)
    connection.execute(f'INSERT INTO lake."{table}" BY NAME SELECT * FROM new_rows')


def insert_rows(store: Store, table: str, rows: Sequence[dict[str, Any]] | pa.Table) -> None:
    """`append` as a transaction of its own."""
    store.transaction(lambda connection: append(connection, table, rows))

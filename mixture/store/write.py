"""Writes to the large tables. Each function is one transaction: killed at any point, it leaves the last whole one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import StoreError
from mixture.store import givers
from mixture.store.change import FORGOTTEN, earlier_names
from mixture.store.connect import Store

# What was forgotten too stays out, whatever else took it out before.
NOT_FORGOTTEN = f"""(r.reason = '{FORGOTTEN}' OR (r.collection, r.example_id) NOT IN
                     (SELECT (collection, example_id) FROM removals WHERE reason = '{FORGOTTEN}'))"""


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


def restore_removed(store: Store, reasons: Sequence[str], *, dry_run: bool = False) -> tuple[pa.Table, int]:
    """Put back what the newest command with one of these reasons took out, by time travel; its rows of `removals`, and
    how many others of it stay out.

    The examples come back with the negatives that they had, as far as files and miners still give them. What no file of
    the collection gives any more stays out. Nothing to put back gives an empty table.

    dry_run: only find the rows
    """

    def work(connection: duckdb.DuckDBPyConnection) -> tuple[pa.Table, int]:
        those = f"list_contains($reasons, reason) AND {NOT_FORGOTTEN}"
        removed = removals_with(
            connection,
            f"{those} AND snapshot_before = (SELECT max(snapshot_before) FROM removals r WHERE {those})",
            {"reasons": list(reasons)},
        )
        if not dry_run and removed.num_rows:
            put_back(connection, removed)
        rows = removed.filter(removed["given"]).drop_columns("given")
        return rows, removed.num_rows - rows.num_rows

    return store.transaction(work)


def restore_copies(connection: duckdb.DuckDBPyConnection, collection: str) -> int:
    """Put back what dedup took out as a copy of an example in `temp.gone_examples` of the collection, in whatever
    collection that was, as far as files still give it; how many examples."""
    removed = removals_with(
        connection,
        f"""kept_collection = $c AND kept_id IN (SELECT id FROM temp.gone_examples) AND snapshot_before IS NOT NULL
            AND {NOT_FORGOTTEN}""",
        {"c": collection},
    )
    removed = removed.filter(removed["given"])
    for before in pc.unique(removed["snapshot_before"]):
        put_back(connection, removed.filter(pc.equal(removed["snapshot_before"], before)))
    return int(removed.num_rows)


def removals_with(connection: duckdb.DuckDBPyConnection, condition: str, values: dict[str, Any]) -> pa.Table:
    """Rows of `removals` (in the condition `r`), and whether a file gives the example still (`given`)."""
    # Of a collection that an older version stored, and that was not added to since, there are no links.
    return connection.execute(
        f"""SELECT * EXCLUDE (removed_at), collection NOT IN (SELECT collection FROM file_examples)
                OR (collection, example_id) IN (SELECT (collection, example_id) FROM file_examples) AS given
            FROM removals r WHERE {condition} ORDER BY collection, example_id""",
        values,
    ).to_arrow_table()


def put_back(connection: duckdb.DuckDBPyConnection, removed: pa.Table) -> None:
    """Put back what of these rows of one command is given, and forget that they were removed."""
    before = int(removed["snapshot_before"][0].as_py())
    connection.register("removed", removed.select(["collection", "example_id", "reason"]))
    back = removed.filter(removed["given"]).select(["collection", "example_id"])
    names = pc.unique(back["collection"]).to_pylist()
    versions = connection.execute(
        "SELECT snapshot_id FROM lake.snapshots() WHERE snapshot_id >= ? ORDER BY 1", [before]
    ).fetchall()
    # What another process ingested while the command ran is in a later version than the one before it.
    lacking = back
    for (version,) in versions if back.num_rows else ():
        _copy_from(connection, version, lacking, earlier_names(connection, names, version))
        lacking = connection.execute(
            "SELECT * FROM lacking ANTI JOIN examples USING (collection, example_id)"
        ).to_arrow_table()
        if not lacking.num_rows:
            break
    if lacking.num_rows:  # a collection of its name was removed, another renamed, the first brought back
        raise StoreError(f"{lacking.num_rows:,} removed examples of {lacking['collection'][0]} are in no older version "
                         "of the store under the name that it had then; nothing was put back")  # fmt: skip
    connection.execute(
        """DELETE FROM removals WHERE (collection, example_id, reason) IN
               (SELECT (collection, example_id, reason) FROM removed)"""
    )
    for name in names:
        givers.settle_only(connection, name, back.filter(pc.equal(back["collection"], name))["example_id"])


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

"""Rows that were forgotten: marked in `removals`, out of the collections, and refused where a mixture pins them.

`forgotten_contents` says which contents hold how many, so that a mixture is judged by its digests alone. A content that
is not listed there, since a mixture with it was saved while rows were being forgotten, is counted when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import ForgottenRows, StoreError, UsageError
from mixture.specs import Component, MixtureSpec
from mixture.store import read
from mixture.store.change import FORGOTTEN, earlier_names, newest
from mixture.store.connect import Store
from mixture.store.files import at_version
from mixture.store.write import put_back, removals_with

ROWS = pa.schema([("collection", pa.string()), ("example_id", pa.string())])
CONTENTS = pa.schema([("collection", pa.string()), ("digest", pa.string()), ("num_forgotten", pa.int64())])

# {rows}: collection, example_id, and `then`, what the collection was called
TEXTS = f"""
SELECT g.collection, g.example_id, 'query' AS kind, e.query AS "text"
FROM {{rows}} g JOIN examples e ON e.collection = g."then" AND e.example_id = g.example_id
UNION ALL SELECT g.collection, g.example_id, 'passage', {read.PASSAGE}
FROM {{rows}} g JOIN (SELECT collection, example_id, unnest(positives).passage_id AS passage_id FROM examples) e
     ON e.collection = g."then" AND e.example_id = g.example_id
JOIN passages p ON p.collection = e.collection AND p.passage_id = e.passage_id"""


@dataclass(frozen=True)
class PutBack:
    """What taking a `forget` back did, in numbers of rows.

    back:   by collection, those that are there again
    gone:   that no file gives any more, so that they stay out
    marked: that had been taken out for another reason before, and stay out for that one
    """

    back: dict[str, int]
    gone: int
    marked: int


def counts(store: Store) -> dict[tuple[str, str], int]:
    """How many forgotten rows contents hold, by the collection's name in the mixture and the digest."""
    rows = store.rows("SELECT collection, digest, sum(num_forgotten)::BIGINT AS n FROM forgotten_contents GROUP BY ALL")
    return {(row["collection"], row["digest"]): row["n"] for row in rows}


def held_by(store: Store, components: Iterable[Component]) -> dict[str, int]:
    """How many forgotten rows components pin, by name; without those that pin none."""
    known = counts(store)
    return {c.name: known[c.collection, c.digest] for c in components if (c.collection, c.digest) in known}


def by_mixture(store: Store) -> dict[str, int]:
    """How many forgotten rows each mixture pins that pins any, by its id."""
    if not counts(store):  # without a look at all weights
        return {}
    rows = store.rows(
        """SELECT w.mixture, sum(f.num_forgotten)::BIGINT AS n FROM forgotten_contents f
           JOIN mixture_weights w ON w.digest = f.digest AND coalesce(w.slice_of, w.collection) = f.collection
           GROUP BY ALL"""
    )
    return {row["mixture"]: row["n"] for row in rows}


def refuse(store: Store, spec: MixtureSpec) -> None:
    """Raise `ForgottenRows` where a mixture pins some: what reads its contents would train on them."""
    if held := held_by(store, spec.components):
        raise ForgottenRows(spec.id, held)


def marked(store: Store, collection: str, version: int) -> pa.ChunkedArray:
    """The ids of the forgotten rows of what was called `collection` at a version of the store."""
    rows = store.rows("SELECT DISTINCT collection FROM removals WHERE reason = ?", [FORGOTTEN])
    then = earlier_names(store.connection, [row["collection"] for row in rows], version)
    return store.read(
        "SELECT DISTINCT example_id FROM removals WHERE reason = ? AND list_contains(?, collection)",
        [FORGOTTEN, [name for name, before in then.items() if before == collection]],
    )["example_id"]


def texts(store: Store, rows: pa.Table) -> pa.Table:
    """collection, example_id, kind (query or passage), text of rows, passages being positives: of today, or of the
    versions before they were taken out. Rows that are in none of these are not there.

    rows: `ROWS`
    """
    store.connection.register("rows_meant", rows)
    parts = [store.read(TEXTS.format(rows='(SELECT *, collection AS "then" FROM rows_meant)'))]
    out = store.read(
        """SELECT DISTINCT r.collection, r.example_id, r.snapshot_before FROM removals r
           SEMI JOIN rows_meant USING (collection, example_id) WHERE r.snapshot_before IS NOT NULL"""
    )
    for version in sorted(set(out["snapshot_before"].to_pylist())):
        some = out.filter(pc.equal(out["snapshot_before"], version))
        then = earlier_names(store.connection, pc.unique(some["collection"]).to_pylist(), version)
        names = pa.array([then[name] for name in some["collection"].to_pylist()], pa.string())
        with suppress(StoreError), at_version(store, version) as old:
            old.connection.register("gone", some.append_column("then", names))
            parts.append(old.read(TEXTS.format(rows="gone")).cast(parts[0].schema))
    return pa.concat_tables(parts)


def forget_rows(store: Store, rows: pa.Table, contents: pa.Table, note: str | None = None) -> int:
    """Take rows out and mark them, also those that are out already; how many are marked anew. One transaction.

    rows:     `ROWS`
    contents: `CONTENTS`, of all that mixtures pin
    note:     why, for the table `removals`
    """

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        connection.register("chosen", rows)
        before = newest(connection)
        found = connection.execute(
            """SELECT c.collection, c.example_id, coalesce(e.query, r.query, '') AS query FROM chosen c
               LEFT JOIN examples e USING (collection, example_id)
               LEFT JOIN (SELECT collection, example_id, any_value(query) AS query FROM removals GROUP BY ALL) r
                    USING (collection, example_id)
               ANTI JOIN (SELECT collection, example_id FROM removals WHERE reason = ?) USING (collection, example_id)
               ORDER BY ALL""",
            [FORGOTTEN],
        ).to_arrow_table()
        if not found.num_rows:
            return 0
        connection.register("gone", found)
        connection.execute(
            """INSERT INTO removals BY NAME SELECT *, $reason AS reason, $before AS snapshot_before, $note AS note,
                                                   now() AS removed_at FROM gone""",
            {"reason": FORGOTTEN, "before": before, "note": note},
        )
        for table in ("examples", "negatives"):
            connection.execute(
                f"DELETE FROM {table} WHERE (collection, example_id) IN (SELECT (collection, example_id) FROM gone)"
            )
        connection.register("holding", contents)
        connection.execute(
            "INSERT INTO forgotten_contents BY NAME SELECT *, ? AS snapshot_before FROM holding", [before]
        )
        return int(found.num_rows)

    return store.transaction(work)


def restore(store: Store) -> PutBack:
    """Put back what the newest `forget_rows` took out, with the negatives that files and miners still give; what was
    out before stays out. One transaction.

    Raises `UsageError` where nothing was forgotten, and where a collection of it was removed since.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> PutBack:
        last = "(SELECT max(snapshot_before) FROM removals WHERE reason = $reason)"
        rows = removals_with(connection, f"r.reason = $reason AND r.snapshot_before = {last}", {"reason": FORGOTTEN})
        if not rows.num_rows:
            raise UsageError("nothing to put back: no row was forgotten, or all are put back already")
        _require_there(connection, pc.unique(rows["collection"]).to_pylist())
        connection.register("marks", rows.select(["collection", "example_id"]))
        out = connection.execute(
            """SELECT collection, example_id FROM marks SEMI JOIN (
                   SELECT collection, example_id FROM removals WHERE reason <> $reason
                   UNION ALL SELECT collection, example_id FROM examples) USING (collection, example_id)""",
            {"reason": FORGOTTEN},
        ).to_arrow_table()
        connection.register("out", out)
        free = connection.execute(
            "SELECT (collection, example_id) NOT IN (SELECT (collection, example_id) FROM out) AS free FROM marks"
        ).to_arrow_table()["free"]
        back = pc.and_(rows["given"], free)
        given = rows.set_column(rows.column_names.index("given"), "given", back)
        put_back(connection, given)
        connection.execute("DELETE FROM forgotten_contents WHERE snapshot_before = ?",
                           [rows["snapshot_before"][0].as_py()])  # fmt: skip
        names = given.filter(back)["collection"].value_counts().to_pylist()
        stay = int(pc.sum(pc.and_(free, pc.invert(rows["given"]))).as_py() or 0)
        return PutBack({row["values"]: row["counts"] for row in names}, stay, out.num_rows)

    return store.transaction(work)


def _require_there(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> None:
    there = {name for (name,) in connection.execute("SELECT collection FROM collections").fetchall()}
    if gone := sorted(set(names) - there):
        raise UsageError(f"rows of {', '.join(gone)} were forgotten, which is no collection of the store any more; "
                         "`mixture remove` can bring it back with `undo`")  # fmt: skip

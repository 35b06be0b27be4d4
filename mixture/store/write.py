"""Writes to the large tables. Each function is one transaction: killed at any point, it leaves the last whole one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa

from mixture.errors import StoreError
from mixture.rows import Batch
from mixture.store.connect import Store


@dataclass(frozen=True)
class FileCounts:
    """What one file gave: rows read, examples stored, examples that were there already, rows rejected."""

    rows_read: int = 0
    stored: int = 0
    repeated: int = 0
    rejected: int = 0

    def __add__(self, other: FileCounts) -> FileCounts:
        return FileCounts(
            self.rows_read + other.rows_read,
            self.stored + other.stored,
            self.repeated + other.repeated,
            self.rejected + other.rejected,
        )


@dataclass(frozen=True)
class CollectionFacts:
    """What is declared about a collection beside its rows."""

    collection: str
    card: str | None = None
    prompts: tuple[str, ...] = ()
    symmetric: bool | None = None


def file_is_stored(store: Store, collection: str, sha256: str) -> bool:
    """Whether a file of this content went into this collection before."""
    return bool(store.rows("SELECT 1 FROM sources WHERE collection = ? AND sha256 = ?", [collection, sha256]))


def add_file(
    store: Store, facts: CollectionFacts, file: str, sha256: str, batches: Callable[[], Iterable[Batch]]
) -> FileCounts:
    """Store all rows of one file, as one transaction.

    `batches` is called once an attempt (the transaction is repeated when another process commits first). Rows that the
    collection holds, or that dedup or decontamination removed from it, are not stored again. The rejects of an earlier
    content of the same file are replaced.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> FileCounts:
        connection.execute("DELETE FROM rejects WHERE collection = ? AND file = ?", [facts.collection, file])
        counts = FileCounts()
        prompts: set[str] = set()
        for batch in batches():
            counts += _add_batch(connection, facts.collection, batch)
            prompts.update(batch.prompts)
        _declare(connection, facts, prompts)
        connection.execute("INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, now())",
                           [facts.collection, file, sha256, *asdict(counts).values()])  # fmt: skip
        return counts

    return store.transaction(work)


def declare(store: Store, facts: CollectionFacts) -> None:
    """Bring a stored collection's card and prompts up to date, where they differ."""
    stored = store.rows("SELECT card, prompts, is_symmetric FROM collections WHERE collection = ?", [facts.collection])
    if stored and list(stored[0].values()) != _merged(list(stored[0].values()), facts, ()):
        store.transaction(lambda connection: _declare(connection, facts, ()))


def _declare(connection: duckdb.DuckDBPyConnection, facts: CollectionFacts, prompts: Iterable[str]) -> None:
    """Insert the collection, or bring it up to date. `prompts` are those that rows carried."""
    found = connection.execute(
        "SELECT card, prompts, is_symmetric FROM collections WHERE collection = ?", [facts.collection]
    ).fetchone()
    new = _merged(list(found or (None, [], None)), facts, prompts)
    if found is None:
        connection.execute("INSERT INTO collections VALUES (?, ?, ?, ?, now())", [facts.collection, *new])
    elif new != list(found):
        connection.execute(
            "UPDATE collections SET card = ?, prompts = ?, is_symmetric = ? WHERE collection = ?",
            [*new, facts.collection],
        )


def _merged(stored: list[Any], facts: CollectionFacts, prompts: Iterable[str]) -> list[Any]:
    """Card, prompts, symmetry: a card's win; without one, the prompts of all files' rows, in an order that does not
    depend on the files'."""
    if facts.card is not None:
        return [facts.card, list(facts.prompts), facts.symmetric]
    if stored[0] is not None:
        return stored
    return [None, sorted({*(stored[1] or ()), *facts.prompts, *prompts}), facts.symmetric]


def _add_batch(connection: duckdb.DuckDBPyConnection, collection: str, batch: Batch) -> FileCounts:
    for name in ("examples", "passages", "negatives", "rejects"):
        connection.register(f"new_{name}", getattr(batch, name))
    named = {"c": collection}
    inserted = connection.execute(
        """INSERT INTO examples BY NAME SELECT $c AS collection, n.* FROM new_examples n
           ANTI JOIN (SELECT example_id FROM examples WHERE collection = $c
                      UNION ALL SELECT example_id FROM removals WHERE collection = $c) USING (example_id)""",
        named,
    ).fetchone()
    connection.execute(
        """INSERT INTO passages BY NAME SELECT $c AS collection, n.* FROM new_passages n
           ANTI JOIN (SELECT passage_id FROM passages WHERE collection = $c) USING (passage_id)""",
        named,
    )
    connection.execute(
        """INSERT INTO negatives BY NAME SELECT $c AS collection, n.* FROM new_negatives n
           SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
           ANTI JOIN (SELECT example_id, passage_id FROM negatives WHERE collection = $c) USING (example_id, passage_id)
        """,
        named,
    )
    connection.execute("INSERT INTO rejects BY NAME SELECT $c AS collection, n.* FROM new_rejects n", named)
    stored = int(inserted[0]) if inserted else 0
    return FileCounts(
        rows_read=batch.rows_read,
        stored=stored,
        repeated=batch.rows_read - batch.rejects.num_rows - stored,
        rejected=batch.rejects.num_rows,
    )


def add_negatives(store: Store, collection: str, negatives: pa.Table, *, replace: Sequence[str]) -> int:
    """Store mined negatives (schema `rows.NEGATIVES`) of a collection in place of those of the miners in `replace`."""

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        connection.execute(
            "DELETE FROM negatives WHERE collection = ? AND list_contains(?, miner)", [collection, list(replace)]
        )
        connection.register("new_negatives", negatives)
        # A passage that is a negative of the example already, of another miner, stays as it is.
        connection.execute(
            """INSERT INTO negatives BY NAME SELECT $c AS collection, n.* FROM new_negatives n ANTI JOIN
               (SELECT example_id, passage_id FROM negatives WHERE collection = $c) USING (example_id, passage_id)""",
            {"c": collection},
        )
        return negatives.num_rows

    return store.transaction(work)


def add_test_queries(store: Store, queries: pa.Table) -> int:
    """Register test queries (suite, query_id, query, simhash); the suites named in them are replaced."""

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        connection.register("new_queries", queries)
        connection.execute("DELETE FROM test_queries WHERE suite IN (SELECT suite FROM new_queries)")
        connection.execute("INSERT INTO test_queries BY NAME SELECT * FROM new_queries")
        return queries.num_rows

    return store.transaction(work)


def remove_examples(store: Store, removals: pa.Table) -> int:
    """Take examples out and write down why. `removals` has the columns of the table but for `removed_at` and `query`;
    what it lacks is null. The rows stay readable by time travel, and are not ingested again."""

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        connection.register("gone", removals)
        connection.execute(
            """INSERT INTO removals BY NAME SELECT gone.*, e.query, now() AS removed_at
               FROM gone JOIN examples e USING (collection, example_id)"""
        )
        deleted = connection.execute(
            "DELETE FROM examples WHERE (collection, example_id) IN (SELECT collection, example_id FROM gone)"
        ).fetchone()
        connection.execute(
            "DELETE FROM negatives WHERE (collection, example_id) IN (SELECT collection, example_id FROM gone)"
        )
        return int(deleted[0]) if deleted else 0

    return store.transaction(work)


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

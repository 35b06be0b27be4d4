"""Writes to the large tables. Each function is one transaction: killed at any point, it leaves the last whole one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import StoreError, UsageError
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
    """What is declared about a collection beside its rows, as its datacard has it. The fields are the columns of
    `collections` that have their names."""

    collection: str
    card: str | None = None
    prompts: tuple[str, ...] = ()
    is_symmetric: bool | None = None
    category: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    deduped_size: int | None = None
    source: str | None = None
    negatives: str | None = None


@dataclass(frozen=True)
class NewFile:
    """A file (or a folder that is one) to be stored: its collection, where it is, the hash of its content, its rows.

    `batches` is called once an attempt, since a transaction is repeated when another process commits first.
    """

    facts: CollectionFacts
    location: str
    sha256: str
    batches: Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class RejectLimit:
    """How many rows may be refused: a number of rows, or a share of the rows read."""

    rows: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> RejectLimit:
        """`100`, or `1%`. Raises UsageError."""
        number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
        try:
            value = float(number) if percent else int(number)
        except ValueError:
            value = -1
        if not 0 <= value <= (100 if percent else 10**15):
            raise UsageError(f"`max_rejects` is {text!r}; give a number of rows such as 100, or a share such as 1%")
        return cls(share=value / 100) if percent else cls(rows=int(value))

    def check(self, counts: FileCounts, *, final: bool) -> None:
        """Raise StoreError when there are too many. A share is only known at the end (`final`)."""
        over = self.rows is not None and counts.rejected > self.rows
        if final and self.share is not None:
            over = counts.rejected > self.share * counts.rows_read
        if over:
            limit = f"{self.rows}" if self.rows is not None else f"{100 * (self.share or 0):g}%"
            raise StoreError(
                f"{counts.rejected:,} of {counts.rows_read:,} rows were refused, more than `max_rejects`, {limit}; "
                "nothing was stored. Without `max_rejects` the rows are set aside, and the table rejects says why"
            )


def file_is_stored(store: Store, collection: str, sha256: str) -> bool:
    """Whether a file of this content went into this collection before."""
    return bool(store.rows("SELECT 1 FROM sources WHERE collection = ? AND sha256 = ?", [collection, sha256]))


def add_files(store: Store, files: Sequence[NewFile], limit: RejectLimit | None = None) -> list[FileCounts]:
    """Store all rows of some files, as one transaction.

    Rows that the collection holds, or that dedup or decontamination removed from it, are not stored again. The rejects
    of an earlier content of the same file are replaced.

    Raises StoreError, and leaves the store as it was, when more rows are refused than `limit` allows.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> list[FileCounts]:
        found = []
        total = FileCounts()
        for file in files:
            counts = FileCounts()
            for part in _add_file(connection, file):
                counts += part
                if limit is not None:
                    limit.check(total + counts, final=False)
            total += counts
            found.append(counts)
        if limit is not None:
            limit.check(total, final=True)
        return found

    # The rows are parsed on all cores meanwhile; a second thread here would only take theirs.
    with _one_thread(store.connection):
        return store.transaction(work)


@contextlib.contextmanager
def _one_thread(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    found = connection.execute("SELECT current_setting('threads')").fetchone()
    connection.execute("SET threads = 1")
    try:
        yield
    finally:
        connection.execute(f"SET threads = {found[0] if found else 1}")


def _add_file(connection: duckdb.DuckDBPyConnection, file: NewFile) -> Iterator[FileCounts]:
    """Store one file, batch by batch; yields what each gave."""
    collection = file.facts.collection
    # Of a folder that is one collection, the rejects of its files.
    connection.execute(
        "DELETE FROM rejects WHERE collection = $1 AND (file = $2 OR starts_with(file, $2 || '/'))",
        [collection, file.location],
    )
    counts = FileCounts()
    prompts: set[str] = set()
    _remember(connection, collection)
    for batch in file.batches():
        part = _add_batch(connection, collection, batch)
        counts += part
        prompts.update(batch.prompts)
        yield part
    _declare(connection, file.facts, prompts)
    connection.execute("INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, now())",
                       [collection, file.location, file.sha256, *asdict(counts).values()])  # fmt: skip


DECLARED = tuple(field.name for field in fields(CollectionFacts) if field.name != "collection")
STORED_FACTS = f"SELECT {', '.join(DECLARED)} FROM collections WHERE collection = ?"


def declare(store: Store, facts: CollectionFacts) -> None:
    """Bring a stored collection's card, and what it declares, up to date, where they differ."""
    stored = store.rows(STORED_FACTS, [facts.collection])
    if stored and stored[0] != _merged(stored[0], facts, ()):
        store.transaction(lambda connection: _declare(connection, facts, ()))


def _declare(connection: duckdb.DuckDBPyConnection, facts: CollectionFacts, prompts: Iterable[str]) -> None:
    """Insert the collection, or bring it up to date. `prompts` are those that rows carried."""
    found = connection.execute(STORED_FACTS, [facts.collection]).fetchone()
    stored = dict(zip(DECLARED, found, strict=True)) if found else dict.fromkeys(DECLARED)
    new = _merged(stored, facts, prompts)
    if found is None:
        values = {"collection": facts.collection, **new}
        connection.execute(
            f"INSERT INTO collections (added_at, {', '.join(values)}) VALUES (now(), {', '.join('?' * len(values))})",
            list(values.values()),
        )
    elif new != stored:
        connection.execute(
            f"UPDATE collections SET {', '.join(f'{name} = ?' for name in new)} WHERE collection = ?",
            [*new.values(), facts.collection],
        )


def _merged(stored: Mapping[str, Any], facts: CollectionFacts, prompts: Iterable[str]) -> dict[str, Any]:
    """What to store, by column. A card's values win; without one, the prompts of all files' rows, in an order that does
    not depend on theirs."""
    if facts.card is not None:
        values = {name: getattr(facts, name) for name in DECLARED}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if stored["card"] is not None:
        return dict(stored)
    together = sorted({*(stored["prompts"] or ()), *facts.prompts, *prompts})
    return {**stored, "prompts": together, "is_symmetric": facts.is_symmetric}


def _remember(connection: duckdb.DuckDBPyConnection, collection: str) -> None:
    """The ids that the collection holds, in memory: to look them up in the lake costs a scan of its files a batch."""
    examples = " UNION ALL ".join(f"SELECT example_id FROM {t} WHERE collection = $c" for t in ("examples", "removals"))
    passages = "SELECT passage_id FROM passages WHERE collection = $c"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known_examples AS SELECT example_id AS id FROM ({examples})", {"c": collection}
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known_passages AS SELECT passage_id AS id FROM ({passages})", {"c": collection}
    )


def _add_batch(connection: duckdb.DuckDBPyConnection, collection: str, batch: Batch) -> FileCounts:
    """Store a batch, after `_remember`."""
    known = _known(connection, "known_examples", batch.examples["example_id"])
    old_passages = _known(connection, "known_passages", batch.passages["passage_id"])
    examples = _without(batch.examples, "example_id", known)
    passages = _without(batch.passages, "passage_id", old_passages)
    negatives = _without(batch.negatives, "example_id", known)
    for table, rows in (("examples", examples), ("passages", passages), ("negatives", negatives)):
        _insert(connection, table, collection, rows)
    for table, ids in (("known_examples", examples["example_id"]), ("known_passages", passages["passage_id"])):
        connection.register("new_ids", pa.table({"id": ids}))
        connection.execute(f"INSERT INTO temp.{table} FROM temp.new_ids")
    if len(known):
        _add_negatives_of(connection, collection, batch.negatives, known)
    _insert(connection, "rejects", collection, batch.rejects)
    return FileCounts(
        rows_read=batch.rows_read,
        stored=examples.num_rows,
        repeated=batch.rows_read - batch.rejects.num_rows - examples.num_rows,
        rejected=batch.rejects.num_rows,
    )


def _known(connection: duckdb.DuckDBPyConnection, table: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of the ids the temporary table has."""
    connection.register("new_ids", pa.table({"id": ids}))
    found = connection.execute(f"SELECT id FROM temp.new_ids SEMI JOIN temp.{table} USING (id)")
    return found.to_arrow_table()["id"]


def _without(rows: pa.Table, column: str, known: pa.ChunkedArray) -> pa.Table:
    if not len(known):
        return rows
    return rows.filter(pc.invert(pc.is_in(rows[column], known.cast(rows[column].type))))


def _insert(connection: duckdb.DuckDBPyConnection, table: str, collection: str, rows: pa.Table) -> None:
    if rows.num_rows:
        connection.register("new_rows", rows)
        connection.execute(
            f"INSERT INTO lake.{table} BY NAME SELECT ? AS collection, n.* FROM temp.new_rows n", [collection]
        )


def _add_negatives_of(
    connection: duckdb.DuckDBPyConnection, collection: str, negatives: pa.Table, known: pa.ChunkedArray
) -> None:
    """Negatives of examples that were there before: those that the examples lack."""
    connection.register("new_rows", negatives.filter(pc.is_in(negatives["example_id"], known.cast(pa.string()))))
    connection.execute(
        """INSERT INTO negatives BY NAME SELECT $c AS collection, n.* FROM new_rows n
           SEMI JOIN (SELECT example_id FROM examples WHERE collection = $c) USING (example_id)
           ANTI JOIN (SELECT example_id, passage_id FROM negatives WHERE collection = $c) USING (example_id, passage_id)
        """,
        {"c": collection},
    )


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


def restore_removed(store: Store, reasons: Sequence[str], *, dry_run: bool = False) -> pa.Table:
    """Put back what the newest command with one of these reasons took out, by time travel; its rows of `removals`.

    The examples come back with the negatives that they had. Nothing to put back gives an empty table.

    dry_run: only find the rows
    """

    def work(connection: duckdb.DuckDBPyConnection) -> pa.Table:
        rows = connection.execute(
            """SELECT * EXCLUDE (removed_at) FROM removals WHERE list_contains($reasons, reason) AND snapshot_before =
                   (SELECT max(snapshot_before) FROM removals WHERE list_contains($reasons, reason))
               ORDER BY collection, example_id""",
            {"reasons": list(reasons)},
        ).to_arrow_table()
        if dry_run or not rows.num_rows:
            return rows
        before = rows["snapshot_before"][0].as_py()
        back = rows.select(["collection", "example_id"])
        versions = connection.execute(
            "SELECT snapshot_id FROM lake.snapshots() WHERE snapshot_id >= ? ORDER BY 1", [before]
        ).fetchall()
        # What another process ingested while the command ran is in a later version than the one before it.
        lacking = back
        for (version,) in versions:
            connection.register("lacking", lacking)
            for table in ("negatives", "examples"):
                connection.execute(
                    f"""INSERT INTO {table} SELECT * FROM {table} AT (VERSION => {version})
                        SEMI JOIN lacking USING (collection, example_id)"""
                )
            lacking = connection.execute(
                "SELECT * FROM lacking ANTI JOIN examples USING (collection, example_id)"
            ).to_arrow_table()
            if not lacking.num_rows:
                break
        connection.register("back", back)
        connection.execute(
            "DELETE FROM removals WHERE (collection, example_id) IN (SELECT collection, example_id FROM back)"
        )
        return rows

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

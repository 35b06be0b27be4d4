"""Collections removed, renamed, and brought back. Mixtures that pin them keep what they pin, by time travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from mixture.errors import UsageError, unknown_name
from mixture.store.connect import Store

REMOVE, RENAME = "remove", "rename"
FORGOTTEN = "forgotten"
"""The reason, in `removals`, of rows that were forgotten (`mixture.store.forgotten`)."""
# Everything that is today's. What mixtures and runs were made of stays under the name that it had then:
# `mixture_weights`, `selections`, `run_draws`, `weight_history`.
TABLES = (
    "examples",
    "passages",
    "negatives",
    "file_examples",
    "sources",
    "rejects",
    "removals",
    "minings",
    "positive_scores",
    "answers",
    "collections",
)


@dataclass(frozen=True)
class Change:
    """A collection that was removed, brought back or renamed, with its number of examples.

    only_kept_here: examples that dedup took out of other collections since this one had them; removing it does not put
                    them back
    """

    collection: str
    examples: int
    renamed_to: str | None = None
    only_kept_here: int = 0


def remove_collections(store: Store, names: Sequence[str]) -> list[Change]:
    """Take collections out of the store, with all that hangs on them. An unknown name is a `UsageError`."""

    def work(connection: duckdb.DuckDBPyConnection) -> list[Change]:
        before = newest(connection)
        found = [Change(name, _held(connection, name), only_kept_here=_kept_for_others(connection, name, names))
                 for name in dict.fromkeys(names)]  # fmt: skip
        for change in found:
            for table in TABLES:
                connection.execute(f"DELETE FROM {table} WHERE collection = ? {_but_forgotten(table)}",
                                   [change.collection])  # fmt: skip
            _log(connection, REMOVE, change, before)
        return found

    return store.transaction(work)


def bring_back(store: Store) -> list[Change]:
    """Bring back what the newest `remove_collections` took out, as it was. An empty list where there is nothing."""

    def work(connection: duckdb.DuckDBPyConnection) -> list[Change]:
        before, names = _last(connection, REMOVE)
        for (name,) in names:
            _require_free(connection, name)
        for (name,) in names:
            for table in TABLES:
                connection.execute(
                    f"""INSERT INTO {table} BY NAME SELECT * FROM {table} AT (VERSION => {before})
                        WHERE collection = ? {_but_forgotten(table)}""",
                    [name],
                )
        _unlog(connection, REMOVE, before)
        return [Change(name, _held(connection, name)) for (name,) in names]

    return store.transaction(work)


def rename_collection(store: Store, old: str, new: str) -> Change:
    """Call a collection otherwise. Raises `UsageError` for an unknown name, and where the new one is taken."""

    def work(connection: duckdb.DuckDBPyConnection) -> Change:
        change = Change(old, _held(connection, old), new)
        before = newest(connection)
        _require_free(connection, new)
        _call(connection, old, new)
        _log(connection, RENAME, change, before)
        return change

    return store.transaction(work)


def take_back_name(store: Store) -> Change | None:
    """Give the collection that was renamed last its name before; None where none was."""

    def work(connection: duckdb.DuckDBPyConnection) -> Change | None:
        before, names = _last(connection, RENAME)
        if not names:
            return None
        ((old,),) = names
        ((new,),) = connection.execute(
            "SELECT renamed_to FROM collection_changes WHERE change = ? AND snapshot_before = ?", [RENAME, before]
        ).fetchall()
        _require_free(connection, old)
        change = Change(new, _held(connection, new), old)
        _call(connection, new, old)
        # Neither can be undone again, but versions between keep their names.
        connection.execute(
            "UPDATE collection_changes SET change = ? WHERE change = ? AND snapshot_before = ?",
            [f"{RENAME} undone", RENAME, before],
        )
        _log(connection, f"{RENAME} undone", change, newest(connection))
        return change

    return store.transaction(work)


def earlier_names(connection: duckdb.DuckDBPyConnection, names: Sequence[str], version: int) -> dict[str, str]:
    """What today's collections were called at a version of the store."""
    changes = connection.execute(
        """SELECT renamed_to, collection FROM collection_changes WHERE starts_with(change, ?) AND snapshot_before >= ?
           ORDER BY snapshot_before DESC""",
        [RENAME, version],
    ).fetchall()
    found = {}
    for name in names:
        then = name
        for new, old in changes:
            then = old if then == new else then
        found[name] = then
    return found


def _call(connection: duckdb.DuckDBPyConnection, old: str, new: str) -> None:
    for table in TABLES:
        connection.execute(f"UPDATE {table} SET collection = ? WHERE collection = ?", [new, old])
    connection.execute("UPDATE removals SET kept_collection = ? WHERE kept_collection = ?", [new, old])


def _but_forgotten(table: str) -> str:
    """What was forgotten stays so when its collection goes: the same file does not bring it back."""
    return f"AND reason <> '{FORGOTTEN}'" if table == "removals" else ""


def _held(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    known = [row[0] for row in connection.execute("SELECT collection FROM collections").fetchall()]
    if name not in known:
        raise unknown_name("collection", name, known)
    found = connection.execute("SELECT count(*) FROM examples WHERE collection = ?", [name]).fetchone()
    return int(found[0]) if found else 0


def _kept_for_others(connection: duckdb.DuckDBPyConnection, name: str, names: Sequence[str]) -> int:
    found = connection.execute(
        "SELECT count(*) FROM removals WHERE kept_collection = ? AND NOT list_contains(?, collection)",
        [name, list(names)],
    ).fetchone()
    return int(found[0]) if found else 0


def _require_free(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    if connection.execute("SELECT 1 FROM collections WHERE collection = ?", [name]).fetchone():
        raise UsageError(f"there is a collection {name!r} already; rename or remove that one first")


def newest(connection: duckdb.DuckDBPyConnection) -> int:
    """The newest version of the store."""
    found = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()
    return int(found[0]) if found else 0


def _last(connection: duckdb.DuckDBPyConnection, change: str) -> tuple[int, list[Any]]:
    """The snapshot before the newest change of a kind, and the collections that it changed."""
    found = connection.execute(
        """SELECT snapshot_before, collection FROM collection_changes WHERE change = $change AND snapshot_before =
           (SELECT max(snapshot_before) FROM collection_changes WHERE change = $change) ORDER BY collection""",
        {"change": change},
    ).fetchall()
    return (int(found[0][0]) if found else 0), [row[1:] for row in found]


def _log(connection: duckdb.DuckDBPyConnection, change: str, made: Change, before: int) -> None:
    connection.execute(
        """INSERT INTO collection_changes (change, collection, renamed_to, snapshot_before, changed_at)
           VALUES (?, ?, ?, ?, now())""",
        [change, made.collection, made.renamed_to, before],
    )


def _unlog(connection: duckdb.DuckDBPyConnection, change: str, before: int) -> None:
    connection.execute("DELETE FROM collection_changes WHERE change = ? AND snapshot_before = ?", [change, before])

"""Upkeep of a lake in a database: small files become large ones; versions that nobody needs go, and files of none.

DuckLake does the work by functions of its own. It must run alone among writers (ducklake#1094: merging beside a DELETE
and an INSERT of another process has damaged tables), so each step is a turn of the catalog's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow.fs as fs

from mixture.errors import StoreError, UsageError
from mixture.progress import Progress, silent
from mixture.store.connect import Store
from mixture.store.files import data_files, fault, record_hashes
from mixture.store.place import reached
from mixture.store.query import first_lines

DAYS = 7.0
FILE_HOURS = 24.0
# Clocks of machines differ; a version more is kept for no harm.
SKEW = timedelta(hours=1)
# What a command took out is read from the version before it, or from one that another process made while it ran.
UNDONE = (("removals", "removed_at"), ("minings", "mined_at"), ("collection_changes", "changed_at"))
OWN_FILES = re.compile(r"main/\w+/(?:[^/]+=[^/]*/)*ducklake-[0-9a-f-]{36}(?:-delete)?\.parquet")
# {own}: what stands before the names of DuckLake's own tables. Of renamed and dropped tables too.
NAMED = """
SELECT s.path || t.path || f.path AS path
FROM (SELECT table_id, path FROM {own}data_file UNION ALL SELECT table_id, path FROM {own}delete_file) f
JOIN {own}table t USING (table_id) JOIN {own}schema s USING (schema_id)
UNION SELECT path FROM {own}files_scheduled_for_deletion"""


@dataclass(frozen=True)
class Maintained:
    """What one call did.

    files_before, files_after: that the catalog names
    versions_gone, versions_kept: old ones; those kept are needed by a mixture or by taking a command back
    files_deleted: that no version had any more, or that a killed command had left
    """

    files_before: int
    files_after: int
    versions_gone: int
    versions_kept: int
    files_deleted: int


def maintain(
    store: Store, *, days: float = DAYS, file_hours: float = FILE_HOURS, progress: Progress = silent
) -> Maintained:
    """Write rows that are in the catalog into files, merge small files, drop old versions, delete files of no version.

    Contents, digests and mixtures stay as they are. Processes that write wait while a step is done; those that read go
    on. Kept are the newest version, those that were the newest within the last `days`, those that mixtures were made
    at, and those that taking a command back reads. A file goes when it has been in no version for `file_hours`: who
    began to read earlier may still be at it.

    Raises `UsageError` for numbers below 0 and for a store in a folder, whose readers DuckLake would show empty tables;
    `StoreError` where a file is damaged, before anything is done: a merged file would have the damage and a new hash.
    """
    for name, value in (("days", days), ("file_hours", file_hours)):
        if not (value >= 0 and math.isfinite(value)):
            raise UsageError(f"`{name}` is {value}; allowed: numbers from 0 up")
    if not store.catalog.maintained:
        raise UsageError(f"the store at {store.catalog} is in a folder; upkeep is for stores in a database")
    with store.catalog.turn():
        before = len(data_files(store))
        _merge(store, progress)
    with store.catalog.turn():
        progress(0, 0, "old versions")
        gone, kept = _expire(store, days)
    with store.catalog.turn():
        progress(0, 0, "files of no version")
        deleted = _delete(store, file_hours)
        after = len(data_files(store))
    return Maintained(before, after, gone, kept, deleted)


def _merge(store: Store, progress: Progress) -> None:
    pinned = [row["collection"] for row in store.rows("SELECT DISTINCT collection FROM mixture_weights")]
    found = [file for file in data_files(store) if file.sha256 is not None]
    for number, file in enumerate(found):
        progress(number, len(found), file.path)
        if says := fault(store, file):
            raise StoreError(f"{file.path}: {says}; nothing was done, and `mixture verify` lists what is damaged")
    progress(0, 0, "small files")
    for name in ("flush_inlined_data", "merge_adjacent_files", "rewrite_data_files"):
        _call(store, f"ducklake_{name}('lake')")
    record_hashes(store, pinned)


def _expire(store: Store, days: float) -> tuple[int, int]:
    found = store.rows("SELECT snapshot_id AS id, snapshot_time AS at FROM lake.snapshots() ORDER BY 1")
    since = datetime.now(UTC) - timedelta(days=days)
    needed = set(_needed(store, found))
    # A version was the newest until the next one came.
    old = [one["id"] for one, after in pairwise(found) if after["at"] < since]
    gone = [version for version in old if version not in needed]
    if gone:
        _call(store, f"ducklake_expire_snapshots('lake', versions => {gone})")
    return len(gone), len(old) - len(gone)


def _needed(store: Store, found: list[dict[str, Any]]) -> Iterator[int]:
    for row in store.rows("SELECT DISTINCT snapshot FROM mixtures WHERE snapshot IS NOT NULL"):
        yield row["snapshot"]
    for row in _undone(store, ""):
        yield row["first"]
        yield from (one["id"] for one in found if one["id"] >= row["first"] and one["at"] <= row["last"] + SKEW)
    # A collection that is brought back has its own commands again.
    for row in store.rows("SELECT DISTINCT snapshot_before AS id FROM collection_changes WHERE change = 'remove'"):
        try:
            commands = _undone(store, f"AT (VERSION => {row['id']})")
        except StoreError:  # an earlier one of the toolkit's had not all tables, or that version is gone
            continue
        for command in commands:
            yield command["first"]
            yield from (o["id"] for o in found if o["id"] >= command["first"] and o["at"] <= command["last"] + SKEW)


def _undone(store: Store, version: str) -> list[dict[str, Any]]:
    return [
        row
        for table, at in UNDONE
        for row in store.rows(f"""SELECT snapshot_before AS first, max({at}) AS last FROM {table} {version}
                                  WHERE snapshot_before IS NOT NULL GROUP BY ALL""")
    ]  # fmt: skip


def _delete(store: Store, hours: float) -> int:
    before = datetime.now(UTC) - timedelta(hours=hours)
    gone = _call(store, f"ducklake_cleanup_old_files('lake', older_than => TIMESTAMPTZ '{before.isoformat()}')")
    named = {row["path"] for row in store.rows(NAMED.format(own=store.catalog.tables))}
    with reached(store.catalog.data):
        there = store.data.get_file_info(fs.FileSelector("main", recursive=True, allow_not_found=True))
        left = [
            file.path for file in there
            if file.is_file and file.path not in named and OWN_FILES.fullmatch(file.path) and file.mtime < before
        ]  # fmt: skip
        for path in left:
            store.data.delete_file(path)
    return len(gone) + len(left)


def _call(store: Store, function: str) -> list[dict[str, Any]]:
    try:
        return store.connection.execute(f"CALL {function}").to_arrow_table().to_pylist()
    except duckdb.Error as error:
        store.close()  # DuckLake leaves a connection of which a function failed in no state to go on
        raise StoreError(f"upkeep stopped at {function.partition('(')[0]}: {first_lines(error)}") from error

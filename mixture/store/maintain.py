"""Upkeep of a lake in a database: small files become large ones; versions that nobody needs go, and files of none.

DuckLake does the work by functions of its own. It must run alone among writers (ducklake#1094: merging beside a DELETE
and an INSERT of another process has damaged tables), so each step is a turn of the catalog's. Rows that are in the
catalog stay there: to flush them loses what was deleted of them, where the name of their collection is not ASCII.
"""

from __future__ import annotations

import re
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
MOST = 36_500.0  # of both: a hundred years of days
# Clocks of machines differ; a version more is kept for no harm.
SKEW = timedelta(minutes=10)
# Versions that taking a command back reads: the one before it, and for removals those that another process made while
# it ran, whose rows may be among the removed.
UNDONE = {
    "removals": "SELECT snapshot_before AS first, max(removed_at) AS last FROM removals {version} "
                "WHERE snapshot_before IS NOT NULL GROUP BY ALL",
    "minings": "SELECT DISTINCT snapshot_before AS first FROM minings {version}",
    "collection_changes": "SELECT DISTINCT snapshot_before AS first FROM collection_changes {version} "
                          "WHERE change = 'remove'",
}  # fmt: skip
OWN_FILES = re.compile(r"main/\w+/(?:[^/]+=[^/]*/)*ducklake-[0-9a-f-]{36}(?:-delete)?\.parquet")
# {own}: what stands before the names of DuckLake's own tables. Of renamed and dropped tables too.
NAMED = """
SELECT CASE WHEN f.path_is_relative THEN s.path || t.path || f.path ELSE f.path END AS path
FROM (SELECT table_id, path, path_is_relative FROM {own}data_file
      UNION ALL SELECT table_id, path, path_is_relative FROM {own}delete_file) f
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
    """Merge small files, drop old versions, delete files of no version.

    Contents, digests and mixtures stay as they are. Processes that write wait while a step is done; those that read go
    on. Kept are the newest version, those that were the newest within the last `days` (at least `file_hours`: a command
    may be at work on one), those that mixtures were made at, and those that taking a command back reads. A file goes
    when it has been in no version for `file_hours`: who began to read earlier may still be at it.

    Raises `UsageError` for numbers out of range and for a store in a folder, whose readers DuckLake would show empty
    tables; `StoreError` where a file is damaged, before anything is done: a merged file would hold the damage, and a
    hash that calls it whole.
    """
    for name, value in (("days", days), ("file_hours", file_hours)):
        if not 0 <= value <= MOST:
            raise UsageError(f"`{name}` is {value}; allowed: numbers from 0 to {MOST:,.0f}")
    if not store.catalog.maintained:
        raise UsageError(f"the store at {store.catalog} is in a folder; upkeep is for stores in a database")
    now = datetime.now(UTC)
    since = now - timedelta(days=max(days, file_hours / 24))
    checked = _check(store, set(), progress)  # the most of it while others write
    with store.catalog.turn():
        _check(store, checked, progress)
        before = len(data_files(store))
        progress(0, 0, "small files")
        _merge(store)
    with store.catalog.turn():
        progress(0, 0, "old versions")
        gone, kept = _expire(store, since)
    with store.catalog.turn():
        progress(0, 0, "files of no version")
        # What this call merged was read a moment ago.
        deleted = _delete(store, now - timedelta(hours=file_hours) if file_hours else datetime.now(UTC))
        after = len(data_files(store))
    return Maintained(before, after, gone, kept, deleted)


def _check(store: Store, checked: set[str], progress: Progress) -> set[str]:
    """Raise for a file that is damaged, but for those that were checked; the names of all."""
    found = [file for file in data_files(store) if file.path not in checked]
    for number, file in enumerate(found):
        progress(number, len(found), file.path)
        if says := fault(store, file):
            raise StoreError(f"{file.path}: {says}; nothing was done, and `mixture verify` lists what is damaged")
    return {file.path for file in found}


def _merge(store: Store) -> None:
    # Files of which rows are deleted are not merged, so these first.
    _call(store, "ducklake_rewrite_data_files('lake', delete_threshold => 0)")
    _call(store, "ducklake_merge_adjacent_files('lake')")
    pinned = store.rows("SELECT DISTINCT coalesce(slice_of, collection) AS name FROM mixture_weights")
    record_hashes(store, [row["name"] for row in pinned])


def _expire(store: Store, since: datetime) -> tuple[int, int]:
    found = {row["id"]: row["at"] for row in store.rows(
        "SELECT snapshot_id AS id, snapshot_time AS at FROM lake.snapshots() ORDER BY 1")}  # fmt: skip
    needed = {row["id"] for row in store.rows("SELECT DISTINCT snapshot AS id FROM mixtures")}
    needed |= _undone(store, found, None)
    # A collection that is brought back has its own commands again.
    removed = store.rows(UNDONE["collection_changes"].format(version=""))
    for version in sorted({row["first"] for row in removed} & found.keys()):
        needed |= _undone(store, found, version)
    # A version was the newest until the next one came.
    old = [version for version, after in pairwise(found) if found[after] < since]
    gone = [version for version in old if version not in needed]
    if gone:
        _call(store, f"ducklake_expire_snapshots('lake', versions => {gone})")
    return len(gone), len(old) - len(gone)


def _undone(store: Store, found: dict[int, datetime], version: int | None) -> set[int]:
    """Versions that taking back reads, by what today's tables name, or those of a version."""
    needed: set[int] = set()
    for query in UNDONE.values():
        try:
            rows = store.rows(query.format(version="" if version is None else f"AT (VERSION => {version})"))
        except StoreError as error:
            if version is not None and "does not exist" in str(error):  # a table that came later
                continue
            raise
        for row in rows:
            needed.add(row["first"])
            if "last" in row:
                needed |= {one for one, at in found.items() if one >= row["first"] and at <= row["last"] + SKEW}
    return needed


def _delete(store: Store, before: datetime) -> int:
    gone = _call(store, f"ducklake_cleanup_old_files('lake', older_than => TIMESTAMPTZ '{before.isoformat()}')")
    place = store.catalog.data
    named = {row["path"].removeprefix(place) for row in store.rows(NAMED.format(own=store.catalog.tables))}
    with reached(place):
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

"""Upkeep of a lake: small files become large ones; versions that nobody needs go, and files that no version has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from mixture.errors import StoreError, UsageError
from mixture.progress import Progress, silent
from mixture.store.connect import Store
from mixture.store.files import DataFile, data_files, fault, record_hashes
from mixture.store.query import first_lines

DAYS = 7.0
# A reader of another process may be at a file that has just gone out of the newest version, and a writer has files that
# are not in the catalog yet.
FILE_HOURS = 24.0
# What is taken back, or was removed, is read from the versions between the one before a command and its commit.
STEPS_BACK = (("removals", "removed_at"), ("minings", "mined_at"), ("collection_changes", "changed_at"))


@dataclass(frozen=True)
class Maintained:
    """What one call did. Versions and files that went are counted; `kept` are older versions that something needs."""

    rows_written: int
    files_before: int
    files_after: int
    versions_gone: int
    versions_kept: int
    files_deleted: int


def maintain(
    store: Store, *, days: float = DAYS, file_hours: float = FILE_HOURS, progress: Progress = silent
) -> Maintained:
    """Flush rows that are in the catalog into files, merge small files, drop old versions, delete files of no version.

    Other processes that write wait meanwhile; those that read go on. Kept are the versions of the last `days`, those
    that mixtures were made at, and those that taking a command back needs; content, digests and mixtures stay the same.
    A file whose bytes are not those that were recorded stops it before anything is done.
    A file is deleted when it has been in no version for `file_hours`. Raises `UsageError` for numbers below 0.
    """
    for name, value in (("days", days), ("file_hours", file_hours)):
        if not value >= 0:
            raise UsageError(f"`{name}` is {value}; allowed: numbers from 0 up")
    with store.catalog.turn():
        before = data_files(store)
        _check(store, before, progress)
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("flush", lambda: _call(store, "ducklake_flush_inlined_data('lake')")),
            ("merge", lambda: _call(store, "ducklake_merge_adjacent_files('lake')")),
            ("rewrite", lambda: _call(store, "ducklake_rewrite_data_files('lake')")),
            ("versions", lambda: _expire(store, days)),
            ("files", lambda: _clean(store, file_hours)),
        ]
        done: dict[str, Any] = {}
        for number, (name, work) in enumerate(steps):
            progress(number, len(steps), name)
            done[name] = work()
        progress(len(steps), len(steps), "")
        pinned = [row["collection"] for row in store.rows("SELECT DISTINCT collection FROM mixture_weights")]
        record_hashes(store, pinned)
    gone, kept = done["versions"]
    return Maintained(
        rows_written=sum(row.get("rows_flushed") or 0 for row in done["flush"]),
        files_before=len(before), files_after=len(data_files(store)),
        versions_gone=gone, versions_kept=kept, files_deleted=done["files"],
    )  # fmt: skip


def _check(store: Store, found: list[DataFile], progress: Progress) -> None:
    """A merged file would have the damage of its parts, and a hash of its own."""
    for number, file in enumerate(found):
        progress(number, len(found), file.path)
        if file.sha256 is not None and (says := fault(store, file)):
            raise StoreError(f"{file.path}: {says}; nothing was done, and `mixture verify` lists what is damaged")


def needed_versions(store: Store, days: float) -> tuple[list[int], list[int]]:
    """The versions that can go, and older ones than `days` that something needs."""
    found = store.rows("SELECT snapshot_id AS id, snapshot_time AS at FROM lake.snapshots() ORDER BY 1")
    since = datetime.now(UTC) - timedelta(days=days)
    pinned = store.rows("SELECT DISTINCT snapshot AS id FROM mixtures WHERE snapshot IS NOT NULL")
    needed = {row["id"] for row in pinned}
    for table, at in STEPS_BACK:
        for row in store.rows(f"""SELECT snapshot_before AS first, max({at}) AS last FROM {table}
                                  WHERE snapshot_before IS NOT NULL GROUP BY ALL"""):  # fmt: skip
            # The newest one is the command's own, whose clock may have been behind its commit.
            needed |= {one["id"] for one in found if one["id"] >= row["first"] and one["at"] <= row["last"]}
            needed.add(row["first"])
    old = [one["id"] for one in found[:-1] if one["at"] < since]
    return [number for number in old if number not in needed], [number for number in old if number in needed]


def _expire(store: Store, days: float) -> tuple[int, int]:
    gone, kept = needed_versions(store, days)
    if gone:
        _call(store, f"ducklake_expire_snapshots('lake', versions => {gone})")
    return len(gone), len(kept)


def _clean(store: Store, hours: float) -> int:
    before = f"now() - INTERVAL {int(hours * 3600)} SECOND"
    return sum(
        len(_call(store, f"{function}('lake', older_than => {before})"))
        for function in ("ducklake_cleanup_old_files", "ducklake_delete_orphaned_files")
    )


def _call(store: Store, function: str) -> list[dict[str, Any]]:
    try:
        return store.connection.execute(f"CALL {function}").to_arrow_table().to_pylist()
    except duckdb.Error as error:
        raise StoreError(f"upkeep stopped at {function.partition('(')[0]}: {first_lines(error)}") from error

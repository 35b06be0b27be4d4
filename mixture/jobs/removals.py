"""What dedup and decontaminate share: examples are taken out, or put back.

Every removal says why (table `removals`) and is not ingested again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixture.arguments import named
from mixture.errors import UsageError
from mixture.jobs.contamination import matches, warn_of_test_rows
from mixture.store import Store, read
from mixture.store.write import remove_examples, restore_removed

DUPLICATE, TEST_QUERY, TEST_PASSAGE = "duplicate", "test query", "test passage"
REASONS = {"dedup": (DUPLICATE,), "decontaminate": (TEST_QUERY, TEST_PASSAGE)}
# Beside what `removals` keeps: the texts that were compared.
TEXTS = ("query", "positive", "kept_positive")
NAMES = {
    TEST_QUERY: {"kept_query": "test_query"},
    TEST_PASSAGE: {"kept_query": "test_passage", "query_id": "doc_id"},
}  # fmt: skip


@dataclass(frozen=True)
class RemovalResult:
    """How many examples a collection has, how many were taken out or put back (or would be), and which.

    examples: before they were taken out, or after they were put back; with a dry run those that there are
    snapshot: of the store that was read
    removals: rows of the table `removals`, and the texts that were compared
    """

    collection: str
    examples: int
    removed: int
    snapshot: int
    removals: pa.Table = field(default_factory=lambda: pa.table({}), repr=False)
    put_back: int = 0

    def count(self, reason: str) -> int:
        """How many of the rows have this reason: duplicate, test query, test passage."""
        if not self.removals.num_rows:
            return 0
        return int(pc.sum(pc.equal(self.removals["reason"], reason)).as_py() or 0)

    def rows(self) -> list[dict[str, Any]]:
        """Each removal under the names of what it is: `query` goes, because of `kept_query`, `test_query` or
        `test_passage`; without what does not apply."""
        return [
            {NAMES.get(row["reason"], {}).get(name, name): value for name, value in row.items() if value is not None}
            for row in self.removals.to_pylist()
        ]


def take_out(
    store: Store, infos: Sequence[read.CollectionInfo], parts: Sequence[pa.Table], snapshot: int, dry_run: bool
) -> list[RemovalResult]:
    """Take out the examples of these tables (rows of `removals`, and `TEXTS`), unless another process took them out,
    or put them back, after the snapshot in which they were found."""
    rows = pa.concat_tables([part for part in parts if part.num_rows] or parts[:1]) if parts else pa.table({})
    if rows.num_rows and not dry_run:
        kept = rows.drop_columns([name for name in TEXTS if name in rows.column_names])
        rows = rows.filter(remove_examples(store, kept, snapshot))
    return [
        RemovalResult(info.collection, info.num_examples, own.num_rows, snapshot, own)
        for info in infos
        for own in [rows.filter(pc.equal(rows["collection"], info.collection))]
    ]


def undo(store: Store, command: str, *, dry_run: bool = False) -> list[RemovalResult]:
    """Put back what the newest `dedup` or `decontaminate` took out. Rows of test sets among it are warned of.

    command: one of these two
    dry_run: only say what would come back
    """
    reasons = named("command", command, REASONS)
    rows, dropped = restore_removed(store, reasons, dry_run=dry_run)
    if not rows.num_rows:
        none = f"no removals for the reason {' or '.join(map(repr, reasons))}, or they are put back already"
        why = "no file gives what the newest one took out any more" if dropped else none
        raise UsageError(f"nothing to put back: {why}")
    back = {name: rows.filter(pc.equal(rows["collection"], name)) for name in rows["collection"].unique().to_pylist()}
    with store.reading() as snapshot:
        infos = [info for info in read.collections(store) if info.collection in back]
    if not dry_run:
        warn_of_test_rows(matches(store, sorted(back)))
    return [
        RemovalResult(info.collection, info.num_examples, 0, snapshot, own, own.num_rows)
        for info in infos
        for own in [back[info.collection].drop_columns(["snapshot_before"])]
    ]

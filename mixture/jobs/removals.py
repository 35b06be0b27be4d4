"""What dedup and decontaminate share: examples are taken out, or put back.

Every removal says why (table `removals`) and is not ingested again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from mixture.arguments import named
from mixture.errors import UsageError
from mixture.store import Store, read
from mixture.store.write import remove_examples, restore_removed

DUPLICATE, TEST_QUERY, TEST_PASSAGE = "duplicate", "test query", "test passage"
REASONS = {"dedup": (DUPLICATE,), "decontaminate": (TEST_QUERY, TEST_PASSAGE)}


@dataclass(frozen=True)
class RemovalResult:
    """How many examples a collection had, how many were taken out (or would be), and which: rows of `removals`.

    snapshot: of the store that was read
    """

    collection: str
    examples: int
    removed: int
    snapshot: int
    removals: pa.Table = field(default_factory=lambda: pa.table({}), repr=False)


def take_out(
    store: Store, infos: Sequence[read.CollectionInfo], parts: Sequence[pa.Table], snapshot: int, dry_run: bool
) -> list[RemovalResult]:
    """Take out the examples of these tables (rows of `removals`), unless another process took them out, or put them
    back, after the snapshot in which they were found."""
    rows = pa.concat_tables([part for part in parts if part.num_rows] or parts[:1]) if parts else pa.table({})
    if rows.num_rows and not dry_run:
        rows = rows.filter(remove_examples(store, rows, snapshot))
    return [
        RemovalResult(info.collection, info.num_examples, own.num_rows, snapshot, own)
        for info in infos
        for own in [rows.filter(pc.equal(rows["collection"], info.collection))]
    ]


def undo(store: Store, command: str) -> list[RemovalResult]:
    """Put back what the newest `dedup` or `decontaminate` took out; `removed` is below 0. command: one of these two."""
    reasons = named("command", command, REASONS)
    back = restore_removed(store, reasons)
    if not back:
        raise UsageError(f"nothing to put back: no removals for the reason {' or '.join(map(repr, reasons))}")
    with store.reading() as snapshot:
        infos = [info for info in read.collections(store) if info.collection in back]
    return [RemovalResult(info.collection, info.num_examples, -back[info.collection], snapshot) for info in infos]

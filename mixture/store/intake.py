"""Files into a collection: rows, rejects, what the card declares. One transaction, so a kill leaves the last whole one.

A file that changed replaces what it gave before. Which file gives which example is in `mixture.store.givers`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import StoreError, UsageError
from mixture.refusals import Reasons
from mixture.rows import Batch
from mixture.store import givers
from mixture.store.connect import Store
from mixture.store.givers import REPLACED
from mixture.store.write import restore_copies

logger = logging.getLogger(__name__)


PART = "#split="
"""Between a folder and its part in a place."""


@dataclass(frozen=True)
class FileCounts:
    """What one file gave: rows read, examples stored, examples that were there already, rows rejected; and how many
    examples went because the file gave them before and now does not."""

    rows_read: int = 0
    stored: int = 0
    repeated: int = 0
    rejected: int = 0
    replaced: int = 0

    def __add__(self, other: FileCounts) -> FileCounts:
        return FileCounts(
            self.rows_read + other.rows_read,
            self.stored + other.stored,
            self.repeated + other.repeated,
            self.rejected + other.rejected,
            self.replaced + other.replaced,
        )


@dataclass
class Stored:
    """What came of one file."""

    counts: FileCounts = field(default_factory=FileCounts)
    reasons: Reasons = field(default_factory=Reasons)

    @property
    def failed(self) -> bool:
        """Whether no row of the file could be read. Then the collection is as it was."""
        return not self.counts.stored + self.counts.repeated


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

    location: where it is, as the user wrote it
    batches:  called once an attempt, since a transaction is repeated when another process commits first
    place:    the location written in full, by which the store knows the file when its content has changed
    append:   keep what an earlier content of the file gave
    """

    facts: CollectionFacts
    location: str
    sha256: str
    batches: Callable[[], Iterable[Batch]]
    place: str = ""
    append: bool = False


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

    def check(self, counts: FileCounts, reasons: Sequence[Reasons], *, final: bool) -> None:
        """Raise StoreError when there are too many. A share is only known at the end (`final`)."""
        over = self.rows is not None and counts.rejected > self.rows
        if final and self.share is not None:
            over = counts.rejected > self.share * counts.rows_read
        if over:
            limit = f"{self.rows}" if self.rows is not None else f"{100 * (self.share or 0):g}%"
            raise StoreError(
                f"{counts.rejected:,} of {counts.rows_read:,} rows were refused, more than `max_rejects`, {limit}, so "
                f"nothing was stored: {sum(reasons, Reasons())}"
            )


def file_is_stored(store: Store, collection: str, sha256: str, place: str) -> bool:
    """Whether the collection has what this file gives: it was stored with this content, here or before it was moved.

    A copy of a stored file is another file, which goes on giving its rows when the first one changes. One of which
    nothing could be read does not count.
    """
    found = store.rows("SELECT place, sha256, stored + repeated AS n FROM sources WHERE collection = ?", [collection])
    places = [row["place"] for row in found if row["sha256"] == sha256 and row["n"]]
    if place in places or None in places:  # None: an older version did not note it
        return True
    moved = [old for old in places if "://" not in old and not Path(old.partition(PART)[0]).exists()]
    if not moved or "://" in place or any(row["place"] == place for row in found):
        return False

    def move(connection: duckdb.DuckDBPyConnection) -> None:
        for table in ("sources", "file_examples"):
            connection.execute(
                f"UPDATE {table} SET place = ? WHERE collection = ? AND place = ?", [place, collection, moved[0]]
            )

    store.transaction(move)
    return True


def add_files(store: Store, files: Sequence[NewFile], limit: RejectLimit | None = None) -> list[Stored]:
    """Store all rows of some files, as one transaction.

    Rows that the collection holds, or that dedup or decontamination removed from it, are not stored again. What an
    earlier content of a file gave, and no file of the collection gives now, is taken out with the reason `replaced`;
    its rejects are replaced too. Of a file of which no row can be read only the rejects are kept.

    Raises StoreError, and leaves the store as it was, when more rows are refused than `limit` allows.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> list[Stored]:
        found: list[Stored] = []
        total = FileCounts()
        for file in files:
            found.append(Stored())
            for part in _add_file(connection, file, found[-1]):
                total += part
                if limit is not None:
                    limit.check(total, [stored.reasons for stored in found], final=False)
        if limit is not None:
            limit.check(total, [stored.reasons for stored in found], final=True)
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


def _add_file(connection: duckdb.DuckDBPyConnection, file: NewFile, stored: Stored) -> Iterator[FileCounts]:
    """Store one file, batch by batch; yields what each gave, and adds it to `stored`."""
    collection, place = file.facts.collection, file.place or file.location
    givers.adopt(connection, collection, place)
    turn, replaces = givers.turn_of(connection, collection, place, append=file.append)
    _forget_rejects(connection, collection, file.location, place)
    givers.prepare(connection, collection, place)
    _remember(connection, collection)
    prompts: set[str] = set()
    for number, batch in enumerate(file.batches()):
        part = _add_batch(connection, collection, batch, number)
        stored.counts += part
        stored.reasons.add(batch.rejects, batch.stand_for)
        prompts.update(batch.prompts)
        yield part
    if stored.failed:
        # Its rejects are of this content, so the earlier one is read again when it comes back.
        connection.execute("UPDATE sources SET sha256 = '' WHERE collection = ? AND place = ?", [collection, place])
        return
    if replaces:
        connection.execute("DELETE FROM sources WHERE collection = ? AND place = ?", [collection, place])
    stays = givers.link(connection, collection, place, turn, replaces=replaces)
    if replaces:
        stored.counts += FileCounts(replaced=givers.take_back(connection, collection))
        givers.bring_up_to_date(connection, collection, turn)
    givers.settle(connection, collection)
    givers.drop_loose_passages(connection, collection)
    connection.execute(
        """DELETE FROM removals WHERE collection = $c AND reason = $reason
           AND example_id IN (SELECT example_id FROM examples WHERE collection = $c)""",
        {"c": collection, "reason": REPLACED},
    )
    row = {"collection": collection, "file": file.location, "sha256": file.sha256, "rows_read": stored.counts.rows_read,
           "stored": stored.counts.stored + stays, "repeated": stored.counts.repeated - stays,
           "rejected": stored.counts.rejected, "place": place, "prompts": sorted(prompts)}  # fmt: skip
    connection.execute(
        f"INSERT INTO sources (ingested_at, {', '.join(row)}) VALUES (now(), {', '.join('?' * len(row))})",
        list(row.values()),
    )
    _declare(connection, file.facts, prompts, afresh=replaces)
    if stored.counts.replaced and (back := restore_copies(connection, collection)):
        rows = "a copy of a row that is gone now is" if back == 1 else "copies of rows that are gone now are"
        logger.warning("%s: %s example%s that dedup took out as %s back; run dedup again", file.location, f"{back:,}",
                       "s" * (back > 1), rows)  # fmt: skip


def _forget_rejects(connection: duckdb.DuckDBPyConnection, collection: str, location: str, place: str) -> None:
    """Those of the file's earlier content, however its place was written then; of a folder, those of its files."""
    connection.execute(
        """DELETE FROM rejects WHERE collection = $c AND file IN (
               SELECT r.file FROM rejects r JOIN (
                   SELECT $location AS file
                   UNION SELECT file FROM sources WHERE collection = $c AND place = $place) s
               ON r.file = s.file OR starts_with(r.file, s.file || '/') WHERE r.collection = $c)""",
        {"c": collection, "location": location, "place": place},
    )


DECLARED = tuple(field.name for field in fields(CollectionFacts) if field.name != "collection")
STORED_FACTS = f"SELECT {', '.join(DECLARED)} FROM collections WHERE collection = ?"


def declare(store: Store, facts: CollectionFacts) -> None:
    """Bring a stored collection's card, and what it declares, up to date, where they differ."""
    stored = store.rows(STORED_FACTS, [facts.collection])
    if stored and stored[0] != _merged(stored[0], facts, ()):
        store.transaction(lambda connection: _declare(connection, facts, ()))


def _declare(
    connection: duckdb.DuckDBPyConnection, facts: CollectionFacts, prompts: Iterable[str], *, afresh: bool = False
) -> None:
    """Insert the collection, or bring it up to date. `prompts` are those that rows carried. With `afresh` prompts that
    no file's rows carry any more go, where all files say what theirs are."""
    found = connection.execute(STORED_FACTS, [facts.collection]).fetchone()
    stored = dict(zip(DECLARED, found, strict=True)) if found else dict.fromkeys(DECLARED)
    if afresh and stored["card"] is None:
        lists = connection.execute("SELECT prompts FROM sources WHERE collection = ?", [facts.collection]).fetchall()
        if all(carried is not None for (carried,) in lists):
            stored["prompts"], prompts = [], [prompt for (carried,) in lists for prompt in carried]
    new = _merged(stored, facts, prompts)
    if found is None:
        values = {"collection": facts.collection, **new}
        connection.execute(
            f"INSERT INTO collections (added_at, {', '.join(values)}) VALUES (now(), {', '.join('?' * len(values))})",
            list(values.values()),
        )
    elif list(new.values()) != list(found):
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
    # What was replaced may come back.
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE known_examples AS SELECT example_id AS id FROM examples WHERE collection = $c
           UNION ALL SELECT example_id FROM removals WHERE collection = $c AND reason <> $replaced""",
        {"c": collection, "replaced": REPLACED},
    )
    passages = "SELECT passage_id FROM passages WHERE collection = $c"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known_passages AS SELECT passage_id AS id FROM ({passages})", {"c": collection}
    )


def _add_batch(connection: duckdb.DuckDBPyConnection, collection: str, batch: Batch, number: int) -> FileCounts:
    """Store a batch, after `_remember` and `givers.prepare`."""
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
    givers.note_links(connection, batch, number)
    if len(known):
        mask = pc.is_in(batch.examples["example_id"], known.cast(batch.examples["example_id"].type))
        givers.note_known(connection, batch.examples.filter(mask), number)
    _insert(connection, "rejects", collection, batch.rejects)
    return FileCounts(
        rows_read=batch.rows_read,
        stored=examples.num_rows,
        repeated=batch.rows_read - batch.merged - batch.refused - examples.num_rows,
        rejected=batch.refused,
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

"""Ingest: files, folders and hub datasets into the store, one transaction a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote as url_quote

from mixture.arguments import NAME_RULE, Name, Names, check_name, is_name, listed
from mixture.cards import UNKNOWN, DataCard, card_for, load_cards, packaged_cards
from mixture.dedup import simhash_fingerprints
from mixture.errors import StoreError, UsageError
from mixture.ingest.hub import HubPart, HubSource
from mixture.ingest.mapping import Given, column_map, mapping_text
from mixture.ingest.memory import is_rows
from mixture.ingest.normalise import build_batches, sample
from mixture.ingest.reading import Reading
from mixture.ingest.report import FileReport
from mixture.ingest.sources import SourceUnit, discover
from mixture.ingest.splits import TRAIN, wanted_splits
from mixture.ingest.units import read_unit, sha256_of
from mixture.jobs.contamination import matches, warn_of_test_rows
from mixture.progress import Progress, silent
from mixture.refusals import Reasons
from mixture.rows import Batch
from mixture.store import Store, read
from mixture.store.intake import (
    PART,
    CollectionFacts,
    FileCounts,
    NewFile,
    RejectLimit,
    Stored,
    add_files,
    declare,
    file_is_stored,
)

SHOWN_FAILED = 5

Sources: TypeAlias = Names | Any
"""Paths, patterns, URIs and hub ids; or rows: an Arrow table, a data frame, a `datasets.Dataset`, a list of
dictionaries."""


@dataclass(frozen=True)
class IngestResult:
    """What one collection got. `unchanged` counts files that were stored before, byte for byte; `read` says of each
    other file what its columns were taken for, and `notes` what was left out."""

    collection: str
    files: int
    unchanged: int
    counts: FileCounts
    read: tuple[FileReport, ...] = ()
    notes: tuple[str, ...] = ()


class NothingStored(StoreError):
    """Sources of which nothing could be stored.

    results: what came of all that were named, these included
    failed:  why, by location
    """

    def __init__(self, results: list[IngestResult], failed: dict[str, Reasons], num_files: int) -> None:
        self.results, self.failed = results, failed
        which = f"{len(failed)} of {num_files} files" if num_files > 1 else ""
        shown = [f"{place}: {why}" for place, why in list(failed.items())[:SHOWN_FAILED]]
        more = len(failed) - len(shown)
        super().__init__(
            "nothing could be stored of "
            + (f"{which}; the others are stored\n" if which and len(failed) < num_files else f"{which}\n" * bool(which))
            + "\n".join([*shown, *([f"and {more} more"] if more else [])])
            + "\nmend them and call ingest again; the table rejects has each row"
        )


def ingest(
    store: Store, sources: Sources = (), *, name: str | None = None, card: str | None = None,
    cards: Name | None = None, format: str | None = None, columns: Given | None = None, min_label: float | None = None,
    split: str | None = None, max_rejects: str | None = None, append: bool = False, progress: Progress = silent,
) -> list[IngestResult]:  # fmt: skip
    """Read files, folders or a folder of collections into the store, one transaction a file. Rows in memory are read
    like a file; they need a `name`.

    name:        the collection, where all sources are one; else folders and files give the names
    card:        the datacard of the collection (and its name, unless `name` says otherwise); without sources, it also
                 says where they are
    cards:       a folder of further datacards; a collection with a card of its name gets its prompts
    format:      overrides what the content of the files looks like
    columns:     which column is which, where their names do not say it: {"query": "user_query", "positive": "doc",
                 "negative": ["bad", "worse"]}, with dots into nested values; a card's `source.columns` say the same
    min_label:   the lowest label of a positive, for labels that are no grades (0 for a negative, and up)
    split:       which files or parts to read of those named train, validation (dev) and test; default: train
    max_rejects: how many rows may be refused in all, as a number or a share ("1%"); then everything is one transaction,
                 and nothing is stored when there are more
    append:      what a changed file gave before stays; else it goes, unless another file gives it too

    Files that were stored as they are now are passed over, so a killed command goes on when called again. Raises
    `NothingStored` after all is done where a file had no row that could be stored; when called again it is tried again.
    """
    limit = RejectLimit.parse(max_rejects) if max_rejects is not None else None
    notes: list[str] = []
    units, card_of = _asked(sources, name, card, cards, format, split, notes.append)
    given = name is not None or card is not None
    _check_names({unit.collection for unit in units} - read.names(store), given=given)
    results: dict[str, IngestResult] = {}
    waiting: list[tuple[NewFile, FileReport]] = []
    failed: dict[str, Reasons] = {}

    def count(collection: str, unchanged: int, counts: FileCounts, told: FileReport | None = None) -> None:
        old = results.get(collection) or IngestResult(
            collection, 0, 0, FileCounts(), (), tuple(note for note in notes if note.startswith(f"{collection}: "))
        )
        results[collection] = IngestResult(collection, old.files + 1, old.unchanged + unchanged, old.counts + counts,
                                           (*old.read, told) if told else old.read, old.notes)  # fmt: skip

    def note(file: NewFile, stored: Stored, told: FileReport) -> None:
        told.rows, told.refused, told.reasons = stored.counts.rows_read, stored.counts.rejected, stored.reasons
        count(file.facts.collection, 0, stored.counts, told)
        if stored.failed:
            failed[file.location] = stored.reasons

    for done, unit in enumerate(units):
        progress(done, len(units), unit.location)
        described = card_of(unit.collection)
        facts = _facts(unit.collection, described)
        make = _reading(columns, min_label, split, described, unit)
        # A file that was stored as one format may be read again as another. What counts is the user's word and not
        # the unit's format: to a file that is told by its content nothing is added.
        said = _said(make(), unit)
        sha256 = ":".join(filter(None, (sha256_of(unit), format, *said)))
        if file_is_stored(store, unit.collection, sha256, _place(unit)):
            count(unit.collection, 1, FileCounts())
            continue
        told = FileReport(unit.location, _format(unit))
        report = functools.partial(progress, done, len(units))
        new = NewFile(facts, unit.location, sha256, _batches(unit, told, make, report), _place(unit), append)
        if limit is None:
            note(new, add_files(store, [new])[0], told)
        else:
            waiting.append((new, told))
    all_stored = add_files(store, [new for new, _ in waiting], limit) if waiting else ()
    for (new, told), stored in zip(waiting, all_stored, strict=True):
        note(new, stored, told)
    for collection in results:
        # Also for files that were stored before: a card given later counts.
        declare(store, _facts(collection, card_of(collection)))
    stored_now = sorted(results.keys() & read.names(store))  # of a file that failed there may be no collection
    warn_of_test_rows(matches(store, stored_now) if stored_now else {})
    progress(len(units), len(units), "done")
    if failed:
        raise NothingStored(list(results.values()), failed, len(units))
    return list(results.values())


def _check_names(collections: Iterable[str], *, given: bool) -> None:
    """Of names that the store has not: they keep the rule, and fit into a folder's name in URL form, of 255 bytes."""
    for collection in sorted(collections):
        if not given and not is_name(collection):
            raise UsageError(f"the collection's name would be {collection!r}, as the file or folder is called, and a "
                             f"name needs {NAME_RULE}; give `name`")  # fmt: skip
        check_collection_name(collection)


def check_collection_name(name: str) -> None:
    """Raise `UsageError` for what cannot name a collection."""
    check_name("collection name", name)
    if len(f"collection={url_quote(name, safe='')}") > 255:
        raise UsageError(f"{name[:30]!r}… is too long for a collection's name (244 letters or digits, 27 of most other "
                         "scripts); give one in `name`")  # fmt: skip


def _place(unit: SourceUnit) -> str:
    """The location in full: a path as it is from anywhere on this machine, links as they stand. Another part than that
    for training of a folder that is read as one is a place of its own."""
    if not isinstance(unit.place, Path):
        return unit.location
    place = os.path.abspath(unit.place)  # noqa: PTH100 - a link, as of a hub's cache, leads elsewhere when it changes
    wanted = wanted_splits(unit.split) if unit.place.is_dir() else None
    return place if wanted in (None, {TRAIN}) else f"{place}{PART}{','.join(sorted(wanted))}"


@dataclass(frozen=True)
class Preview:
    """A file read and not stored: what its columns were taken for, and its first examples as they would be stored."""

    collection: str
    read: FileReport
    examples: tuple[dict[str, Any], ...]


def preview(
    sources: Sources = (), *, name: str | None = None, card: str | None = None, cards: Name | None = None,
    format: str | None = None, columns: Given | None = None, min_label: float | None = None, split: str | None = None,
    examples: int = 2, progress: Progress = silent, note: Callable[[str], None] = lambda _: None,
) -> list[Preview]:  # fmt: skip
    """Read what `ingest` would store, all of it, and store nothing: no store is needed. `note` is told what is left
    out; the other parameters are those of `ingest`."""
    units, card_of = _asked(sources, name, card, cards, format, split, note)
    found = []
    for done, unit in enumerate(units):
        progress(done, len(units), unit.location)
        read = FileReport(unit.location, _format(unit))
        make = _reading(columns, min_label, split, card_of(unit.collection), unit)
        shown: list[dict[str, Any]] = []
        for batch in _batches(unit, read, make, functools.partial(progress, done, len(units)))():
            read.add(batch)
            shown += sample(batch, examples - len(shown))
        found.append(Preview(unit.collection, read, tuple(shown)))
    progress(len(units), len(units), "done")
    return found


def _asked(
    sources: Sources, name: str | None, card: str | None, cards: Name | None, format: str | None, split: str | None,
    note: Callable[[str], None],
) -> tuple[list[SourceUnit], Callable[[str], DataCard | None]]:  # fmt: skip
    """The units that a call names, and what gives the datacard of a collection."""
    known = load_cards(None if cards is None else Path(cards).expanduser())
    chosen = card_for(card, known) if card is not None else None
    if name is None and chosen is not None:
        name = chosen.name
    units = discover(_sources(_given(sources), chosen, split), name, format=format, split=split, note=note)
    return units, lambda collection: chosen or known.get(collection)


def _reading(
    columns: Given | None, min_label: float | None, split: str | None, card: DataCard | None, unit: SourceUnit
) -> Callable[[], Reading]:
    """How a unit is read: by the user's word, else by the card's."""
    if columns is not None or card is None or card.source is None or not card.source.columns:
        return lambda: Reading(columns, min_label, split=split)
    source = card.source
    theirs: dict[str, str | Sequence[str]] = {str(ours): given for ours, given in source.columns.items()}
    # A card of the toolkit was written for the hub's files; a user's own for these.
    own = card.path.parent != packaged_cards()
    return lambda: Reading(theirs, min_label if min_label is not None else source.min_label, split=split,
                           may_lack=not own and not isinstance(unit.place, HubPart))  # fmt: skip


def _format(unit: SourceUnit) -> str | None:
    """The format as a report has it; what a file of the hub is, is not known before it is here."""
    return unit.format or ("hub" if isinstance(unit.place, HubPart) else None)


def _said(reading: Reading, unit: SourceUnit) -> tuple[str, str]:
    """What of the user's word makes a file another one: it may be read again with other columns."""
    hashed = unit.place.source.columns if isinstance(unit.place, HubPart) else None  # a part of its hash already
    columns = "" if hashed and reading.columns == column_map(hashed) else mapping_text(reading.columns)
    return columns, "" if reading.min_label is None else f"min_label {reading.min_label:g}"


def _batches(
    unit: SourceUnit, read: FileReport, make: Callable[[], Reading], report: Callable[[str], None]
) -> Callable[[], Iterator[Batch]]:
    def batches() -> Iterator[Batch]:
        read.reading, rows = make(), 0
        found = build_batches(read_unit(unit, read.reading), file=unit.location, language=unit.language,
                             fingerprint=simhash_fingerprints)  # fmt: skip
        for batch in found:
            yield batch
            rows += batch.rows_read
            report(f"{unit.location}  {rows:,} rows")

    return batches


def _given(sources: Sources) -> list[Any]:
    """The sources one by one; rows are one source, not their items."""
    if is_rows(sources):
        return [sources]
    if isinstance(sources, str | os.PathLike):
        return listed(sources)
    return [source if is_rows(source) else os.fspath(source) for source in sources]


def _sources(sources: Sequence[Any], card: DataCard | None, split: str | None) -> list[Any]:
    """What the user named, or where the card says that the rows are."""
    if sources or card is None:
        return list(sources)
    at = card.source
    if at is None or at.hub_id == UNKNOWN:
        raise UsageError(f"datacard {card.name!r} does not say where its rows are; name files, a folder or a hub id")
    columns: dict[str, str | Sequence[str]] = {str(ours): theirs for ours, theirs in at.columns.items()}
    return [HubSource(at.hub_id, at.config, at.files, split or at.split, columns or None)]


def _facts(collection: str, card: DataCard | None) -> CollectionFacts:
    if card is None:
        return CollectionFacts(collection)
    return CollectionFacts(
        collection, card=card.name, prompts=card.prompts, is_symmetric=card.symmetric, category=card.category or None,
        license=card.license, languages=card.language, deduped_size=card.deduped_size, source=_where(card),
        negatives=card.negatives,
    )  # fmt: skip


def _where(card: DataCard) -> str:
    """The origin that a card declares, in one line."""
    at = card.source
    if at is None:
        return UNKNOWN
    if at.hub_id == UNKNOWN:
        return at.url
    return "hf:" + "/".join(filter(None, (at.hub_id, at.config))) + "".join(f" {file}" for file in at.files)

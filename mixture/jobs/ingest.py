"""Ingest: files, folders and hub datasets into the store, one transaction a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote as url_quote

from mixture.arguments import NAME_RULE, Name, Names, check_name, is_name, listed
from mixture.cards import UNKNOWN, DataCard, card_for, load_cards
from mixture.dedup import simhash_fingerprints
from mixture.errors import StoreError, UsageError
from mixture.ingest.hub import HubSource
from mixture.ingest.normalise import build_batches
from mixture.ingest.sources import SourceUnit, discover
from mixture.ingest.units import read_unit, sha256_of
from mixture.progress import Progress, silent
from mixture.rows import Batch
from mixture.store import Store, read
from mixture.store.intake import (
    CollectionFacts,
    FileCounts,
    NewFile,
    Reasons,
    RejectLimit,
    Stored,
    add_files,
    declare,
    file_is_stored,
)

SHOWN_FAILED = 5


@dataclass(frozen=True)
class IngestResult:
    """What one collection got. `unchanged` counts files that were stored before, byte for byte."""

    collection: str
    files: int
    unchanged: int
    counts: FileCounts


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
    store: Store, sources: Names = (), *, name: str | None = None, card: str | None = None,
    cards: Name | None = None, format: str | None = None, max_rejects: str | None = None, append: bool = False,
    progress: Progress = silent,
) -> list[IngestResult]:  # fmt: skip
    """Read files, folders or a folder of collections into the store, one transaction a file.

    name:        the collection, where all sources are one; else folders and files give the names
    card:        the datacard of the collection (and its name, unless `name` says otherwise); without sources, it also
                 says where they are
    cards:       a folder of further datacards; a collection with a card of its name gets its prompts
    format:      overrides what the content of the files looks like
    max_rejects: how many rows may be refused in all, as a number or a share ("1%"); then everything is one transaction,
                 and nothing is stored when there are more
    append:      what a changed file gave before stays; else it goes, unless another file gives it too

    Files that were stored as they are now are passed over, so a killed command goes on when called again. Raises
    `NothingStored` after all is done where a file had no row that could be stored; when called again it is tried again.
    """
    known = load_cards(None if cards is None else Path(cards).expanduser())
    chosen = card_for(card, known) if card is not None else None
    limit = RejectLimit.parse(max_rejects) if max_rejects is not None else None
    if name is None and chosen is not None:
        name = chosen.name
    units = discover(_sources(listed(sources), chosen), name, format=format)
    _check_names({unit.collection for unit in units} - read.names(store), given=name is not None)
    results: dict[str, IngestResult] = {}
    waiting: list[NewFile] = []
    failed: dict[str, Reasons] = {}

    def count(collection: str, files: int, unchanged: int, counts: FileCounts) -> None:
        old = results.get(collection, IngestResult(collection, 0, 0, FileCounts()))
        results[collection] = IngestResult(
            collection, old.files + files, old.unchanged + unchanged, old.counts + counts
        )

    def note(file: NewFile, stored: Stored) -> None:
        count(file.facts.collection, 1, 0, stored.counts)
        if stored.failed:
            failed[file.location] = stored.reasons

    for done, unit in enumerate(units):
        progress(done, len(units), unit.location)
        facts = _facts(unit.collection, chosen or known.get(unit.collection))
        # A file that was stored as one format may be read again as another. What counts is the user's word and not
        # the unit's format: to a file that is told by its content nothing is added.
        sha256 = sha256_of(unit) + (f":{format}" if format else "")
        if file_is_stored(store, unit.collection, sha256, _place(unit)):
            count(unit.collection, 1, 1, FileCounts())
            continue
        report = functools.partial(progress, done, len(units))
        new = NewFile(facts, unit.location, sha256, _batches(unit, report), _place(unit), append)
        if limit is None:
            note(new, add_files(store, [new])[0])
        else:
            waiting.append(new)
    for new, stored in zip(waiting, add_files(store, waiting, limit) if waiting else (), strict=True):
        note(new, stored)
    for collection in results:
        # Also for files that were stored before: a card given later counts.
        declare(store, _facts(collection, chosen or known.get(collection)))
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
    """The location in full: a path as it is from anywhere on this machine, links as they stand."""
    if not isinstance(unit.place, Path):
        return unit.location
    return os.path.abspath(unit.place)  # noqa: PTH100 - a link, as of a hub's cache, leads elsewhere when it changes


def _batches(unit: SourceUnit, report: Callable[[str], None]) -> Callable[[], Iterator[Batch]]:
    def batches() -> Iterator[Batch]:
        rows = 0
        for batch in build_batches(
            read_unit(unit), file=unit.location, language=unit.language, fingerprint=simhash_fingerprints
        ):
            yield batch
            rows += batch.rows_read
            report(f"{unit.location}  {rows:,} rows")

    return batches


def _sources(sources: Sequence[str], card: DataCard | None) -> list[str | HubSource]:
    """What the user named, or where the card says that the rows are."""
    if sources or card is None:
        return list(sources)
    at = card.source
    if at is None or at.hub_id == UNKNOWN:
        raise UsageError(f"datacard {card.name!r} does not say where its rows are; name files, a folder or a hub id")
    columns = {str(ours): theirs for ours, theirs in at.columns.items()}
    return [HubSource(at.hub_id, at.config, at.files, at.split, columns or None)]


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

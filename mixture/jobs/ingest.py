"""Ingest: files, folders and hub datasets into the store, one transaction a file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote as url_quote

from mixture.arguments import Name, Names, listed
from mixture.cards import UNKNOWN, DataCard, card_for, load_cards
from mixture.dedup import simhash_fingerprints
from mixture.errors import UsageError
from mixture.ingest.hub import HubSource
from mixture.ingest.normalise import build_batches
from mixture.ingest.sources import SourceUnit, discover
from mixture.ingest.units import read_unit, sha256_of
from mixture.jobs.contamination import matches, warn_of_test_rows
from mixture.progress import Progress, silent
from mixture.rows import Batch
from mixture.store import Store
from mixture.store.write import CollectionFacts, FileCounts, NewFile, RejectLimit, add_files, declare, file_is_stored


@dataclass(frozen=True)
class IngestResult:
    """What one collection got. `unchanged` counts files that were stored before, byte for byte."""

    collection: str
    files: int
    unchanged: int
    counts: FileCounts


def ingest(
    store: Store, sources: Names = (), *, name: str | None = None, card: str | None = None,
    cards: Name | None = None, format: str | None = None, max_rejects: str | None = None, progress: Progress = silent,
) -> list[IngestResult]:  # fmt: skip
    """Read files, folders or a folder of collections into the store, one transaction a file.

    name:        the collection, where all sources are one; else folders and files give the names
    card:        the datacard of the collection (and its name, unless `name` says otherwise); without sources, it also
                 says where they are
    cards:       a folder of further datacards; a collection with a card of its name gets its prompts
    format:      overrides what the content of the files looks like
    max_rejects: how many rows may be refused in all, as a number or a share ("1%"); then everything is one transaction,
                 and nothing is stored when there are more

    Files whose content the collection has are passed over, so a killed command goes on when called again.
    """
    known = load_cards(None if cards is None else Path(cards).expanduser())
    chosen = card_for(card, known) if card is not None else None
    limit = RejectLimit.parse(max_rejects) if max_rejects is not None else None
    units = discover(_sources(listed(sources), chosen), name or (chosen.name if chosen else None), format=format)
    for collection in {unit.collection for unit in units}:
        _check_name(collection)
    results: dict[str, IngestResult] = {}
    waiting: list[tuple[str, NewFile]] = []

    def count(collection: str, files: int, unchanged: int, counts: FileCounts) -> None:
        old = results.get(collection, IngestResult(collection, 0, 0, FileCounts()))
        results[collection] = IngestResult(
            collection, old.files + files, old.unchanged + unchanged, old.counts + counts
        )

    for done, unit in enumerate(units):
        progress(done, len(units), unit.location)
        facts = _facts(unit.collection, chosen or known.get(unit.collection))
        # A file that was stored as one format may be read again as another. What counts is the user's word and not
        # the unit's format: to a file that is told by its content nothing is added.
        sha256 = sha256_of(unit) + (f":{format}" if format else "")
        if file_is_stored(store, unit.collection, sha256):
            count(unit.collection, 1, 1, FileCounts())
            continue
        report = functools.partial(progress, done, len(units))
        new = NewFile(facts, unit.location, sha256, _batches(unit, report))
        if limit is None:
            count(unit.collection, 1, 0, add_files(store, [new])[0])
        else:
            waiting.append((unit.collection, new))
    if waiting:
        for (collection, _), counts in zip(waiting, add_files(store, [n for _, n in waiting], limit), strict=True):
            count(collection, 1, 0, counts)
    for collection in results:
        # Also for files that were stored before: a card given later counts.
        declare(store, _facts(collection, chosen or known.get(collection)))
    warn_of_test_rows(matches(store, results) if results else {})
    progress(len(units), len(units), "done")
    return list(results.values())


def _check_name(collection: str) -> None:
    """A collection's rows lie in a folder that has its name in URL form; file systems take 255 bytes."""
    if len(f"collection={url_quote(collection, safe='')}") > 255:
        raise UsageError(f"{collection[:30]!r}… is too long for a collection's name (244 letters or digits, 27 of most "
                         "other scripts); give one in `name`")  # fmt: skip


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

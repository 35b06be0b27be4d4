"""What is in a store: its collections, test suites, mixtures and runs, and what it takes on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mixture.registry.gc import size_of
from mixture.store import Store, read
from mixture.store.files import data_files
from mixture.store.surface import VIEWS

NEWEST = 5


@dataclass(frozen=True)
class CollectionStatus:
    """A collection today.

    languages:      examples by language, the most first
    with_negatives: examples that have some
    files:          those that it was read from
    taken_out:      examples by reason: duplicate, test query, test passage, replaced
    """

    collection: str
    examples: int
    languages: dict[str, int]
    with_negatives: int
    prompts: tuple[str, ...]
    card: str | None
    files: int
    rejected: int
    taken_out: dict[str, int]


@dataclass(frozen=True)
class Status:
    """A store today.

    suites:   registered test suites, with their numbers of queries
    mixtures: how many names and versions there are; `newest` of them as references
    runs:     by status
    disk:     bytes by folder of the store, and of its files where they are elsewhere
    removed:  collections that `remove(undo=True)` would bring back
    """

    store: str
    collections: list[CollectionStatus]
    suites: dict[str, int]
    mixtures: int
    newest: list[str]
    runs: dict[str, int]
    disk: dict[str, int]
    removed: list[str]


def status(store: Store) -> Status:
    """What is in the store, read at one snapshot."""
    with store.reading():
        collections = _collections(store)
        mixtures = store.rows("SELECT name || ':' || version AS reference FROM mixtures ORDER BY created_at DESC, name")
        return Status(
            store=str(store.catalog),
            collections=collections,
            suites=_counted(store, "SELECT suite AS key, count(*) AS n FROM test_queries GROUP BY ALL ORDER BY ALL"),
            mixtures=len(mixtures),
            newest=[row["reference"] for row in mixtures[:NEWEST]],
            runs=_counted(store, "SELECT status AS key, count(*) AS n FROM runs GROUP BY ALL ORDER BY ALL"),
            disk=_disk(store),
            removed=[row["collection"] for row in store.rows(
                """SELECT collection FROM collection_changes WHERE change = 'remove' AND snapshot_before =
                   (SELECT max(snapshot_before) FROM collection_changes WHERE change = 'remove') ORDER BY ALL"""
            )],
        )  # fmt: skip


def _disk(store: Store) -> dict[str, int]:
    found = {path.name: size_of(path) for path in sorted(store.work.iterdir()) if path.exists()}
    if "data" not in found:  # it is elsewhere
        found["data"] = sum(file.num_bytes for file in data_files(store))
    return dict(sorted(found.items()))


def _collections(store: Store) -> list[CollectionStatus]:
    languages = _by_collection(store.rows(
        f"""SELECT collection, language AS key, num_examples AS n FROM ({VIEWS["collection_languages"].sql})
            ORDER BY n DESC, key"""
    ))  # fmt: skip
    taken_out = _by_collection(
        store.rows("SELECT collection, reason AS key, count(*) AS n FROM removals GROUP BY ALL ORDER BY ALL")
    )
    files, rejected = (
        _counted(store, f"SELECT collection AS key, {what} AS n FROM {table} GROUP BY ALL")
        for table, what in (("sources", "count(DISTINCT file)"), ("rejects", "count(*)"))
    )
    return [
        CollectionStatus(
            collection=info.collection,
            examples=info.num_examples,
            languages=languages.get(info.collection, {}),
            with_negatives=info.num_with_negatives,
            prompts=info.prompts,
            card=info.card,
            files=files.get(info.collection, 0),
            rejected=rejected.get(info.collection, 0),
            taken_out=taken_out.get(info.collection, {}),
        )
        for info in read.collections(store)
    ]


def _by_collection(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["collection"], {})[row["key"]] = row["n"]
    return found


def _counted(store: Store, query: str) -> dict[str, Any]:
    return {row["key"]: row["n"] for row in store.rows(query)}

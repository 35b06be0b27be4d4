"""The data side's jobs over a store: ingest, deduplication, decontamination, mining. What the command line calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mixture.cards import DataCard, card_for, load_cards
from mixture.dedup import find_contaminated, find_duplicates, read_test_queries, simhash_fingerprints
from mixture.errors import UsageError
from mixture.ingest.normalise import build_batches
from mixture.ingest.read import read_file
from mixture.ingest.sources import SourceFile, discover
from mixture.mining import MiningPool, MiningSettings, mine_bm25, mine_dense
from mixture.mining.dense import Encode
from mixture.store import Store, read
from mixture.store.write import (
    CollectionFacts,
    FileCounts,
    add_file,
    add_negatives,
    add_test_queries,
    declare,
    file_is_stored,
    remove_examples,
)

# Called with (units done, units in all, what is being worked on).
Progress = Callable[[int, int, str], None]
KEYS = ("pair", "query")
SEPARATOR = "\x1f"


def _silent(done: int, total: int, what: str) -> None:
    return None


@dataclass(frozen=True)
class IngestResult:
    """What one collection got. `unchanged` counts files that were stored before, byte for byte."""

    collection: str
    files: int
    unchanged: int
    counts: FileCounts


def ingest(
    store: Store, sources: Sequence[str], *, name: str | None = None, card: str | None = None,
    cards: Path | None = None, progress: Progress = _silent,
) -> list[IngestResult]:  # fmt: skip
    """Read files, folders or a folder of collections into the store, one transaction a file.

    name:  the collection, where all sources are one; else folders and files give the names
    card:  the datacard of the collection (and its name, unless `name` says otherwise)
    cards: a folder of further datacards; a collection with a card of its name gets its prompts

    Files whose content the collection has are passed over, so a killed command goes on when called again.
    """
    known = load_cards(cards)
    chosen = card_for(card, known) if card is not None else None
    files = discover(list(sources), name or (chosen.name if chosen else None))
    results: dict[str, IngestResult] = {}
    for done, file in enumerate(files):
        progress(done, len(files), str(file.path))
        old = results.get(file.collection, IngestResult(file.collection, 0, 0, FileCounts()))
        facts = _facts(file.collection, chosen or known.get(file.collection))
        counts = _ingest_file(store, file, facts)
        results[file.collection] = IngestResult(
            file.collection, old.files + 1, old.unchanged + (counts is None), old.counts + (counts or FileCounts())
        )
    for collection in results:
        # Also for files that were stored before: a card given later counts.
        declare(store, _facts(collection, chosen or known.get(collection)))
    progress(len(files), len(files), "done")
    return list(results.values())


def _facts(collection: str, card: DataCard | None) -> CollectionFacts:
    if card is None:
        return CollectionFacts(collection)
    return CollectionFacts(collection, card.name, card.prompts, card.symmetric)


def _ingest_file(store: Store, file: SourceFile, facts: CollectionFacts) -> FileCounts | None:
    with file.path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if file_is_stored(store, file.collection, sha256):
        return None
    return add_file(
        store,
        facts,
        str(file.path),
        sha256,
        lambda: build_batches(
            read_file(file.path), file=str(file.path), language=file.language, fingerprint=simhash_fingerprints
        ),
    )


@dataclass(frozen=True)
class RemovalResult:
    """How many examples a collection had, and how many were taken out."""

    collection: str
    examples: int
    removed: int


def dedup(
    store: Store, names: Sequence[str] = (), *, method: str = "simhash", distance: int = 3, key: str = "pair",
    progress: Progress = _silent,
) -> list[RemovalResult]:  # fmt: skip
    """Take near-equal examples out of each collection; the smallest example id of a group stays.

    key: `query` compares queries; `pair` also wants the positives near-equal, so that one question with two different
    answers stays twice.
    """
    if key not in KEYS:
        raise UsageError(f"key {key!r}; allowed: {', '.join(KEYS)}")
    infos = read.collections(store, names)
    results = []
    for done, info in enumerate(infos):
        progress(done, len(infos), info.collection)
        removals = _duplicates(store, info.collection, method, distance, key)
        removed = remove_examples(store, removals) if removals.num_rows else 0
        results.append(RemovalResult(info.collection, info.num_examples, removed))
    progress(len(infos), len(infos), "done")
    return results


def _duplicates(store: Store, collection: str, method: str, distance: int, key: str) -> pa.Table:
    pairs = read.pairs(store, collection)
    ids, queries = pairs["example_id"].to_pylist(), pairs["query"].to_pylist()
    group = _keepers(queries, ids, method, distance)
    if key == "pair":
        texts = read.passages(store, collection)
        keeper = _keepers(texts["text"].to_pylist(), texts["passage_id"].to_pylist(), method, distance)
        positives = [tuple(sorted({keeper[p] for p in row})) for row in pairs["positives"].to_pylist()]
    else:
        positives = [()] * len(ids)
    # ids come in ascending order, so the first of a group is its smallest.
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    kept = np.array([first.setdefault((group[i], positives[n]), n) for n, i in enumerate(ids)], dtype=np.int64)
    gone = np.flatnonzero(kept != np.arange(len(ids)))
    prints = simhash_fingerprints(queries)
    bits = np.bitwise_count(prints[gone] ^ prints[kept[gone]]).astype(np.int32) if len(gone) else []
    return pa.table(
        {
            "collection": pa.array([collection] * len(gone), pa.string()),
            "example_id": pa.array([ids[n] for n in gone], pa.string()),
            "reason": pa.array(["duplicate"] * len(gone), pa.string()),
            "kept_collection": pa.array([collection] * len(gone), pa.string()),
            "kept_id": pa.array([ids[kept[n]] for n in gone], pa.string()),
            "kept_query": pa.array([queries[kept[n]] for n in gone], pa.string()),
            "distance": pa.array(bits, pa.int32()),
        }
    )


def _keepers(texts: list[str], ids: list[str], method: str, distance: int) -> dict[str, str]:
    """For each id the id that stands for its group of near-equal texts."""
    found = find_duplicates(texts, ids, method=method, distance=distance)
    return dict(zip(ids, ids, strict=True)) | dict(
        zip(found["removed"].to_pylist(), found["kept"].to_pylist(), strict=True)
    )


def register_test_queries(store: Store, path: Path) -> list[str]:
    """Read a list of test queries, or a suite in BEIR layout, into the store. Returns the names of its suites."""
    queries = read_test_queries(path).select(["suite", "query_id", "query"])
    prints = simhash_fingerprints(queries["query"])
    add_test_queries(store, queries.append_column("simhash", pa.array(prints, pa.uint64())))
    return sorted(set(queries["suite"].to_pylist()))


def decontaminate(
    store: Store, against: Sequence[str], names: Sequence[str] = (), *, distance: int = 3, progress: Progress = _silent
) -> list[RemovalResult]:
    """Take out training examples whose query is a test query, or nearly.

    against: files and folders of test queries (they are registered in the store under their suites' names), or names
    of suites registered before.
    """
    infos = read.collections(store, names)
    suites: list[str] = []
    for done, given in enumerate(against):
        progress(done, len(against) + 1, given)
        path = Path(given).expanduser()
        suites += register_test_queries(store, path) if path.exists() else [given]
    tests = read.test_queries(store, suites)
    progress(len(against), len(against) + 1, f"{tests.num_rows:,} test queries")
    ids: list[str] = []
    queries: list[str] = []
    for info in infos:
        table = read.queries(store, info.collection)
        ids += [info.collection + SEPARATOR + i for i in table["example_id"].to_pylist()]
        queries += table["query"].to_pylist()
    found = find_contaminated(queries, ids, tests, distance=distance).to_pylist()
    rows = [
        {"collection": c, "example_id": e, "reason": "test query", "suite": hit["suite"], "query_id": hit["query_id"],
         "kept_query": hit["test_query"], "distance": hit["distance"]}
        for hit in found
        for c, e in [hit["removed"].split(SEPARATOR)]
    ]  # fmt: skip
    if rows:
        remove_examples(store, pa.Table.from_pylist(rows))
    progress(len(against) + 1, len(against) + 1, "done")
    return [
        RemovalResult(i.collection, i.num_examples, sum(row["collection"] == i.collection for row in rows))
        for i in infos
    ]


@dataclass(frozen=True)
class MiningResult:
    """How many examples of a collection got how many negatives. `filled` of them are random passages."""

    collection: str
    examples: int
    negatives: int
    filled: int


def mine(
    store: Store, names: Sequence[str] = (), *, miner: str = "bm25", encode: Encode | None = None, per_query: int = 8,
    seed: int = 42, progress: Progress = _silent,
) -> list[MiningResult]:  # fmt: skip
    """Find hard negatives within each collection.

    Without `names`, for every example that has no negatives; the rest stays as it is. With `names`, for every example
    of those collections, in place of what this miner found before.

    miner:  recorded with the negatives; "bm25", or a model's name together with `encode`
    """
    # Another passage's cosine is a share of the positive's; its BM25 score is not (arXiv 2407.15831).
    settings = MiningSettings(per_query=per_query, seed=seed, max_ratio=None if encode is None else 0.95)
    infos = read.collections(store, names)
    todo = infos if names else [i for i in infos if i.num_with_negatives < i.num_examples]
    results = []
    for done, info in enumerate(todo):
        progress(done, len(todo), info.collection)
        pairs = read.pairs(store, info.collection, without_negatives=not names)
        texts = read.passages(store, info.collection)
        pool = MiningPool.build(
            pairs["example_id"].to_pylist(),
            pairs["query"].to_pylist(),
            pairs["positives"].to_pylist(),
            texts["passage_id"].to_pylist(),
            [f"{title} {text}" if title else text for title, text in zip(
                texts["title"].to_pylist(), texts["text"].to_pylist(), strict=True)],
        )  # fmt: skip

        def report(n: int, total: int, name: str = info.collection, place: int = done) -> None:
            progress(place, len(todo), f"{name} {n:,}/{total:,}")

        if encode is None:
            found = mine_bm25(pool, settings, progress=report)
        else:
            found = mine_dense(pool, encode, settings, miner=miner, progress=report)
        add_negatives(store, info.collection, found, replace=[miner, "random"] if names else [])
        filled = found["miner"].to_pylist().count("random")
        results.append(MiningResult(info.collection, pairs.num_rows, found.num_rows, filled))
    progress(len(todo), len(todo), "done")
    return results

"""What is taken out of collections again: near-duplicates, and examples whose query is a test query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mixture.dedup import find_contaminated, find_duplicates, read_test_queries, simhash_fingerprints
from mixture.dedup.decontaminate import DEFAULT_DISTANCE
from mixture.errors import UsageError
from mixture.store import Store, read
from mixture.store.write import add_test_queries, remove_examples
from mixture.terminal import Progress, silent

KEYS = ("pair", "query")
SEPARATOR = "\x1f"


@dataclass(frozen=True)
class RemovalResult:
    """How many examples a collection had, and how many were taken out."""

    collection: str
    examples: int
    removed: int


def dedup(
    store: Store, names: Sequence[str] = (), *, method: str = "simhash", distance: int = 3, key: str = "pair",
    progress: Progress = silent,
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
    store: Store, against: Sequence[str], names: Sequence[str] = (), *, distance: int = DEFAULT_DISTANCE,
    progress: Progress = silent,
) -> list[RemovalResult]:  # fmt: skip
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

"""Examples that are in a test set are taken out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from mixture.arguments import Names, listed
from mixture.dedup import find_contaminated, simhash_fingerprints
from mixture.dedup.containment import find_contained
from mixture.dedup.decontaminate import DEFAULT_DISTANCE
from mixture.dedup.methods import PART_ROWS
from mixture.engine import Engine, engine_of
from mixture.errors import UsageError
from mixture.jobs.removals import TEST_PASSAGE, TEST_QUERY, RemovalResult, take_out
from mixture.jobs.tasks import Snapshot
from mixture.progress import Progress, silent
from mixture.store import Store, read
from mixture.store.write import add_test_suites
from mixture.suites.lists import check_suite_names, read_test_passages, read_test_queries

REMOVALS = pa.schema(
    [("collection", pa.string()), ("example_id", pa.string()), ("reason", pa.string()), ("suite", pa.string()),
     ("query_id", pa.string()), ("kept_query", pa.string()), ("distance", pa.int32()), ("similarity", pa.float64())]
)  # fmt: skip


def decontaminate(
    store: Store, against: Names, collections: Names = (), *, distance: int = DEFAULT_DISTANCE, dry_run: bool = False,
    engine: str | Engine = "local", progress: Progress = silent,
) -> list[RemovalResult]:  # fmt: skip
    """Take out examples whose query is a test query, or nearly, and those with a positive that holds most of a test
    passage.

    against:     files and folders of test queries (they are registered in the store under their suites' names), or
                 names of suites registered before. Suites in BEIR layout bring the passages that their judgements call
                 relevant
    collections: default: all
    distance:    most edits between a query and a test query, 0 to 64; see `find_contaminated`
    dry_run:     only say which examples would go
    engine:      what runs the tasks, one a collection: a name of `ENGINES`, or an `Engine`
    """
    against, names = listed(against), listed(collections)
    if not against:
        raise UsageError("name the test queries: `against` takes files, folders and suites, one or several")
    runs = engine_of(engine)
    total = len(against) + len(read.collections(store, names))
    paths = {given: Path(given).expanduser() for given in against}
    lists = {given: read_test_queries(path) for given, path in paths.items() if path.exists()}
    check_suite_names({paths[given]: queries for given, queries in lists.items()})
    suites: list[str] = []
    for done, given in enumerate(against):
        progress(done, total, given)
        suites += _register(store, paths[given], lists[given]) if given in lists else [given]
    with store.reading() as snapshot:
        infos = read.collections(store, names)
        queries, passages = read.test_queries(store, suites), read.test_passages(store, suites)

        def tasks() -> Iterator[str]:
            for done, info in enumerate(infos, start=len(against)):
                progress(done, total, info.collection)
                yield info.collection

        source = Snapshot(store.catalog, snapshot, store)
        work = partial(_contaminated, source, queries=queries, passages=passages, distance=distance)
        contaminated = list(runs.map(work, tasks()))
    results = take_out(store, infos, contaminated, snapshot, dry_run)
    progress(total, total, "done")
    return results


def _register(store: Store, path: Path, queries: pa.Table) -> list[str]:
    """Register test queries that were read from `path`, with the passages of suites in BEIR layout. Returns the names
    of the suites."""
    queries = queries.select(["suite", "query_id", "query"])
    prints = simhash_fingerprints(queries["query"])
    passages = read_test_passages(path) if path.is_dir() else None
    add_test_suites(store, queries.append_column("simhash", pa.array(prints, pa.uint64())), passages)
    return sorted(set(queries["suite"].to_pylist()))


def _contaminated(
    source: Snapshot, collection: str, *, queries: pa.Table, passages: pa.Table, distance: int
) -> pa.Table:
    with source.opened() as store:
        train = read.queries(store, collection)
        by_query = find_contaminated(train["query"], train["example_id"], queries, distance=distance)
        rows = {
            hit["removed"]: {"reason": TEST_QUERY, "suite": hit["suite"], "query_id": hit["query_id"],
                             "kept_query": hit["test_query"], "distance": hit["distance"],
                             "similarity": hit["similarity"]}
            for hit in by_query.to_pylist()
        }  # fmt: skip
        if passages.num_rows:
            hits = _containing(store, collection, passages)
            links = read.positives_of(store, [collection])
            for example, passage in zip(links["example_id"].to_pylist(), links["passage_id"].to_pylist(), strict=True):
                if passage in hits:
                    rows.setdefault(example, hits[passage])
    return pa.Table.from_pylist(
        [{"collection": collection, "example_id": example, **why} for example, why in sorted(rows.items())],
        schema=REMOVALS,
    )


def _containing(store: Store, collection: str, passages: pa.Table) -> dict[str, dict[str, object]]:
    """Why each positive that holds most of a test passage goes, by passage id."""
    rows = read.positive_prints(store, [collection])
    reasons: dict[str, dict[str, object]] = {}
    for start in range(0, rows.num_rows, PART_ROWS):
        part = rows.slice(start, PART_ROWS)
        texts = read.texts_of(store, "positive", part)
        for hit in find_contained(texts, part["id"], passages).to_pylist():
            reasons[hit["removed"]] = {
                "reason": TEST_PASSAGE, "suite": hit["suite"], "query_id": hit["doc_id"],
                "kept_query": hit["test_passage"], "distance": None, "similarity": hit["share"],
            }  # fmt: skip
    return reasons

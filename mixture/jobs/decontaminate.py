"""Examples that are in a test set are taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture.arguments import Names, listed
from mixture.dedup import simhash_fingerprints
from mixture.dedup.containment import DEFAULT_SHARE
from mixture.engine import Engine
from mixture.errors import UsageError
from mixture.jobs.contamination import matching_examples, rules_of
from mixture.jobs.removals import TEST_PASSAGE, TEST_QUERY, RemovalResult, take_out
from mixture.jobs.tasks import Snapshot, engine_for
from mixture.progress import Progress, silent
from mixture.store import Store, read, registered
from mixture.suites.given import is_named, known_names
from mixture.suites.lists import TEST_PASSAGES, check_suite_names, read_test_passages, read_test_queries
from mixture.suites.matches import Rule, TestSets

QUERIES = pa.schema([("suite", pa.string()), ("query_id", pa.string()), ("query", pa.string())])
ROWS = pa.schema([("collection", pa.string()), ("id", pa.string())])
REMOVALS = pa.schema(
    [("collection", pa.string()), ("example_id", pa.string()), ("reason", pa.string()), ("suite", pa.string()),
     ("query_id", pa.string()), ("kept_query", pa.string()), ("distance", pa.int32()), ("similarity", pa.float64()),
     ("query", pa.string()), ("positive", pa.string())]
)  # fmt: skip


def decontaminate(
    store: Store, against: Names = (), collections: Names = (), *, distance: int | None = None,
    passages: bool | None = None, passage_overlap: float | None = None, dry_run: bool = False,
    engine: str | Engine = "local", progress: Progress = silent,
) -> list[RemovalResult]:  # fmt: skip
    """Take out examples whose query is a test query, or nearly, and those with a positive that holds most of a test
    passage.

    against:     files and folders of test queries and names of benchmarks' suites, which are registered in the store
                 under their suites' names, or names of suites registered before; default: all of these. Suites bring
                 the passages that their judgements call relevant
    collections: default: all
    distance:    most edits between a query and a test query, 0 to 64; see `find_contaminated`
    passages:    whether test passages are looked for
    passage_overlap: least share of a test passage's n-grams that a positive holds, above 0 to 1; see `find_contained`
    dry_run:     only say which examples would go; registers nothing
    engine:      what runs the tasks, one a collection: a name of `ENGINES`, or an `Engine`

    How near a row must be is kept with each suite: it is what `ingest`, `create` and training go by afterwards, and
    where a suite is named again the default. For files and folders the default is 16 edits and a share of 0.5.
    """
    given, names = listed(against), listed(collections)
    change = _change(distance, passages, passage_overlap)
    runs = engine_for(store, engine)
    total = len(given) + len(read.collections(store, names))
    tests = _test_sets(store, given, change, dry_run, lambda done, path: progress(done, total, path))
    with store.reading() as snapshot:
        infos = read.collections(store, names)

        def tasks() -> Iterator[str]:
            for done, info in enumerate(infos, start=len(given)):
                progress(done, total, info.collection)
                yield info.collection

        work = partial(_contaminated, Snapshot(store.catalog, snapshot, store), tests=tests)
        contaminated = list(runs.map(work, tasks()))
    results = take_out(store, infos, contaminated, snapshot, dry_run)
    progress(total, total, "done")
    return results


def unregister(store: Store, suites: Names) -> list[str]:
    """Unregister test suites: their rows count as any others from then on. What was taken out stays out; `undo` puts it
    back. Returns the suites' names; an unknown one is a `UsageError`."""
    names = listed(suites)
    registered.forget_suites(store, names)
    return names


def _change(distance: int | None, passages: bool | None, passage_overlap: float | None) -> dict[str, Any]:
    """What the caller says of the rule, by field of `Rule`."""
    if passages is False and passage_overlap is not None:
        raise UsageError(
            "test passages are not looked for, so `passage_overlap` says nothing; leave one of the two away"
        )
    change: dict[str, Any] = {} if distance is None else {"distance": distance}
    if passages is not None or passage_overlap is not None:
        share = DEFAULT_SHARE if passage_overlap is None else passage_overlap
        change["passage_overlap"] = None if passages is False else share
    Rule(**change)  # a wrong value is refused before anything is read
    return change


def _test_sets(
    store: Store, against: Sequence[str], change: Mapping[str, Any], dry_run: bool,
    progress: Callable[[int, str], None],
) -> TestSets:  # fmt: skip
    """The suites that are meant, those that are not registered read and registered."""
    paths = {given: Path(given).expanduser() for given in against}
    known = rules_of(registered.test_suites(store))
    lists = {given: read_test_queries(path) for given, path in paths.items()
             if path.exists() or (given not in known and is_named(given))}  # fmt: skip
    check_suite_names({paths[given]: queries for given, queries in lists.items()})
    if not against and not known:
        raise UsageError("no test suite is registered yet; `against` takes files, folders and suites, one or several")
    named = [given for given in against if given not in lists]
    registered.check_registered(store, named, others=known_names())
    rules: dict[str, Rule] = {}
    tables = []
    for done, (given, found) in enumerate(lists.items()):
        progress(done, given)
        queries, passages = found.select(["suite", "query_id", "query"]), TEST_PASSAGES.empty_table()
        if not paths[given].is_file():
            passages = read_test_passages(paths[given])
        own = dict.fromkeys(sorted(set(queries["suite"].to_pylist())), replace(Rule(), **change))
        if not dry_run:
            prints = pa.array(simhash_fingerprints(queries["query"]), pa.uint64())
            registered.add_test_suites(store, queries.append_column("simhash", prints), passages, _rows(own))
        tables.append((queries, passages))
        rules |= own
    suites = [suite for suite in (named if against else known) if suite not in rules]
    stored = {suite: replace(known[suite], **change) for suite in suites}
    changed = {suite: rule for suite, rule in stored.items() if rule != known[suite]}
    if changed and not dry_run:
        registered.set_rules(store, _rows(changed))
    if suites:
        tables.append((registered.test_queries(store, suites), registered.test_passages(store, suites)))
    queries, passages = (
        pa.concat_tables([pair[place].select(schema.names).cast(schema) for pair in tables])
        for place, schema in enumerate((QUERIES, TEST_PASSAGES))
    )
    return TestSets(queries, passages, rules | stored)


def _rows(rules: Mapping[str, Rule]) -> pa.Table:
    rows = [{"suite": suite, "distance": rule.distance, "passage_overlap": rule.passage_overlap}
            for suite, rule in rules.items()]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=registered.RULES)


def _contaminated(source: Snapshot, collection: str, *, tests: TestSets) -> pa.Table:
    with source.opened() as store:
        found = matching_examples(store, collection, tests)
        rows = pa.table({"collection": [collection] * len(found), "id": list(found)}, schema=ROWS)
        queries = read.texts_of(store, "query", rows).to_pylist()
    return pa.Table.from_pylist(
        [
            {"collection": collection, "example_id": example, "reason": TEST_QUERY if held is None else TEST_PASSAGE,
             "suite": match.suite, "query_id": match.id, "kept_query": match.text, "distance": match.distance,
             "similarity": match.similarity, "query": query, "positive": held}
            for (example, (match, held)), query in zip(found.items(), queries, strict=True)
        ],
        schema=REMOVALS,
    )  # fmt: skip

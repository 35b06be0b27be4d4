"""Rows of registered test suites among the training rows: how many there are, whatever way they came in.

`decontaminate` registers a suite and takes its rows out. They may come back: under another collection's name, in a file
that was edited, by an undo. Who adds rows, or trains on them, asks here.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from mixture.arguments import Names, listed
from mixture.dedup.methods import PART_ROWS
from mixture.errors import StoreError, UsageError
from mixture.materialised import ComponentData
from mixture.specs import Component, Part
from mixture.store import Store, files, layout, read, registered
from mixture.store.materialise import versions
from mixture.suites.matches import Match, Rule, TestSets

Matches: TypeAlias = dict[str, dict[str, int]]
"""How many examples match which suite, by collection; without what has none."""

logger = logging.getLogger(__name__)


def matches(store: Store, collections: Names = ()) -> Matches:
    """How many examples of each collection (default: all) match a registered suite, by collection and suite.

    An example counts once, for the suite that it is nearest to. Exact; what was counted is kept in the store's folder
    until the collection's content or the suites change.
    """
    with store.reading():
        names = [info.collection for info in read.collections(store, listed(collections))]
        if not registered.test_suites(store).num_rows:
            return {}
        return matches_of(store, [Component(name, read.digest(store, Part(name)), 0.0) for name in names])


def matches_of(store: Store, components: Iterable[Component]) -> Matches:
    """`matches` of the contents that a mixture pins, by component. A content that neither the store has or had nor is
    materialised is passed over: it cannot be trained on either."""
    with store.reading():
        suites = registered.test_suites(store)
        if not suites.num_rows:
            return {}
        key = registered.suites_key(suites)
        known = _known(store, key)
        missing = [component for component in components if component.digest not in known]
        if missing:
            tests = test_sets(store, rules_of(suites))
            found = {c.digest: counts for c in missing if (counts := _counted(store, c, tests)) is not None}
            known |= found
            _keep(store, key, found)
    return {c.name: known[c.digest] for c in components if known.get(c.digest)}


def lines(found: Matches) -> list[str]:
    """Matches for people, a line a collection."""
    totals = {name: sum(suites.values()) for name, suites in found.items()}
    return [
        f"{total:,} row{'s' * (total > 1)} of {name} match{'es' * (total == 1)} {_suites(found[name])}"
        for name, total in totals.items()
    ]


def warn_of_test_rows(found: Matches) -> None:
    """Log a warning for each collection, or component of a mixture, that has rows of a registered suite."""
    for line in lines(found):
        logger.warning("%s; take them out with `mixture decontaminate`", line)


def refuse_test_rows(store: Store, components: Iterable[Component]) -> None:
    """Raise `UsageError` where a component has rows of a registered suite."""
    if found := lines(matches_of(store, components)):
        raise UsageError(
            f"test data in the mixture: {'; '.join(found)}. Take it out with `mixture decontaminate`, or give "
            "`allow_contaminated`"
        )


def test_sets(store: Store, rules: Mapping[str, Rule]) -> TestSets:
    """Registered suites by these rules."""
    suites = list(rules)
    return TestSets(registered.test_queries(store, suites), registered.test_passages(store, suites), rules)


def rules_of(suites: pa.Table) -> dict[str, Rule]:
    """The rules in rows of `test_suites`."""
    return {row["suite"]: Rule(row["distance"], row["passage_overlap"]) for row in suites.to_pylist()}


def matching_examples(store: Store, collection: str, tests: TestSets) -> dict[str, tuple[Match, str | None]]:
    """The examples of a stored collection that match, each with what it matches and, where that is a test passage, the
    positive that holds it; in order of their ids. A query that matches goes before a positive that does."""
    train = read.queries(store, collection)
    ids = train["example_id"].to_pylist()
    found: dict[str, tuple[Match, str | None]] = {
        ids[row]: (match, None) for row, match in tests.match_queries(train["query"]).items()
    }
    hits = dict(_matching_positives(store, collection, tests)) if tests.has_passages else {}
    if hits:
        links = read.positives_of(store, [collection])
        for example, passage in zip(links["example_id"].to_pylist(), links["passage_id"].to_pylist(), strict=True):
            if passage in hits:
                found.setdefault(example, hits[passage])
    return dict(sorted(found.items()))


def _matching_positives(store: Store, collection: str, tests: TestSets) -> Iterator[tuple[str, tuple[Match, str]]]:
    rows = read.positive_prints(store, [collection])
    for start in range(0, rows.num_rows, PART_ROWS):
        part = rows.slice(start, PART_ROWS)
        texts = read.texts_of(store, "positive", part)
        for row, match in tests.match_passages(texts).items():
            yield part["id"][row].as_py(), (match, texts[row].as_py())


def _counted(store: Store, component: Component, tests: TestSets) -> dict[str, int] | None:
    """How many examples of a content match, by suite; None where it is nowhere to be read."""
    part = component.part
    folder = layout.component(layout.materialised(store.work), component.digest)
    if part.collection in read.names(store) and read.digest(store, part) == component.digest:
        suites = _stored(store, component, tests)
    elif folder.is_dir():
        suites = _materialised(ComponentData(folder), tests)
    else:
        for version in versions(store, component):
            with suppress(StoreError), files.at_version(store, version, part.selection) as old:
                if files.digest(old, part) == component.digest:
                    suites = _stored(old, component, tests)
                    break
        else:
            return None
    return dict(sorted(Counter(suites).items()))


def _stored(store: Store, component: Component, tests: TestSets) -> list[str]:
    """The suites that the examples of a content of the store match."""
    found = matching_examples(store, component.collection, tests)
    if component.selection is not None:
        chosen = store.read("SELECT example_id FROM selected_examples WHERE selection = ?", [component.selection])
        found = {example: found[example] for example in chosen["example_id"].to_pylist() if example in found}
    return [match.suite for match, _ in found.values()]


def _materialised(data: ComponentData, tests: TestSets) -> list[str]:
    """The suites that the examples of a materialised content match."""
    found = {row: match.suite for row, match in tests.match_queries(data.queries()).items()}
    positives = data.positives()
    if tests.has_passages:
        rows = np.unique(positives.values).tolist()
        hits = {rows[place]: match for place, match in tests.match_passages([data.passage(r) for r in rows]).items()}
        for example in range(data.num_examples) if hits else ():
            for passage in positives.values[positives.offsets[example] : positives.offsets[example + 1]].tolist():
                if passage in hits:
                    found.setdefault(example, hits[passage].suite)
    return list(found.values())


def _suites(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return f"the registered suite {next(iter(counts))}"
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{suite} {rows:,}" for suite, rows in most[:5])
    return f"registered suites ({named}{', …' if len(most) > 5 else ''})"


def _known(store: Store, key: str) -> dict[str, dict[str, int]]:
    """What was counted against these suites, by digest of the content. A damaged file counts as none."""
    with suppress(OSError, ValueError):
        return dict(json.loads(layout.matches(store.work, key).read_text("utf-8")))
    return {}


def _keep(store: Store, key: str, found: Mapping[str, Mapping[str, int]]) -> None:
    """Keep counts; where the folder cannot be written to, they are counted again another time."""
    file = layout.matches(store.work, key)
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}{layout.SCRATCH}")
        scratch.write_text(json.dumps(_known(store, key) | dict(found)), "utf-8")
        scratch.replace(file)

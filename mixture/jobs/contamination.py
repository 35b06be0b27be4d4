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
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixture.arguments import Names, listed
from mixture.dedup.methods import PART_ROWS
from mixture.errors import StoreError, UsageError
from mixture.materialised import ComponentData
from mixture.specs import Component, Part
from mixture.store import Store, files, layout, read, registered
from mixture.store.materialise import versions
from mixture.store.parts import text_parts, texts_in
from mixture.suites.matches import Match, Rule, TestSets, nearness

Matches: TypeAlias = dict[str, dict[str, int]]
"""How many examples match which suite, by collection; without what has none."""

QUERY, PASSAGE = "query", "passage"
logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """A training row that matches a suite: by which kind of text, and which of the suite's."""

    suite: str
    kind: str
    test_id: str
    example_id: str


@dataclass(frozen=True)
class Found:
    """What of test sets is in a content.

    nearest: how many examples match, each counted once, for the suite that it is nearest to
    rows:    all matches: of each suite by itself, each text by the suite's nearest
    """

    nearest: dict[str, int]
    rows: list[Row]


class Hits(NamedTuple):
    """The texts of a content that match, by example: queries, and positives with what they match."""

    queries: dict[str, tuple[str, Match]]
    positives: dict[str, list[tuple[str, Match]]]

    def of(self, examples: Iterable[str]) -> Hits:
        """Those of some examples."""
        chosen = set(examples)
        return Hits({e: hit for e, hit in self.queries.items() if e in chosen},
                    {e: hits for e, hits in self.positives.items() if e in chosen})  # fmt: skip

    def nearest(self) -> dict[str, tuple[Match, str | None]]:
        """`matching_examples` of these."""
        found: dict[str, tuple[Match, str | None]] = {e: (match, None) for e, (_, match) in self.queries.items()}
        for example, held in self.positives.items():
            text, match = min(held, key=lambda hit: nearness(hit[1]))
            found.setdefault(example, (match, text))
        return dict(sorted(found.items()))


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
        found = found_in(store, components, suites)
    return {c.name: found[c.digest].nearest for c in components if c.digest in found and found[c.digest].nearest}


def found_in(
    store: Store, components: Iterable[Component], suites: pa.Table, tests: TestSets | None = None
) -> dict[str, Found]:  # fmt: skip
    """What of test sets is in the contents of components, by digest, without contents that cannot be read.

    suites: as `registered.test_suites` gives it; tests: their texts, where they are not registered
    """
    key = registered.suites_key(suites)
    known = _known(store, key)
    missing = [component for component in components if component.digest not in known]
    if missing:
        tests = tests or test_sets(store, rules_of(suites))
        found = {c.digest: rows for c in missing if (rows := _found(store, c, tests)) is not None}
        known |= found
        _keep(store, key, found)
    return known


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
    queries = registered.test_queries(store, suites).select(["suite", "query_id", "query"])
    return TestSets(queries if suites else queries.slice(0, 0), registered.test_passages(store, suites), rules)


def rules_of(suites: pa.Table) -> dict[str, Rule]:
    """The rules in rows of `test_suites`."""
    return {row["suite"]: Rule(row["distance"], row["passage_overlap"]) for row in suites.to_pylist()}


def matching_examples(store: Store, collection: str, tests: TestSets) -> dict[str, tuple[Match, str | None]]:
    """The examples of a stored collection that match, each with what it matches and, where that is a test passage, the
    positive that holds it; in order of their ids. A query that matches goes before a positive that does."""
    return _hits(store, collection, tests).nearest()


def matches_by_suite(tests: TestSets, kind: str, texts: Mapping[str, list[str]]) -> list[Row]:
    """The matches of each suite by itself in texts of examples, all of one kind."""
    pairs = [(example, text) for example, own in texts.items() for text in own]
    rows = []
    for suite in tests.rules if pairs else ():
        own = tests.of(suite)
        search = own.match_queries if kind == QUERY else own.match_passages
        found = search([text for _, text in pairs])
        rows += [Row(suite, kind, match.id, pairs[row][0]) for row, match in found.items()]
    return rows


def _hits(store: Store, collection: str, tests: TestSets) -> Hits:
    train = read.queries(store, collection)
    ids, texts = train["example_id"], train["query"]
    queries = {ids[row].as_py(): (texts[row].as_py(), match) for row, match in tests.match_queries(texts).items()}
    held = dict(_matching_positives(store, collection, tests)) if tests.has_passages else {}
    positives: dict[str, list[tuple[str, Match]]] = {}
    if held:
        links = read.positives_of(store, [collection], answers=True)
        links = links.filter(pc.is_in(links["passage_id"], pa.array(list(held), links["passage_id"].type)))
        for row in links.sort_by([("example_id", "ascending"), ("passage_id", "ascending")]).to_pylist():
            positives.setdefault(row["example_id"], []).append(held[row["passage_id"]])
    return Hits(queries, positives)


def _matching_positives(store: Store, collection: str, tests: TestSets) -> Iterator[tuple[str, tuple[str, Match]]]:
    rows = read.positive_prints(store, [collection], answers=True)
    for places, part in text_parts(store, "positive", [collection], rows["row"].to_numpy(), PART_ROWS):
        texts = texts_in(store, part)
        for row, match in tests.match_passages(texts).items():
            yield rows["id"][places[row]].as_py(), (texts[row].as_py(), match)


def _found(store: Store, component: Component, tests: TestSets) -> Found | None:
    """What of test sets is in a content; None where it is nowhere to be read."""
    hits = _hits_of(store, component, tests)
    if hits is None:
        return None
    # A text that matches one suite matches some of them all: only these are searched again.
    queries = {example: [text] for example, (text, _) in hits.queries.items()}
    positives = {example: [text for text, _ in own] for example, own in hits.positives.items()}
    nearest = Counter(match.suite for match, _ in hits.nearest().values())
    rows = matches_by_suite(tests, QUERY, queries) + matches_by_suite(tests, PASSAGE, positives)
    return Found(dict(sorted(nearest.items())), sorted(rows))


def _hits_of(store: Store, component: Component, tests: TestSets) -> Hits | None:
    part = component.part
    folder = layout.component(layout.materialised(store.work), component.digest)
    if part.collection in read.names(store) and read.digest(store, part) == component.digest:
        return _stored(store, component, tests)
    if folder.is_dir():
        return _materialised(ComponentData(folder), tests)
    for version in versions(store, component):
        with suppress(StoreError), files.at_version(store, version, part.selection) as old:
            if files.digest(old, part) == component.digest:
                return _stored(old, component, tests)
    return None


def _stored(store: Store, component: Component, tests: TestSets) -> Hits:
    found = _hits(store, component.collection, tests)
    if component.selection is None:
        return found
    chosen = store.read("SELECT example_id FROM selected_examples WHERE selection = ?", [component.selection])
    return found.of(chosen["example_id"].to_pylist())


def _materialised(data: ComponentData, tests: TestSets) -> Hits:
    texts, links = data.queries(), data.positives()
    queries = {data.example(row).example_id: (texts[row].as_py(), m) for row, m in tests.match_queries(texts).items()}
    positives: dict[str, list[tuple[str, Match]]] = {}
    if tests.has_passages:
        rows = np.unique(links.values).tolist()
        held = [data.passage(row) for row in rows]
        found = {rows[place]: (held[place], match) for place, match in tests.match_passages(held).items()}
        for example in range(data.num_examples) if found else ():
            own = links.values[links.offsets[example] : links.offsets[example + 1]].tolist()
            if hits := [found[row] for row in own if row in found]:
                positives[data.example(example).example_id] = hits
    return Hits(queries, positives)


def _suites(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return f"the registered suite {next(iter(counts))}"
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{suite} {rows:,}" for suite, rows in most[:5])
    return f"registered suites ({named}{', …' if len(most) > 5 else ''})"


def _known(store: Store, key: str) -> dict[str, Found]:
    """What was found of these suites, by digest of the content. A damaged file counts as none."""
    with suppress(OSError, ValueError):
        kept = json.loads(layout.matches(store.work, key).read_text("utf-8"))
        return {digest: Found(found["nearest"], [Row(*row) for row in found["rows"]]) for digest, found in kept.items()}
    return {}


def _keep(store: Store, key: str, found: Mapping[str, Found]) -> None:
    """Keep what was found; where the folder cannot be written to, it is searched for again another time."""
    file = layout.matches(store.work, key)
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}{layout.SCRATCH}")
        kept = {d: {"nearest": f.nearest, "rows": f.rows} for d, f in (_known(store, key) | dict(found)).items()}
        scratch.write_text(json.dumps(kept), "utf-8")
        scratch.replace(file)

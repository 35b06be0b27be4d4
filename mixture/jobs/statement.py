"""What a mixture holds of test sets, searched for and not declared: what was in its collections, what `decontaminate`
took out, what is still there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from mixture import registry
from mixture.arguments import Names, listed
from mixture.cards import DataCard, load_cards
from mixture.errors import UsageError, unknown_name
from mixture.jobs.contamination import PASSAGE, QUERY, Row, found_in, matches_by_suite, rules_of, test_sets
from mixture.registry import Mixture
from mixture.specs import MixtureSpec
from mixture.store import Store, registered, removed
from mixture.suites.given import is_named
from mixture.suites.lists import TEST_PASSAGES, check_suite_names, read_test_passages, read_test_queries, tables_of
from mixture.suites.matches import Rule, TestSets
from mixture.suites.suite import Suite
from mixture.text.letters import letters_of


class _Row(NamedTuple):
    """A row that matches, in a collection; `gone`: it was taken out."""

    collection: str
    row: Row
    gone: bool


@dataclass(frozen=True)
class Counts:
    """What of a suite is or was in collections.

    queries, passages: the suite's test queries and test passages that were found, in what was taken out or is still
                       there. Those with the same letters count each
    removed:           training rows that `decontaminate` took out, and that the mixture does not pin
    remaining:         training rows that the mixture pins
    """

    queries: int
    passages: int
    removed: int
    remaining: int


@dataclass(frozen=True)
class SuiteStatement:
    """What a mixture holds of a suite.

    num_queries, num_passages: that were looked for; passages are those that judgements call relevant
    distance, passage_overlap: the rule (`mixture.suites.matches.Rule`); overlap None: passages were not looked for
    found:       over all collections
    collections: of those where something was found, by name
    """

    suite: str
    num_queries: int
    num_passages: int
    distance: int
    passage_overlap: float | None
    found: Counts
    collections: dict[str, Counts]


@dataclass(frozen=True)
class ContaminationStatement:
    """What a mixture holds of test sets.

    mixture:   its id; of several that a training draws from all ids, with a comma and a blank between
    suites:    those that were looked for
    unchecked: those that could not be, and why
    unread:    collections whose pinned content is nowhere to be read, so that nothing is known of them
    mteb:      tasks of mteb that the drawn collections are the training data of, as their datacards say
    """

    mixture: str
    suites: tuple[SuiteStatement, ...]
    unchecked: dict[str, str]
    unread: tuple[str, ...]
    mteb: tuple[str, ...]


def contamination_statement(
    store: Store, mixture: Mixture, suites: Names = (), *, cards: Path | None = None
) -> ContaminationStatement:
    """How many rows of test sets were in the collections of a mixture, how many `decontaminate` took out, and how many
    the mixture still pins, by suite and collection. Exact for each suite's rule; each row counts for the suite's
    nearest text.

    suites: files, folders and names of benchmarks' suites as `decontaminate` takes them, which are not registered, or
            names of registered suites; default: all of these. What a folder brings is looked for by the rule of the
            registered suite of its name, or by the default
    cards:  a folder of datacards besides the built-in ones

    What was found is kept in the store's folder until a content or a suite changes. A folder that is gone or cannot be
    read, and a suite that a model of this mixture was evaluated on and that is not known here, are `unchecked`. An
    unknown name is a `UsageError`.
    """
    spec, given = registry.resolve(store, mixture).spec, listed(suites)
    known = rules_of(registered.test_suites(store))
    lists, names, unchecked = _given(given, known)
    with store.reading():
        parts = [test_sets(store, {name: known[name] for name in (names if given else known)})]
        if lists:
            queries, passages = (pa.concat_tables(tables) for tables in zip(*lists.values(), strict=True))
            rules = {suite: known.get(suite, Rule()) for suite in sorted(set(queries["suite"].to_pylist()))}
            parts.append(TestSets(queries, passages, rules))
        return _statement(store, [spec], parts, unchecked, load_cards(cards))


def statement_for_training(
    store: Store, specs: Sequence[MixtureSpec], suites: Sequence[Suite] = ()
) -> ContaminationStatement:  # fmt: skip
    """`contamination_statement` of all that is trained on: of the registered suites, and of those that are evaluated
    on.

    A suite whose texts are all among the registered ones of its name is that one.
    """
    with store.reading():
        known = rules_of(registered.test_suites(store))
        parts = [test_sets(store, known)]
        if others := [suite for suite in suites if not _covered(parts[0], suite)]:
            queries, passages = tables_of(others)
            parts.append(TestSets(queries, passages, {one.title: known.get(one.name, Rule()) for one in others}))
        return _statement(store, specs, parts, {}, load_cards(), known_by={suite.title for suite in suites})


def _covered(tests: TestSets, suite: Suite) -> bool:
    """Whether a suite's texts are all among those of its name."""
    if suite.name not in tests.rules:
        return False
    own = tests.of(suite.name)
    return {*own.queries["query"].to_pylist(), *own.passages["text"].to_pylist()}.issuperset(suite.test_texts)


def _given(
    given: Sequence[str], known: Collection[str]
) -> tuple[dict[Path, tuple[pa.Table, pa.Table]], list[str], dict[str, str]]:
    """The queries and passages of files, folders and suites by name, the names of registered suites, and what cannot be
    looked for."""
    lists: dict[Path, tuple[pa.Table, pa.Table]] = {}
    names, unchecked = [], {}
    for one in given:
        path = Path(one).expanduser()
        if path.exists() or (one not in known and is_named(one)):
            try:
                queries = read_test_queries(path).select(["suite", "query_id", "query"])
                lists[path] = queries, TEST_PASSAGES.empty_table() if path.is_file() else read_test_passages(path)
            except UsageError as error:
                unchecked[one] = str(error)
        elif one in known:
            names.append(one)
        elif path.name != one:  # a place, and no name
            unchecked[one] = "no such file or folder"
        else:
            raise unknown_name("test suite", one, known)
    check_suite_names({path: queries for path, (queries, _) in lists.items()})
    return lists, names, unchecked


def _statement(
    store: Store, specs: Sequence[MixtureSpec], parts: Sequence[TestSets], unchecked: Mapping[str, str],
    cards: Mapping[str, DataCard], known_by: Collection[str] = (),
) -> ContaminationStatement:  # fmt: skip
    """Of suites that stand in several parts the last one counts. known_by: titles of suites that are among these."""
    components = list({(c.name, c.digest): c for spec in specs for c in spec.components}.values())
    names = removed.todays_names(store, components)
    gone = _removed(store, names)
    found: dict[str, SuiteStatement] = {}
    unread: set[str] = set()
    for tests in parts:
        if not tests.rules:
            continue
        contents = found_in(store, components, registered.rows_of(store, tests), tests)
        unread |= {c.collection for c in components if c.digest not in contents}
        left = [_Row(c.collection, row, gone=False) for c in components if c.digest in contents
                for row in contents[c.digest].rows]  # fmt: skip
        out = [_Row(collection, row, gone=True) for collection, texts in gone.items() for kind, of in texts.items()
               for row in matches_by_suite(tests, kind, of)]  # fmt: skip
        found |= {suite: _of_suite(tests.of(suite), [r for r in left + out if r.row.suite == suite])
                  for suite in tests.rules}  # fmt: skip
    ids = [spec.id for spec in specs]
    scored = store.rows(
        """SELECT DISTINCT suite FROM evaluations
                           WHERE list_contains(?, mixture) AND metric <> 'holdout_loss' ORDER BY suite""",
        [ids],
    )
    for suite in (row["suite"] for row in scored):
        if not {suite, suite.removesuffix("/learn").removesuffix("/report")} & {*found, *known_by}:
            unchecked = {**unchecked, suite: "a model was evaluated on it, but it is not registered"}
    drawn = {c.collection for spec in specs for c in spec.components if c.weight > 0}
    return ContaminationStatement(
        ", ".join(ids), tuple(found[suite] for suite in sorted(found)), dict(unchecked), tuple(sorted(unread)),
        tasks_of_mteb({name: _card(store, names.get(name, name)) for name in drawn}, cards),
    )  # fmt: skip


def tasks_of_mteb(collections: Mapping[str, str], cards: Mapping[str, DataCard]) -> tuple[str, ...]:
    """The tasks of mteb that collections are the training data of. collections: with the names of their cards."""
    return tuple(sorted({task for card in collections.values() if card in cards for task in cards[card].mteb}))


def _card(store: Store, collection: str) -> str:
    """The name of a collection's card; its own where the store knows none."""
    rows = store.rows("SELECT card FROM collections WHERE collection = ?", [collection])
    return rows[0]["card"] if rows and rows[0]["card"] else collection


def _removed(store: Store, names: Mapping[str, str]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """The texts of rows that were taken out as test data, by collection as the mixture calls it, kind and example."""
    then = {today: name for name, today in names.items()}
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for row in removed.test_rows(store, sorted(then)).to_pylist():
        kinds = found.setdefault(then[row["collection"]], {QUERY: {}, PASSAGE: {}})
        kinds[row["kind"]].setdefault(row["example_id"], []).append(row["text"])
    return found


def _of_suite(tests: TestSets, rows: Sequence[_Row]) -> SuiteStatement:
    """The statement on one suite, from the rows that match it."""
    ((suite, rule),) = tests.rules.items()
    queries, passages = tests.queries, tests.passages
    alike = {
        QUERY: _alike(queries["query_id"].to_pylist(), queries["query"]),
        PASSAGE: _alike(passages["doc_id"].to_pylist(), passages["text"]),
    } if rows else {}  # fmt: skip
    own = {name: [r for r in rows if r.collection == name] for name in sorted({r.collection for r in rows})}
    looked_for = 0 if rule.passage_overlap is None else passages.num_rows
    return SuiteStatement(
        suite, queries.num_rows, looked_for, rule.distance, rule.passage_overlap, _counts(rows, alike),
        {name: _counts(part, alike) for name, part in own.items()},
    )  # fmt: skip


def _counts(rows: Sequence[_Row], alike: Mapping[str, Mapping[str, tuple[str, int]]]) -> Counts:
    found = {kind: {alike[kind][r.row.test_id] for r in rows if r.row.kind == kind} for kind in (QUERY, PASSAGE)}
    left, gone = ({(r.collection, r.row.example_id) for r in rows if r.gone is out} for out in (False, True))
    queries, passages = (sum(count for _, count in found[kind]) for kind in (QUERY, PASSAGE))
    return Counts(queries, passages, len(gone - left), len(left))


def _alike(ids: Sequence[str], texts: pa.ChunkedArray) -> dict[str, tuple[str, int]]:
    """Of each test text its letters, and how many texts have these: a search names one of them."""
    letters = letters_of(texts.to_pylist())
    counts = Counter(letters)
    return {key: (own, counts[own]) for key, own in zip(ids, letters, strict=True)}

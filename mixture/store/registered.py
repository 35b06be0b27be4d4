"""The registered test suites: their texts, and the rule by which a row counts as one of theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import unknown_name
from mixture.store.connect import Store
from mixture.store.schema import SUITE_DIGESTS

if TYPE_CHECKING:  # it loads kernels, and a store opens without
    from mixture.suites.matches import TestSets

# Columns of `test_suites` that say what matches a suite.
RULES = pa.schema([("suite", pa.string()), ("distance", pa.int32()), ("passage_overlap", pa.float64())])
VERSION = 2
"""Of what counts as a match (`mixture.suites.matches`), raised when other rows do: what was counted before is void."""
TABLES = ("test_suites", "test_queries", "test_passages")


def test_suites(store: Store) -> pa.Table:
    """suite, digest (of its texts), distance, passage_overlap of each registered suite, by name."""
    return store.read("SELECT suite, digest, distance, passage_overlap FROM test_suites ORDER BY suite")


def suites_key(suites: pa.Table) -> str:
    """A hash of what decides which rows match registered suites, rows of `test_suites`."""
    return hashlib.sha256(json.dumps([VERSION, suites.to_pylist()]).encode()).hexdigest()[:12]


def rows_of(store: Store, tests: TestSets) -> pa.Table:
    """The rows that `test_suites` would have of these suites, whether they are registered or not."""
    store.connection.register("given_queries", tests.queries)
    store.connection.register("given_passages", tests.passages)
    try:
        found = store.rows(f"""WITH test_queries AS (FROM given_queries), test_passages AS (FROM given_passages)
                              {SUITE_DIGESTS}""")
    finally:
        for view in ("given_queries", "given_passages"):
            store.connection.unregister(view)
    digests = {row["suite"]: row["digest"] for row in found}
    rows = [{"suite": suite, "digest": digests.get(suite), "distance": rule.distance,
             "passage_overlap": rule.passage_overlap} for suite, rule in sorted(tests.rules.items())]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=RULES.insert(1, pa.field("digest", pa.string())))


def test_queries(store: Store, suites: Sequence[str] = ()) -> pa.Table:
    """suite, query_id, query, simhash of the registered suites, or of those named."""
    rows = store.read("SELECT suite, query_id, query, simhash FROM test_queries ORDER BY suite, query_id")
    if not suites:
        return rows
    check_registered(store, suites)
    return rows.filter(pc.is_in(rows["suite"], pa.array(list(suites))))


def test_passages(store: Store, suites: Sequence[str]) -> pa.Table:
    """suite, doc_id, text of the registered passages of these suites; none where only queries were registered."""
    return store.read(
        """SELECT suite, doc_id, "text" FROM test_passages WHERE list_contains(?, suite) ORDER BY suite, doc_id""",
        [list(suites)],
    )


def check_registered(store: Store, suites: Sequence[str], *, others: Iterable[str] = ()) -> None:
    """Raise `UsageError` for a suite that is not registered; others: names that could have been meant too."""
    known = set(test_suites(store)["suite"].to_pylist())
    for name in suites:
        if name not in known:
            raise unknown_name("test suite", name, known | set(others))


def add_test_suites(store: Store, queries: pa.Table, passages: pa.Table | None, rules: pa.Table) -> None:
    """Register test queries (suite, query_id, query, simhash) and passages (suite, doc_id, text) with their rules
    (schema `RULES`); what the suites of these rules had before is replaced."""

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        connection.register("new_rules", rules)
        for table in TABLES:
            connection.execute(f"DELETE FROM {table} WHERE suite IN (SELECT suite FROM new_rules)")
        connection.register("new_queries", queries)
        connection.execute("INSERT INTO test_queries BY NAME SELECT * FROM new_queries")
        if passages is not None and passages.num_rows:
            connection.register("new_passages", passages)
            connection.execute("INSERT INTO test_passages BY NAME SELECT * FROM new_passages")
        _set_rules(connection)

    store.transaction(work)


def set_rules(store: Store, rules: pa.Table) -> None:
    """Give registered suites these rules (schema `RULES`)."""

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        connection.register("new_rules", rules)
        connection.execute("DELETE FROM test_suites WHERE suite IN (SELECT suite FROM new_rules)")
        _set_rules(connection)

    store.transaction(work)


def _set_rules(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        f"""INSERT INTO test_suites BY NAME SELECT r.suite, d.digest, r.distance, r.passage_overlap,
                   now() AS registered_at FROM new_rules r JOIN ({SUITE_DIGESTS}) d USING (suite)"""
    )


def forget_suites(store: Store, suites: Sequence[str]) -> None:
    """Unregister suites; a name that is not registered is a `UsageError`."""
    check_registered(store, suites)

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table} WHERE list_contains(?, suite)", [list(suites)])

    store.transaction(work)

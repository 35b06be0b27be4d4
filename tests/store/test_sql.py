"""What a query must not do, and what stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mixture import Store, StoreError, UsageError
from mixture.store.limits import Limits, parse_bytes

LIMITS = Limits(seconds=0.5, memory_bytes=150 * 10**6)
COUNTS = "SELECT e.n, p.n AS p, m.n AS m FROM " + ", ".join(
    f"(SELECT count(*) AS n FROM {table}) {table[0]}" for table in ("examples", "passages", "mixtures")
)

REFUSED = [
    # files and folders
    "FROM 'outside.csv'",
    "FROM '{outside}'",
    "FROM '{catalog}'",
    "FROM '{data}/main/examples/**/*.parquet'",
    "FROM read_csv('{outside}')",
    "SELECT (SELECT content FROM read_text('{outside}'))",
    "WITH t AS MATERIALIZED (FROM read_blob('{outside}')) FROM t",
    "FROM glob('/*')",
    "FROM sniff_csv('{outside}')",
    "FROM parquet_scan(['{outside}'])",
    "SELECT * FROM examples JOIN LATERAL (FROM read_json('{outside}')) ON true",
    "FROM sqlite_scan('{catalog}', 'ducklake_snapshot')",
    "FROM __ducklake_metadata_lake.ducklake_data_file",
    "FROM ducklake_list_files('lake', 'examples')",
    "FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "FROM lake.ducklake_expire_snapshots('lake', older_than => now())",
    # other statements
    "COPY examples TO '{outside}.csv'",
    "COPY (SELECT 1) TO '{data}/evil.parquet'",
    "ATTACH '{outside}.db'",
    "INSTALL httpfs",
    "LOAD '{outside}'",
    "SET memory_limit = '100GB'",
    "RESET memory_limit",
    "PRAGMA database_list",
    "EXPORT DATABASE '{outside}'",
    "CALL ducklake_flush_inlined_data('lake')",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE MACRO mixture(a) AS TABLE SELECT 1",
    "INSERT INTO examples SELECT * FROM examples",
    "UPDATE examples SET query = ''",
    "DELETE FROM examples",
    "TRUNCATE examples",
    "DROP VIEW collection_facts",
    "ALTER TABLE examples ADD COLUMN c INTEGER",
    "MERGE INTO examples USING passages ON false WHEN NOT MATCHED THEN INSERT DEFAULT VALUES",
    "EXPLAIN ANALYZE DELETE FROM examples",
    "PREPARE p AS DELETE FROM examples",
    "BEGIN",
    "SELECT 1; DELETE FROM examples",
    "SELECT 1;; SELECT 2",
    # what tells of the machine
    "SELECT getenv('HOME')",
    "SELECT current_setting('allowed_directories')",
    "SELECT upper(system.main.current_setting('temp_directory'))",
    "FROM duckdb_settings()",
    "FROM duckdb_settings",
    "SELECT (WITH pg_settings AS (SELECT 1) FROM pg_settings), setting FROM pg_settings",
    "FROM pg_catalog.pg_settings",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://x', 's3')",
    "FROM pragma_database_list",
    "SHOW DATABASES",
    "SHOW ALL TABLES",
    "FROM duckdb_logs",
    # queries as text, variables of Python
    "FROM query('FROM examples')",
    "FROM query_table('examples')",
    "FROM json_execute_serialized_sql('{{}}')",
    "SELECT json_serialize_plan('SELECT 1')",
    "FROM secret",
    "FROM pythons_table",
    # side effects
    "SELECT write_log('x')",
    "SELECT sleep_ms(100000)",
    "SELECT nextval('s')",
    # AT
    "FROM examples AT (VERSION => -1)",
    "FROM examples AT (VERSION => 1000000)",
    "FROM examples AT (VERSION => (SELECT 1))",
    "FROM examples AT (VERSION => '1; DROP TABLE examples')",
    "FROM examples AT (TIMESTAMP => TIMESTAMP '1999-01-01')",
    "FROM collection_facts AT (VERSION => 1)",
    # text that is no query
    "",
    ";",
    "SELECT '\0'",
    "SELECT '\ud800'",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000 + " FROM nowhere",
    "SELECT " + "abs(" * 2000 + "1" + ")" * 2000,
    "SELECT " + "[" * 5000 + "]" * 5000,
    "SELECT repeat('x', 1000000000000)",
]  # fmt: skip

STOPPED = {
    "time": [
        "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT count(*) FROM t",
        "SELECT count(*) FROM range(10000000000) a, range(10000000) b",
        "SELECT count(*) FROM examples a, examples b, examples c, passages d, passages e WHERE a.query || e.text = 'x'",
        "SELECT sum(i) FROM range(100000000000) t(i) WHERE sin(i) = 2",
    ],
    "memory": [
        "SELECT * FROM range(10000000000)",
        "SELECT len(range(200000000))",
        "SELECT length(repeat('x', 2000000000))",
        "SELECT sum(length(repeat('x', 1000000 + i::INTEGER))) FROM range(4096) t(i)",
        "SELECT length(format('{:1999999999}', 1))",
        "WITH RECURSIVE t AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
        "SELECT list(i) FROM range(10000000000) t(i)",
        "SELECT string_agg(i) FROM range(10000000000) t(i)",
    ],
    # Time, memory or disk, whichever comes first on this machine.
    "": [
        "SELECT length(list_reduce(list_transform(range(40), lambda i: 'x'), lambda a, b: a || a))",
        "SELECT length(lpad('', 2000000000, 'x'))",
        "SELECT length(replace(repeat('a', 100000), 'a', repeat('b', 100000)))",
        "SELECT * FROM range(10000000000) t(i) ORDER BY hash(i)",
        "SELECT count(DISTINCT hash(i)) FROM range(10000000000) t(i)",
        "SELECT * FROM generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '9999-01-01', INTERVAL 1 MICROSECOND)",
        "SELECT count(*) FROM range(3000000) t(i) WHERE regexp_matches(repeat('a', 5000 + i % 9), '(a*)*(a|aa)+$b')",
    ],
}  # fmt: skip
STOPPED_PAIRS = [(why, query) for why, queries in STOPPED.items() for query in queries]


def _unharmed(store: Store) -> None:
    assert store.sql(COUNTS, limits=LIMITS).to_pylist() == [{"n": 120, "p": 120, "m": 3}]
    assert not list(store.work.rglob("evil*"))


@pytest.mark.parametrize("query", REFUSED, ids=lambda query: repr(query[:70]))
def test_a_query_that_is_no_question_is_refused(facts_store: Store, tmp_path: Path, query: str) -> None:
    pythons_table = pa.table({"password": ["hunter2"]})
    outside = tmp_path / "secret.csv"
    outside.write_text("password\nhunter2\n")
    places = {
        "{outside}": outside,
        "{data}": facts_store.work / "data",
        "{catalog}": facts_store.work / "catalog.sqlite",
    }
    for mark, path in places.items():
        query = query.replace(mark, str(path))
    with pytest.raises(UsageError) as caught:
        facts_store.sql(query, limits=LIMITS)
    assert 1 <= len(str(caught.value).splitlines()) <= 2
    assert len(str(caught.value)) < 500
    assert "hunter2" not in str(caught.value)
    assert pythons_table.num_rows == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    _unharmed(facts_store)


@pytest.mark.parametrize(("why", "query"), STOPPED_PAIRS, ids=[repr(query[:70]) for _, query in STOPPED_PAIRS])
def test_a_query_without_end_is_stopped(facts_store: Store, why: str, query: str) -> None:
    # On a busy machine even a few milliseconds' work outlasts half a second: memory is waited for.
    limits = replace(LIMITS, seconds=30) if why == "memory" else LIMITS
    started = time.perf_counter()
    with pytest.raises(StoreError) as caught:
        facts_store.sql(query, limits=limits)
    assert time.perf_counter() - started < 20  # half a second, and what one vector of values takes on a busy machine
    assert len(str(caught.value).splitlines()) == 1
    said = str(caught.value)
    assert {"time": "after 0.5 s", "memory": "0.15 GB of memory", "": "was stopped"}[why] in said
    _unharmed(facts_store)
    # Nothing spilled stays, and nothing lies where the command was started.
    assert not [path for path in facts_store.work.glob("spill-*/*") if path.is_file()]
    assert not Path(".tmp").exists()


def test_an_expensive_but_possible_sort_spills_into_the_store_and_answers(tmp_path: Path) -> None:
    limits = Limits(seconds=60, memory_bytes=150 * 10**6)
    query = "SELECT max(i) AS m FROM (SELECT i, row_number() OVER (ORDER BY hash(i)) AS n FROM range(8000000) t(i))"
    with Store.open(tmp_path / "s", create=True) as store:
        assert store.sql(query, limits=limits).to_pylist() == [{"m": 7_999_999}]
        assert list(store.work.glob("spill-*"))  # it did spill: else this tests nothing
    assert not list((tmp_path / "s").glob("spill-*"))


def test_the_limit_is_lifted_after_a_query(facts_store: Store) -> None:
    with pytest.raises(StoreError):
        facts_store.sql("SELECT len(range(200000000))", limits=LIMITS)
    assert len(bytearray(800 * 10**6)) == 800 * 10**6  # more than the query's limit and its slack


def test_ctrl_c_stops_a_query_and_the_store_answers_on(facts_store: Store) -> None:
    slow = Limits(seconds=50, memory_bytes=LIMITS.memory_bytes)
    for query in (
        "SELECT sum(i) FROM range(100000000000) t(i) WHERE sin(i) = 2",
        "FROM range(1000000)",
    ):
        _unharmed(facts_store)  # the connection is open when the signal comes
        started = time.perf_counter()
        threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            while True:
                facts_store.sql(query, limits=slow)
        assert time.perf_counter() - started < 20
    facts_store.close()  # nothing runs on that this would wait for
    _unharmed(facts_store)


def test_a_mistake_names_what_is_nearest(facts_store: Store) -> None:
    said = {
        "FROM exampels": "no table 'exampels'; did you mean 'examples'",
        "FROM colection_facts": "no table 'colection_facts'; did you mean 'collection_facts'",
        "FROM mixtur('base')": "did you mean 'mixture'?",
        "FROM mixture": "FROM mixture(ref)",
        "SELECT colection FROM examples": '"collection"',
        "SELECT e.wieght FROM epochs('base', 1, 1) e": "'weight'",
        "SELECT num_exampels FROM collection_facts": '"num_examples"',
        "SELECT mixtureid('base')": "mixture_id",
        "SELECT lenght('x')": '"length"',
    }
    for query, expected in said.items():
        with pytest.raises(UsageError) as caught:
            facts_store.sql(query)
        assert expected in str(caught.value), query
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "query",
    [
        "SHOW TABLES",
        "DESCRIBE examples",
        "SUMMARIZE collections",
        "WITH mine AS (FROM examples) SELECT * FROM mine WHERE query LIKE 'q%'",
        "SELECT * FROM lake.main.examples e JOIN main.collections USING (collection), unnest(e.positives)",
        "SELECT count(*) FROM lake.snapshots()",
        "SELECT [i * 2 FOR i IN range(3)], format('{:>8}', 'x'), levenshtein('a', 'b')",
        "VALUES (1), (2)",
        "-- a remark\nSELECT 1;",
    ],
)
def test_an_ordinary_question_is_answered(facts_store: Store, query: str) -> None:
    assert facts_store.sql(query, limits=LIMITS).num_rows > 0


def test_limits_are_checked() -> None:
    assert [parse_bytes(text) for text in ("500MB", "1.5 gb", "2GB")] == [500 * 10**6, 1500 * 10**6, 2 * 10**9]
    for text in ("2", "GB", "-1GB", "2 parsecs", ""):
        with pytest.raises(UsageError, match="500MB or 2GB"):
            parse_bytes(text)
    for seconds, memory in ((0, 10**9), (-1, 10**9), (float("nan"), 10**9), (1, 10)):
        with pytest.raises(UsageError, match="allowed"):
            Limits(seconds, memory)


def _mixture_sql(store: Store, *arguments: str, query: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "sql", "--store", str(store.work), *arguments]
    return subprocess.run(command, input=query, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["DROP TABLE examples"], 2, "read-only"),
        (["SELECT 1", "--memory", "lots"], 2, "2GB"),
        (["SELECT length(repeat('x', 4000000000))", "--memory", "200MB"], 1, "0.2 GB of memory"),
        # One call of a function that never looks up: the process ends itself.
        (["SELECT levenshtein(repeat('a', 400000), repeat('b', 400000))", "--timeout", "0.5"], 1, "after 0.5 s"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_command_line_says_one_line_and_an_exit_code(
    facts_store: Store, arguments: list[str], code: int, said: str
) -> None:
    ended = _mixture_sql(facts_store, *arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert ended.stderr.startswith("mixture: ")
    assert said in ended.stderr
    _unharmed(facts_store)


def test_off_a_terminal_the_query_is_read_from_standard_input(facts_store: Store) -> None:
    ended = _mixture_sql(facts_store, "--format", "csv", query="SELECT collection FROM collections ORDER BY 1;\n")
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (
        0,
        ['"collection"', '"forum"', '"web"', '"wiki"'],
        "",
    )

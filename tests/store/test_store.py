"""Opening, reading and writing the lake."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from mixture import Store, StoreError, UsageError
from mixture.store.write import insert_rows

# More rows than DuckLake keeps inside its catalog, so that they lie in Parquet files.
TEST_QUERIES = pa.table({"suite": ["s"] * 50, "query_id": [str(i) for i in range(50)], "query": ["q"] * 50})


def test_a_missing_store_is_a_usage_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no store at"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"`Store.open\('nowhere'\)` opens a store"):
        Store("nowhere")  # type: ignore[arg-type]
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_with_other_files_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        Store.open(tmp_path, create=True)


def test_what_was_written_is_there_after_reopening_and_moving(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a", create=True) as store:
        insert_rows(store, "test_queries", TEST_QUERIES)
    shutil.move(tmp_path / "a", tmp_path / "b")
    with Store.open(tmp_path / "b") as store:
        assert store.sql("SELECT count(DISTINCT query_id) AS n FROM test_queries").to_pylist() == [{"n": 50}]


def test_a_store_of_a_newer_toolkit_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        store.transaction(lambda c: c.execute("INSERT INTO store_versions VALUES (99, now())"))
    with pytest.raises(StoreError, match="version 99"):
        Store.open(tmp_path / "s")


def test_an_older_store_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixture.store import schema

    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        with Store.open(tmp_path / "s", create=True) as store:
            store.connection.execute("INSERT INTO collections VALUES ('nq', NULL, ['Find it'], false, now())")
    with Store.open(tmp_path / "s") as store:
        (row,) = store.sql("SELECT collection, prompts, license FROM collections").to_pylist()
        assert row == {"collection": "nq", "prompts": ["Find it"], "license": None}
        versions = store.sql("SELECT version FROM store_versions ORDER BY version")["version"].to_pylist()
        assert versions == list(range(1, len(schema.MIGRATIONS) + 1))


def test_sql_sees_later_commits_and_takes_parameters(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        assert store.sql("FROM test_queries").num_rows == 0
        insert_rows(store, "test_queries", TEST_QUERIES)
        assert store.sql("SELECT query FROM test_queries WHERE query_id = ?", ["7"]).num_rows == 1
        assert store.sql("SELECT query FROM test_queries WHERE query_id = $id", {"id": "7"}).num_rows == 1


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{outside}')",
        "SELECT * FROM read_text('{outside}')",
        "FROM '{outside}'",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '{outside}.csv'",
        "COPY (SELECT 1) TO '{data}/main/evil.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{data}/main/evil.parquet'",
        "EXPORT DATABASE '{outside}.d'",
        "ATTACH '{outside}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "PRAGMA enable_profiling",
        "INSERT INTO test_queries VALUES ('a', 'b', 'c', 1)",
        "DELETE FROM test_queries",
        "UPDATE test_queries SET query = ''",
        "DROP TABLE test_queries",
        "CREATE TABLE t (i INTEGER)",
        "CALL ducklake_expire_snapshots('lake', older_than => now())",
        "FROM ducklake_expire_snapshots('lake', older_than => now())",
        "SELECT * FROM sqlite_scan('{catalog}', 'ducklake_snapshot')",
        "SELECT (SELECT count(*) FROM sqlite_attach('{catalog}'))",
        "WITH t AS (FROM read_blob('{catalog}')) FROM t",
        "FROM '{catalog}'",
        "FROM query('SELECT 42')",
        "FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
        "SELECT 1; DROP TABLE test_queries",
        "",
    ],
)
def test_sql_is_read_only_and_shut_in(tmp_path: Path, query: str) -> None:
    outside = tmp_path / "secret"
    outside.write_text("password\n")
    with Store.open(tmp_path / "s", create=True) as store:
        insert_rows(store, "test_queries", TEST_QUERIES)
        with pytest.raises(UsageError) as caught:
            store.sql(query.format(outside=outside, data=store.work / "data", catalog=store.work / "catalog.sqlite"))
        assert "password" not in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 2
        assert store.sql("SELECT sum(length(query)) AS n FROM test_queries").to_pylist() == [{"n": 50}]
    assert {p.name for p in tmp_path.iterdir()} == {"s", "secret"}
    assert not list((tmp_path / "s").rglob("evil*"))


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    def work(connection: object) -> None:
        connection.execute("INSERT INTO test_queries VALUES ('s', '1', 'q', 1)")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with Store.open(tmp_path / "s", create=True) as store:
        with pytest.raises(KeyboardInterrupt):
            store.transaction(work)  # type: ignore[arg-type]
        assert store.sql("FROM test_queries").num_rows == 0
        insert_rows(store, "test_queries", TEST_QUERIES)  # the connection works on
        assert store.sql("FROM test_queries").num_rows == 50


def test_an_unknown_column_is_an_error(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store, pytest.raises(StoreError, match=r"no column.*'colour'"):
        insert_rows(store, "runs", [{"run_id": "r", "colour": "red"}])


WRITER = """
import sys
from mixture import Store
with Store.open(sys.argv[1]) as store:
    for i in range(8):
        def work(c):
            c.execute("UPDATE collections SET card = (card::INTEGER + 1)::VARCHAR")
            c.execute("INSERT INTO runs VALUES (?, 'k', 's', NULL, NULL, NULL, now(), NULL)", [sys.argv[2] + str(i)])
        store.transaction(work)
"""


@pytest.mark.folder
def test_who_opens_a_store_that_another_process_makes_just_now_waits(tmp_path: Path) -> None:
    """Its file is there before its tables are."""
    (tmp_path / "s" / "data").mkdir(parents=True)
    script = """
import sqlite3, sys, time
other = sqlite3.connect(sys.argv[1])
other.execute("BEGIN IMMEDIATE")
other.execute("CREATE TABLE ducklake_metadata (key TEXT)")
print("begun", flush=True)
time.sleep(7)  # SQLite itself waits for 5 s
other.rollback()
"""
    words = [sys.executable, "-c", script, str(tmp_path / "s" / "catalog.sqlite")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"begun\n"
        with Store.open(tmp_path / "s") as store:
            assert other.wait(30) == 0
            assert store.rows("SELECT count(*) AS n FROM examples") == [{"n": 0}]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        insert_rows(store, "collections", pa.table(
            {"collection": ["c"], "card": ["0"], "added_at": pa.array([0], pa.timestamp("us", "UTC"))}))  # fmt: skip
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "s"), name], stderr=subprocess.PIPE)
            for name in ("a", "b", "c")
        ]
        for writer in writers:
            _, errors = writer.communicate(timeout=100)
            assert writer.returncode == 0, errors.decode()
        # The counter is updated by each of 24 transactions: a lost update would show.
        assert store.sql("SELECT card FROM collections").to_pylist() == [{"card": "24"}]
        assert store.sql("SELECT count(DISTINCT run_id) AS n FROM runs").to_pylist() == [{"n": 24}]

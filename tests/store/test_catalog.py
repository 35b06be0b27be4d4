"""Kinds of catalogs: how one is named, and that a store needs nothing of it but what `Catalog` says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import FileSelector
from typer.testing import CliRunner

from cli import app
from mixture import Store, StoreError, UsageError, jobs, registry
from mixture.registry import gc
from mixture.registry.verify import verify
from mixture.store import files
from mixture.store.catalog import CATALOGS, FolderCatalog, SqliteCatalog
from mixture.store.materialise import materialise
from mixture.store.write import insert_rows

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = [{"run_id": "r", "kind": "k", "status": "done", "started_at": "2026-01-01"}]


class DuckdbCatalog(FolderCatalog):
    kind = "duckdb"
    prefix = "ducklake:"
    shared = False


class ApartCatalog(SqliteCatalog):
    """Data and catalog are on two disks."""

    def __init__(self, folder: str, data: str | None = None) -> None:
        super().__init__(folder, data)
        self.data = f"{self.work.parent / 'large'}/"


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (DuckdbCatalog, ApartCatalog):
        monkeypatch.setitem(CATALOGS, kind.__name__.removesuffix("Catalog").lower(), f"{__name__}:{kind.__name__}")


@pytest.fixture(params=["duckdb", "apart"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, kinds: None) -> str:
    """A store of a kind that is not the usual one; there is none yet."""
    return f"{request.param}:{tmp_path / 'store'}"


def _count(store: Store) -> int:
    return int(store.sql("SELECT count(*) AS n FROM runs")["n"][0].as_py())


@pytest.mark.folder
def test_a_write_outlasts_a_lock_and_says_that_it_waits(
    small_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mixture.store.connect.COMMIT_ATTEMPTS", 1)  # of those that overlap; a lock is waited for
    monkeypatch.setattr("mixture.store.catalog.PATIENCE", 0.5)
    program = """if True:
        import sqlite3, sys, time
        lock = sqlite3.connect(sys.argv[1], isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        time.sleep(4)
        lock.execute("ROLLBACK")"""
    words = [sys.executable, "-c", program, str(small_store.work / "catalog.sqlite")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        insert_rows(small_store, "runs", RUNS)
    assert _count(small_store) == 1
    assert caplog.messages == [f"waiting for another process that has locked {small_store.work}"]
    monkeypatch.setattr("mixture.store.catalog.LOCKED_SECONDS", 0.5)
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process,
        pytest.raises(StoreError, match="database is locked"),
    ):
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        insert_rows(small_store, "runs", RUNS)


@pytest.mark.folder
@pytest.mark.parametrize(
    ("damaged", "instead"),
    [
        (b"SQLite format 3", b"SQLite format 2"),
        (b"CREATE TABLE ducklake_", b"CREATE \xff\xfe\xfa\xfb\xfc lake_"),
        (b"CREATE TABLE ducklake_", b"CREATE TUBLE ducklake_"),
    ],
)
def test_a_damaged_catalog_is_called_that(small_store: Store, damaged: bytes, instead: bytes) -> None:
    small_store.close()
    file = small_store.work / "catalog.sqlite"
    for left in small_store.work.glob("catalog.sqlite-*"):
        left.unlink()
    content = file.read_bytes()
    assert damaged in content
    file.write_bytes(content.replace(damaged, instead))
    with pytest.raises(StoreError, match="does not open: its catalog is damaged; restore it from a copy"):
        Store.open(small_store.work)


@pytest.mark.parametrize("uri", ["mysql:dbname=lake", "mongodb://u:secret@host/lake"])
def test_an_unknown_kind_lists_those_that_there_are(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        Store.open(uri)
    kinds = "a folder, postgres:…, postgresql:…"
    assert str(caught.value) == f"`store` begins with '{uri.partition(':')[0]}:'; allowed: {kinds}"


def test_the_commands_hand_the_name_on_as_it_is(uri: str, tmp_path: Path) -> None:
    with Store.open(uri, create=True) as store:
        insert_rows(store, "runs", RUNS)
    query = ["sql", "SELECT run_id FROM runs", "--json"]
    runner = CliRunner()
    for arguments, variables in ((["--store", uri, *query], {}), ([*query, "--store", uri], {}),
                                 (query, {"MIXTURE_STORE": uri})):  # fmt: skip
        result = runner.invoke(app, arguments, env=variables)
        assert (result.exit_code, '"run_id"' in result.stdout) == (0, True), result.output
    shown = runner.invoke(app, ["list", "--help"], env={"COLUMNS": "200"}).output
    refused = runner.invoke(app, ["--store", "s3://bucket/x", "list"])
    assert "a folder" in shown and "s3:" in refused.stderr and refused.exit_code == 2


def test_a_store_is_not_made_where_another_kind_is(kinds: None, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other", create=True):
        pass
    with pytest.raises(UsageError, match="no store at"):
        Store.open(f"duckdb:{tmp_path / 'other'}")
    with pytest.raises(UsageError, match="not empty"):
        Store.open(f"duckdb:{tmp_path / 'other'}", create=True)


def test_reads_and_writes_alternate(uri: str) -> None:
    """Also where no two connections can be open at once."""
    with Store.open(uri, create=True) as store:
        assert _count(store) == 0
        insert_rows(store, "runs", RUNS)
        with store.reading() as snapshot:
            assert (_count(store), store.rows("SELECT count(*) AS n FROM runs")[0]["n"]) == (1, 1)
            assert store.snapshot() == snapshot
        insert_rows(store, "runs", RUNS)
        assert _count(store) == 2
        with files.at_version(store, snapshot) as old:
            assert (_count(old), old.rows("SELECT count(*) AS n FROM runs")[0]["n"]) == (1, 1)
        assert len(store.rows("SELECT * FROM runs")) == 2


def test_mixtures_are_made_written_out_verified_and_cleaned_up(
    uri: str, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    with Store.open(uri, create=True) as store:
        for seed in (0, 1):  # the first mixture's content is in an older version of the store
            jobs.ingest(store, [str(write_collection(tmp_path / f"raw{seed}", "easy", seed=seed))])
            saved = registry.save(store, registry.weighted(registry.pin(store), {"easy": 1.0}), "one")
        materialise(store, saved.spec)
        verified = verify(store)
        assert (verified.faults, verified.checked["materialised"]) == ([], 1)
        assert ["version" in finding.says for finding in verified.findings] == [True]
        there = store.data.get_file_info(FileSelector("", recursive=True))
        assert verified.checked["data files"] == sum(file.is_file for file in there) > 0
        assert gc.gc(store) == []
        first = files.data_files(store, ["easy"])[0].path
        store.data.delete_file(first)
        assert (first, "is missing") in {(finding.name, finding.says) for finding in verify(store).faults}


def test_only_the_store_knows_which_database_the_catalog_is() -> None:
    knowing = [
        str(file.relative_to(REPOSITORY))
        for part in ("mixture", "trainers")
        for file in sorted((REPOSITORY / part).rglob("*.py"))
        if file.parent != REPOSITORY / "mixture" / "store" and "sqlite" in file.read_text("utf-8").lower()
    ]
    assert knowing == ["mixture/ingest/detect.py"]  # which says what a file is that it does not read


def test_sql_reads_the_snapshot_of_a_reading(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", create=True) as store, Store.open(tmp_path / "s") as other:
        rows = pa.table({"suite": ["s"] * 50, "query_id": [str(i) for i in range(50)], "query": ["q"] * 50})
        count = "SELECT count(*) AS n FROM test_queries"
        assert store.sql(count).to_pylist() == [{"n": 0}]
        with store.reading():
            insert_rows(other, "test_queries", rows)
            assert store.sql(count).to_pylist() == store.rows(count) == [{"n": 0}]
        assert store.sql(count).to_pylist() == store.rows(count) == [{"n": 50}]

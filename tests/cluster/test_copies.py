"""A store copied from a folder to PostgreSQL and S3, and back: everything is there, and it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, StoreError, UsageError, jobs, registry
from mixture.registry.verify import verify
from mixture.store import copies, files
from mixture.store.materialise import materialise
from mixture.store.schema import MIGRATIONS


@pytest.fixture
def full(small_store: Store, tmp_path: Path, write_collection: Callable[..., Path]) -> Store:
    """Mixtures of two versions of a collection, removed examples, runs, and a few rows that are in the catalog."""
    first = registry.save(small_store, registry.weighted(registry.pin(small_store), {"easy": 1.0}), "mix")
    jobs.mine(small_store, ["easy"], per_query=2)
    jobs.create(small_store, "mix")
    jobs.dedup(small_store, ["hard"], method="exact")
    jobs.ingest(small_store, [[{"query": "who was it", "pos": ["nobody"]}]], name="tiny")
    jobs.tag(small_store, "mix:1", "old")
    assert first.reference == "mix:1"
    return small_store


def _everything(store: Store) -> dict[str, Any]:
    tables = store.sql("SHOW TABLES")["name"].to_pylist()
    rows = {table: sorted(map(str, store.read(f"FROM lake.{table}").to_pylist()))
            for table in tables if _is_table(store, table)}  # fmt: skip
    assert rows["mixtures"] and rows["minings"] and rows["store_versions"]
    return rows | {
        "versions": store.rows("SELECT snapshot_id, schema_version, changes FROM lake.snapshots() ORDER BY 1")
    }


def _is_table(store: Store, name: str) -> bool:
    return bool(store.rows("SELECT 1 FROM duckdb_tables() WHERE database_name = 'lake' AND table_name = ?", [name]))


def test_there_and_back(full: Store, postgres: Any, s3: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))
    name, data = f"{postgres.name} schema=there", "s3://lake/there"
    runner = CliRunner()
    words = ["store", "copy", str(full.work), name, "--data", data]
    full.close()
    done = runner.invoke(app, words)
    assert (done.exit_code, "there" in done.stdout) == (0, True), done.output
    again = runner.invoke(app, words)
    assert (again.exit_code, "there is a store at" in again.stderr) == (2, True)
    with Store.open(full.work) as here, Store.open(name) as there:
        assert _everything(here) == _everything(there)
        jobs.copy_store(there, str(tmp_path / "back"))
    with Store.open(name) as there, Store.open(tmp_path / "back") as back:
        wanted = _everything(there)
        assert _everything(back) == wanted
        for store in (there, back):
            assert verify(store).faults == []
            with files.at_version(store, registry.resolve(store, "old").snapshot or 0) as old:
                assert old.rows("SELECT count(*) AS n FROM examples WHERE collection = 'easy'") == [{"n": 40}]
            materialise(store, registry.resolve(store, "old").spec)  # reads an older version of easy
            jobs.undo_mining(store)
            jobs.ingest(store, [[{"query": "and who was it then", "pos": ["somebody"]}]], name="more")
            assert store.rows("SELECT query FROM examples WHERE collection = 'more'") == [
                {"query": "and who was it then"}
            ]
            assert verify(store).faults == []


def test_a_stopped_copy_goes_on(full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> int:
        raise StoreError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(copies, "_copy_catalog", stop)
        with pytest.raises(StoreError, match="stopped"):
            jobs.copy_store(full, str(tmp_path / "copy"))
    with pytest.raises(UsageError, match="no store at"):
        Store.open(tmp_path / "copy")
    found = sorted((tmp_path / "copy" / "data").rglob("*.parquet"))
    times = [path.stat().st_mtime_ns for path in found]
    assert len(found) > 5
    found[0].write_bytes(b"half")
    copied = jobs.copy_store(full, str(tmp_path / "copy"))
    assert [path.stat().st_mtime_ns for path in found[1:]] == times[1:]
    assert (copied.files, copied.num_bytes) == (len(found), sum(path.stat().st_size for path in found))
    with Store.open(tmp_path / "copy") as copy:
        assert verify(copy).faults == []
        assert copy.rows("SELECT max(version) AS v FROM store_versions") == [{"v": len(MIGRATIONS)}]


def test_a_copy_does_not_go_where_something_is(full: Store, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "one.tex").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        jobs.copy_store(full, str(tmp_path / "thesis"))
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["one.tex"]
    shutil.copytree(full.work, tmp_path / "other")
    with pytest.raises(UsageError, match="already"):
        jobs.copy_store(full, str(tmp_path / "other"))

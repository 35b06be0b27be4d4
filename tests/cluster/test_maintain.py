"""Upkeep leaves contents, mixtures and steps back as they were, whoever reads meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyarrow.fs import FileSelector
from typer.testing import CliRunner

from cli import app
from mixture import Store, StoreError, UsageError, jobs, registry
from mixture.registry.verify import verify
from mixture.store import files

KILLED = "main/examples/collection=many/ducklake-01234567-89ab-7def-8123-456789abcdef.parquet"
READER = """
import sys, time
from mixture import Store
def count(store):
    return store.read("SELECT (SELECT count(*) FROM examples), (SELECT sum(length(text)) FROM passages), "
                      "(SELECT count(*) FROM mixture_weights), (SELECT count(*) FROM removals)").to_pylist()
seen = set()
with Store.open(sys.argv[1]) as held:
    print("ready", flush=True)
    while time.time() < float(sys.argv[2]):
        with held.reading():
            seen.add(str(count(held)))
            time.sleep(1)
            seen.add(str(count(held)))
            seen.add(str(held.sql("SELECT count(*) AS n FROM examples").to_pylist()))
        seen.add(str(count(held)))
        with Store.open(sys.argv[1]) as new:
            seen.add(str(count(new)))
            seen.add(str(new.sql("SELECT count(*) AS n FROM examples").to_pylist()))
print("\\n".join(sorted(seen)))
"""


@pytest.fixture
def name(postgres: Any, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))
    return f"{postgres.name} schema={'upkeep_' + tmp_path.name.replace('-', '_').lower()}"


@pytest.fixture
def store(name: str) -> Iterator[Store]:
    with Store.open(name, create=True, data=f"s3://lake/{name.rpartition('=')[2]}") as store:
        yield store


def _rows(seed: int, number: int = 30) -> list[dict[str, Any]]:
    return [{"query": f"what is {seed} and {n}", "pos": [f"it is {seed * n} of {seed}"],
             "neg": [f"it is {n} less {k} of {seed}" for k in range(3)]} for n in range(number)]  # fmt: skip


def _filled(store: Store) -> registry.SavedMixture:
    """A collection of many small files, changed after a mixture was made of it."""
    for seed in range(4):
        jobs.ingest(store, [_rows(seed)], name="many", append=True)
    saved = registry.save(store, registry.weighted(registry.pin(store), {"many": 1.0}), "mix")
    jobs.mine(store, ["many"], per_query=2)
    jobs.ingest(store, [[*_rows(7), *_rows(7)]], name="other")
    jobs.dedup(store, method="exact", key="positive")
    return saved


def _files(store: Store) -> set[str]:
    return {file.path for file in store.data.get_file_info(FileSelector("", recursive=True)) if file.is_file}


def _contents(store: Store) -> dict[str, Any]:
    tables = ("examples", "passages", "negatives", "removals", "minings", "mixtures", "mixture_weights")
    return {table: store.read(f"FROM {table} ORDER BY ALL") for table in tables}


def test_small_files_become_large_and_nothing_else_changes(store: Store, name: str) -> None:
    saved = _filled(store)
    digests = {part.collection: part.digest for part in registry.pin(store).values()}
    contents, before = _contents(store), len(files.data_files(store, ["many"]))
    told = store.read("SELECT collection, count(*) FROM examples GROUP BY ALL")
    done = jobs.maintain(store, days=0, file_hours=0)
    assert done.files_before > done.files_after and done.versions_gone > 5 and done.files_deleted > 10
    assert before > len(files.data_files(store, ["many"]))
    assert _files(store) == {file.path for file in files.data_files(store)}
    assert {part.collection: part.digest for part in registry.pin(store).values()} == digests
    assert _contents(store) == contents and told.num_rows == 2
    result = verify(store)
    assert result.faults == []
    assert [finding.says for finding in result.findings] == [f"is no longer today's; version {saved.snapshot} holds it"]
    # What is taken back is read from versions that were kept.
    removed = store.rows("SELECT count(*) AS n FROM removals")[0]["n"]
    jobs.undo(store, "dedup")
    jobs.undo_mining(store)
    assert removed and store.rows("SELECT count(*) AS n FROM removals") == [{"n": 0}]
    assert registry.pin(store)["many"].digest == saved.spec.components[0].digest
    again = jobs.maintain(store, days=0, file_hours=0)
    assert verify(store).findings == [] and again.versions_gone > 0


def test_who_reads_meanwhile_sees_all_rows(store: Store, name: str) -> None:
    _filled(store)
    reader = subprocess.Popen([sys.executable, "-c", READER, name, str(time.time() + 30)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
    deleted = gone = 0
    while reader.poll() is None:
        done = jobs.maintain(store, days=0, file_hours=10 / 3600)  # a query takes no 10 s
        deleted, gone = deleted + done.files_deleted, gone + done.versions_gone
        jobs.tag(store, "mix", "newest")
    out, errors = reader.communicate(timeout=120)
    assert reader.returncode == 0, errors
    assert len(out.splitlines()) == 2, out
    assert deleted > 5 and gone > 5


def test_files_with_deleted_rows_are_merged_too(store: Store) -> None:
    for seed in range(5):
        jobs.ingest(store, [[*_rows(seed), _rows(0)[seed + 1] | {"query": f"again {seed}"}]], name="many", append=True)
    mixture = registry.save(store, registry.weighted(registry.pin(store), {"many": 1.0}), "mix")
    jobs.dedup(store, method="exact", key="positive")
    removed = store.rows("SELECT count(*) AS n FROM removals")[0]["n"]
    contents, before = _contents(store), [f for f in files.data_files(store, ["many"]) if f.table == "examples"]
    jobs.maintain(store, days=0, file_hours=0)
    assert removed and len(before) > 5
    assert store.rows("SELECT count(*) AS n FROM ducklake_list_files('lake', 'examples')") == [{"n": 1}]
    assert _contents(store) == contents
    result = verify(store)
    assert not result.faults
    assert f"version {mixture.snapshot} holds it" in result.findings[0].says
    jobs.undo(store, "dedup")
    assert registry.pin(store)["many"].digest == mixture.spec.components[0].digest
    again = registry.save(store, registry.weighted(registry.pin(store), {"many": 1.0}), "mix")
    assert again.spec.id == mixture.spec.id
    jobs.maintain(store, days=0, file_hours=0)
    (left,) = [f for f in files.data_files(store, ["many"]) if f.table == "examples"][-1:]
    assert left.sha256 is not None


def test_few_rows_of_any_name_stay_deleted(store: Store) -> None:
    """DuckLake keeps few rows in the catalog."""
    for name in ("few", "数据"):
        jobs.ingest(store, [_rows(1, 8)], name=name)
        store.transaction(
            lambda c: c.execute("DELETE FROM examples WHERE query IN ('what is 1 and 2', 'what is 1 and 3')")
        )
    digests = {name: part.digest for name, part in registry.pin(store).items()}
    jobs.maintain(store, days=0, file_hours=0)
    assert store.rows("SELECT count(*) AS n FROM examples") == [{"n": 12}]
    assert {name: part.digest for name, part in registry.pin(store).items()} == digests
    jobs.remove(store, ["数据"])
    jobs.maintain(store, days=0, file_hours=0)
    assert store.rows("SELECT DISTINCT collection FROM examples") == [{"collection": "few"}]


def test_what_dedup_alone_took_out_comes_back(store: Store, name: str, postgres: Any) -> None:
    """And versions long after it are not kept for it."""
    jobs.ingest(store, [[*_rows(1), *({**row, "query": f"{row['query']}?"} for row in _rows(1))]], name="twice")
    jobs.dedup(store, method="exact", key="positive")
    removed = store.rows("SELECT count(*) AS n FROM removals")[0]["n"]
    store.close()
    with psycopg.connect(f"host=127.0.0.1 port={postgres.port} user=mixture dbname=lake") as session:
        session.execute(
            f"""UPDATE {name.rpartition("=")[2]}.ducklake_snapshot
                SET snapshot_time = snapshot_time - INTERVAL '30 days'"""
        )
    store.transaction(lambda c: c.execute("UPDATE removals SET removed_at = removed_at - INTERVAL '30 days'"))
    for number in range(3):
        jobs.ingest(store, [_rows(number + 2)], name="other", append=True)
    last = store.snapshot()
    jobs.maintain(store, days=0, file_hours=0)
    left = {row["n"] for row in store.rows("SELECT snapshot_id AS n FROM lake.snapshots()")}
    assert not left & set(range(last - 2, last)) and removed == 30
    jobs.undo(store, "dedup")
    assert store.rows("SELECT count(*) AS n FROM examples WHERE collection = 'twice'") == [{"n": 60}]


def test_a_removed_collection_comes_back_with_its_steps_back(store: Store) -> None:
    _filled(store)
    contents = _contents(store)
    jobs.remove(store, ["many", "other"])
    jobs.maintain(store, days=0, file_hours=0)
    jobs.remove(store, undo=True)
    assert _contents(store) == contents
    jobs.undo(store, "dedup")
    jobs.undo_mining(store)
    assert store.rows("SELECT count(*) AS n FROM removals") == [{"n": 0}]
    assert store.rows("SELECT count(*) AS n FROM negatives WHERE miner != 'provided'") == [{"n": 0}]


def test_what_is_recent_stays(store: Store) -> None:
    _filled(store)
    before = _files(store)
    done = jobs.maintain(store)
    assert (done.versions_gone, done.files_deleted) == (0, 0)
    assert before <= _files(store)


def test_a_version_is_as_old_as_its_successor(store: Store, name: str, postgres: Any) -> None:
    for seed in range(4):
        jobs.ingest(store, [_rows(seed)], name="many", append=True)
    versions = [row["n"] for row in store.rows("SELECT snapshot_id AS n FROM lake.snapshots() ORDER BY 1")]
    store.close()
    with psycopg.connect(f"host=127.0.0.1 port={postgres.port} user=mixture dbname=lake") as session:
        session.execute(
            f"""UPDATE {name.rpartition("=")[2]}.ducklake_snapshot
                SET snapshot_time = snapshot_time - INTERVAL '30 days' WHERE snapshot_id <= {versions[-1]}"""
        )
    assert jobs.maintain(store).versions_gone == len(versions) - 1
    left = {row["n"] for row in store.rows("SELECT snapshot_id AS n FROM lake.snapshots()")}
    assert versions[-1] in left and not set(versions[:-1]) & left


def test_files_of_a_killed_writer_go_after_a_while_and_no_others(store: Store) -> None:
    _filled(store)
    others = {f"inner/{KILLED}", "main/examples/notes.txt", "main/examples/collection=many/mine.parquet"}
    for path in {KILLED, *others}:
        with store.data.open_output_stream(path) as stream:
            stream.write(b"x")
    jobs.maintain(store)
    assert others | {KILLED} <= _files(store)
    jobs.maintain(store, file_hours=0)
    assert others <= _files(store) and KILLED not in _files(store)
    assert verify(store).faults == []


@pytest.mark.parametrize("recorded", [True, False])
def test_damage_is_not_written_into_new_files(store: Store, recorded: bool) -> None:
    """A merged file would have the damage and a hash of its own."""
    _filled(store)
    if not recorded:
        jobs.ingest(store, [_rows(9)], name="many", append=True)
    whole = {file.path: file for file in files.data_files(store, ["many"])}
    path = next(f.path for f in whole.values() if f.table == "passages" and (f.sha256 is not None) == recorded)
    with store.data.open_input_file(path) as stream:
        content = bytearray(stream.read())
    at = content.find(b"it is ") if not recorded else len(content) // 2
    content[at] ^= 1
    with store.data.open_output_stream(path) as stream:
        stream.write(bytes(content))
    says = "its bytes have changed since" if recorded else "rows do not have|cannot be read"
    with pytest.raises(StoreError, match=f"{path}: .*({says}).*; nothing was done"):
        jobs.maintain(store)
    assert {file.path for file in files.data_files(store, ["many"])} == set(whole)
    store.data.delete_file(path)
    with pytest.raises(StoreError, match=f"{path}: is missing"):
        jobs.maintain(store)


def test_merged_files_of_a_slice_have_hashes(store: Store) -> None:
    for seed in range(3):
        jobs.ingest(store, [[row | {"language": "en"} for row in _rows(seed)]], name="many", append=True)
    jobs.create(store, "sliced", slices=["many:language"])
    jobs.maintain(store, days=0, file_hours=0)
    assert all(file.sha256 is not None for file in files.data_files(store, ["many"]) if file.table != "data_files")


def test_the_command_says_what_it_did_and_what_is_wrong(store: Store, name: str, tmp_path: Path) -> None:
    _filled(store)
    done = CliRunner().invoke(app, ["--store", name, "maintain", "--days", "0", "--file-hours", "0", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["files_after"] < row["files_before"] and row["files_deleted"] > 0
    for wrong in ({"days": -1.0}, {"file_hours": float("nan")}, {"days": 1e6}):
        with pytest.raises(UsageError, match="allowed: numbers from 0 to 36,500"):
            jobs.maintain(store, **wrong)
    with (
        Store.open(tmp_path / "folder", create=True) as folder,
        pytest.raises(UsageError, match="is in a folder; upkeep is for stores in a database"),
    ):
        jobs.maintain(folder)

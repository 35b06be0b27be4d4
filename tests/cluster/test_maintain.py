"""Upkeep leaves contents, mixtures and steps back as they were, on both kinds of store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, StoreError, UsageError, jobs, registry
from mixture.registry.verify import verify
from mixture.store import files


@pytest.fixture(params=["folder", pytest.param("postgres", id="postgres and S3")])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A new store of either kind."""
    name, data = str(tmp_path / "store"), None
    if request.param == "postgres":
        monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))
        schema = f"m{abs(hash(request.node.nodeid))}"
        server = request.getfixturevalue("postgres").name
        request.getfixturevalue("s3")
        name, data = f"{server} schema={schema}", f"s3://lake/{schema}"
    with Store.open(name, create=True, data=data) as store:
        yield store


def _rows(seed: int, number: int = 30) -> list[dict[str, Any]]:
    return [{"query": f"what is {seed} and {n}", "pos": [f"it is {seed * n} of {seed}"],
             "neg": [f"it is {n} less {k} of {seed}" for k in range(3)]} for n in range(number)]  # fmt: skip


def _filled(store: Store) -> registry.SavedMixture:
    """A collection of many small files, changed after a mixture was made of it."""
    for seed in range(6):
        jobs.ingest(store, [_rows(seed)], name="many", append=True)
    saved = registry.save(store, registry.weighted(registry.pin(store), {"many": 1.0}), "mix")
    jobs.mine(store, ["many"], per_query=2)
    jobs.ingest(store, [[*_rows(7), *_rows(7)]], name="other")
    jobs.dedup(store, method="exact", key="positive")
    return saved


def _files(store: Store) -> set[str]:
    from pyarrow.fs import FileSelector

    return {file.path for file in store.data.get_file_info(FileSelector("", recursive=True)) if file.is_file}


def test_small_files_become_large_and_nothing_else_changes(store: Store) -> None:
    saved = _filled(store)
    contents = {part.collection: part.digest for part in registry.pin(store).values()}
    tables = {
        name: store.read(f"FROM {name} ORDER BY ALL") for name in ("examples", "passages", "negatives", "removals")
    }
    before = len(files.data_files(store, ["many"]))
    done = jobs.maintain(store, days=0, file_hours=0)
    assert done.files_before > done.files_after and done.versions_gone > 5 and done.files_deleted > 10
    assert before > len(files.data_files(store, ["many"]))
    assert _files(store) == {file.path for file in files.data_files(store)}
    assert {part.collection: part.digest for part in registry.pin(store).values()} == contents
    assert {name: store.read(f"FROM {name} ORDER BY ALL") for name in tables} == tables
    result = verify(store)
    assert result.faults == []
    assert [finding.says for finding in result.findings] == [f"is no longer today's; version {saved.snapshot} holds it"]
    # What is taken back is read from versions that were kept.
    gone = store.rows("SELECT count(*) AS n FROM removals")[0]["n"]
    jobs.undo(store, "dedup")
    jobs.undo_mining(store)
    assert gone and store.rows("SELECT count(*) AS n FROM removals") == [{"n": 0}]
    assert registry.pin(store)["many"].digest == saved.spec.components[0].digest
    again = jobs.maintain(store, days=0, file_hours=0)
    assert verify(store).findings == [] and again.versions_gone > 0


def test_what_is_recent_stays(store: Store) -> None:
    _filled(store)
    versions = store.rows("SELECT count(*) AS n FROM lake.snapshots()")[0]["n"]
    before = _files(store)
    done = jobs.maintain(store)
    assert (done.versions_gone, done.files_deleted) == (0, 0)
    assert store.rows("SELECT count(*) AS n FROM lake.snapshots()")[0]["n"] >= versions
    assert before <= _files(store)
    for wrong in ({"days": -1.0}, {"file_hours": float("nan")}):
        with pytest.raises(UsageError, match="allowed: numbers from 0 up"):
            jobs.maintain(store, **wrong)


def test_files_of_a_killed_writer_go_after_a_while(store: Store) -> None:
    _filled(store)
    with store.data.open_output_stream("main/examples/collection=many/killed.parquet") as stream:
        stream.write(b"x")
    jobs.maintain(store)
    assert "main/examples/collection=many/killed.parquet" in _files(store)
    jobs.maintain(store, file_hours=0)
    assert "main/examples/collection=many/killed.parquet" not in _files(store)
    assert verify(store).faults == []


def test_the_command_says_what_it_did(
    small_store: Store, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    jobs.ingest(small_store, [str(write_collection(tmp_path, "easy", seed=3))], append=True)
    words = ["--store", str(small_store.work), "maintain", "--days", "0", "--file-hours", "0", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["files_after"] < row["files_before"] and row["files_deleted"] > 0
    assert verify(small_store).faults == []


def test_damage_is_not_written_into_new_files(store: Store) -> None:
    """A merged file would have the damage and a hash of its own."""
    _filled(store)
    whole = {file.path: file for file in files.data_files(store, ["many"])}
    path = next(file.path for file in whole.values() if file.table == "passages")
    with store.data.open_input_file(path) as stream:
        content = bytearray(stream.read())
    content[len(content) // 2] ^= 1
    with store.data.open_output_stream(path) as stream:
        stream.write(bytes(content))
    with pytest.raises(StoreError, match=f"{path}: its bytes have changed since .*; nothing was done"):
        jobs.maintain(store)
    assert {file.path for file in files.data_files(store, ["many"])} == set(whole)
    store.data.delete_file(path)
    with pytest.raises(StoreError, match=f"{path}: is missing"):
        jobs.maintain(store)

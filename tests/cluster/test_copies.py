"""A store copied from a folder to PostgreSQL and S3, and back: everything of every version is there, and it goes on."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyarrow.fs import FileSelector
from typer.testing import CliRunner

from cli import app
from mixture import Store, StoreError, UsageError, jobs, registry
from mixture.registry.verify import verify
from mixture.store import copies, files, place, schema
from mixture.store.catalog import CATALOGS, FolderCatalog
from mixture.store.materialise import materialise
from mixture.store.write import append, insert_rows

# Zero bytes, letters that a cast would escape, quotes and brackets that a list's text has too.
NOW = datetime(2026, 11, 29, 23, 59, 59, 123456, UTC)
ODD = "wäs \0 \\x41 'it', [\"{NULL}\"] 漢字"
# Killed when three files are sent, before the catalog, in its transaction, when it is filled, and when it has appeared.
KILLED = """
import os, sys
from mixture import Store, jobs
from mixture.store import copies
done, at = 0, sys.argv.pop(1)
def die(*given):
    os.kill(os.getpid(), 9)
if at == "moved":
    copies._moved = die
elif at == "compared":
    copies._compared = die
elif at == "appeared":
    real = copies.place.reached
    copies.place.reached = lambda data: die() if copies.catalog_of(*sys.argv[2:]).exists() else real(data)
def progress(number, total, what):
    global done
    done += 1
    if at == what or (at == "files" and done == 3):
        die()
with Store.open(sys.argv[1]) as store:
    jobs.copy_store(store, sys.argv[2], data=sys.argv[3] if len(sys.argv) > 3 else None, progress=progress)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Any, Any]]:
    """The folder of a store, and all that is in it."""
    folder = tmp_path_factory.mktemp("filled") / "store"
    with Store.open(folder, create=True) as store:
        _fill(store)
        return folder, _everything(store)


@pytest.fixture
def wanted(filled: tuple[Path, dict[Any, Any]]) -> dict[Any, Any]:
    return filled[1]


@pytest.fixture
def full(filled: tuple[Path, dict[Any, Any]], tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(filled[0], tmp_path / "full")
    with Store.open(tmp_path / "full") as store:
        yield store


def _fill(store: Store) -> None:
    """Mixtures of two versions of a collection, removed and renamed rows, in files and in the catalog."""
    rows = [{"query": f"what is {n}", "pos": [f"it is {n % 9}"], "neg": [f"it is {n} less {k}" for k in range(3)]}
            for n in range(40)]  # fmt: skip
    jobs.ingest(store, [rows], name="many")
    odd = [{"query": f"who {ODD}", "pos": [f"nobody {ODD}"], "neg": [ODD, "x"]}]
    jobs.ingest(store, [odd], name="tänÿ")
    jobs.ingest(store, [[row | {"query": f"{row['query']} ä"} for row in rows]], name="größer")
    registry.save(store, registry.weighted(registry.pin(store), {"many": 0.3, "tänÿ": 0.7}), "mix")
    jobs.mine(store, ["many"], per_query=2)
    jobs.create(store, "mix")
    jobs.dedup(store, ["many"], method="exact", key="positive")
    jobs.ingest(store, [[{"query": "who else", "pos": ["somebody"]}, {"query": ODD, "pos": ["she"]}]], name="gone")
    jobs.remove(store, ["gone"])
    jobs.rename(store, "tänÿ", "neü")
    jobs.tag(store, "mix:1", "old")
    prompts = ODD.replace("\0", "")  # a list with a zero byte is more than DuckLake keeps
    insert_rows(store, "collections", [{"collection": "listed", "prompts": [prompts, "", "NULL"], "added_at": NOW}])
    odds = (-0.0, float("nan"), float("-inf"), 3.4e38)
    insert_rows(store, "positive_scores", [{"collection": "größer", "example_id": str(n), "passage_id": ODD,
                                            "score": score, "miner": ""} for n, score in enumerate(odds)])  # fmt: skip
    scores = [{"run_id": "0123456789ab", "candidate": n, "target": ODD, "target_group": "all", "loss": loss,
               "ndcg": None} for n, loss in enumerate((0.1, float("inf"), 1e-300, 2 / 3))]  # fmt: skip
    store.transaction(lambda connection: append(connection, "candidate_scores", scores))


def _everything(store: Store) -> dict[Any, Any]:
    """All that the versions of a store are: each row that came and each that went, with the version and its number."""
    tables = store.rows("SELECT table_name AS name FROM duckdb_tables() WHERE database_name = 'lake'")
    found: dict[Any, Any] = {"versions": store.rows("FROM lake.snapshots() ORDER BY snapshot_id")}
    for table in tables:
        found[table["name"]] = sorted(map(repr, store.read(f"FROM {table['name']}").to_pylist()))
        for kind in ("insertions", "deletions"):
            query = f"FROM lake.table_{kind}('{table['name']}', 0, {store.snapshot()})"
            found[table["name"], kind] = sorted(map(repr, store.read(query).to_pylist()))
    return found


def _same(first: dict[Any, Any], second: dict[Any, Any]) -> bool:
    assert first.keys() == second.keys()
    return not [key for key in first if first[key] != second[key]]


def _objects(data: str) -> dict[str, Any]:
    found = place.file_system(data).get_file_info(FileSelector("", recursive=True))
    return {file.path: (file.size, file.mtime_ns) for file in found if file.is_file}


def test_there_and_back(full: Store, wanted: dict[Any, Any], postgres: Any, s3: Any, tmp_path: Path) -> None:
    name, data = f"{postgres.name} schema=there", "s3://lake/there"
    runner = CliRunner()
    words = ["store", "copy", str(full.work), name, "--data", data]
    assert len(wanted["versions"]) > 9 and len(wanted["examples", "deletions"]) > 30
    assert len(wanted["examples"]) + len(wanted["examples", "deletions"]) == len(wanted["examples", "insertions"])
    done = runner.invoke(app, words)
    assert (done.exit_code, "schema=there" in done.stdout) == (0, True), done.output
    again = runner.invoke(app, words)
    assert (again.exit_code, "there is a store at" in again.stderr) == (2, True)
    with Store.open(name) as there:
        assert _same(_everything(there), wanted)
        copied = jobs.copy_store(there, str(tmp_path / "back"))
        assert copied.versions == len(wanted["versions"]) and copied.files == copied.files_sent > 5
    assert not [path for path in _objects(f"{data}/") if not path.startswith("main/")]
    with Store.open(name) as there, Store.open(tmp_path / "back") as back:
        assert _same(_everything(back), wanted)
        assert full.work.joinpath("data").is_dir() and back.work.joinpath("data").is_dir()
        for store in (there, back):
            assert verify(store).faults == []
            old = registry.resolve(store, "old")
            with files.at_version(store, old.snapshot or 0) as before:
                assert before.rows("SELECT count(*) AS n FROM examples WHERE collection = 'many'") == [{"n": 40}]
            materialise(store, old.spec)  # reads an older version of many
            # Each goes on as a store does, with rows that were in the catalog too.
            jobs.undo(store, "dedup")
            jobs.undo_mining(store)
            jobs.remove(store, undo=True)
            jobs.rename(store, undo=True)
            assert registry.pin(store)["tänÿ"].digest == registry.pin(full)["neü"].digest
            assert registry.pin(store)["many"].digest == old.spec.components[0].digest
            jobs.ingest(store, [[{"query": f"and who {ODD}", "pos": ["somebody"]}]], name="more")
            assert store.rows("SELECT query FROM examples WHERE collection = 'more'") == [{"query": f"and who {ODD}"}]
            assert jobs.create(store, "mix").reference == "mix:3"
            assert verify(store).faults == []
        assert _same(_everything(full), wanted)


def test_a_copy_is_kept_as_ducklake_keeps_its_own(full: Store, postgres: Any, s3: Any, tmp_path: Path) -> None:
    """The tables of the catalog, their columns and types are those of a store that was filled there."""
    with Store.open(f"{postgres.name} schema=own", create=True, data="s3://lake/own") as own:
        _fill(own)
        jobs.copy_store(full, f"{postgres.name} schema=copied", data="s3://lake/copied")
        jobs.copy_store(own, str(tmp_path / "back"))
    with psycopg.connect(postgres.name.removeprefix("postgres:")) as session:
        query = """SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default
                   FROM information_schema.columns WHERE table_schema = %s ORDER BY 1, 2"""
        tables = [session.execute(query, [schema]).fetchall() for schema in ("own", "copied")]
        schemas = session.execute("SELECT nspname FROM pg_namespace").fetchall()
    assert len(tables[0]) > 300 and tables[0] == tables[1]
    assert not [name for (name,) in schemas if name.startswith("writing_")]
    made = []
    for folder in (full.work, tmp_path / "back"):
        with sqlite3.connect(folder / "catalog.sqlite") as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            made.append({name: connection.execute(f'PRAGMA table_info("{name}")').fetchall() for name in names})
    assert made[0] == made[1]


def test_what_comes_meanwhile_is_copied_too(full: Store, tmp_path: Path) -> None:
    rows = [{"query": f"how is {n}", "pos": [f"it is {n}"]} for n in range(30)]

    def progress(number: int, total: int, what: str) -> None:
        if number == 1 and not (tmp_path / "told").exists():
            (tmp_path / "told").touch()
            with Store.open(full.work) as other:
                jobs.ingest(other, [rows], name="late")

    jobs.copy_store(full, str(tmp_path / "copy"), progress=progress)
    assert (tmp_path / "told").exists()
    with Store.open(tmp_path / "copy") as copy:
        assert _same(_everything(copy), _everything(full))
        assert copy.rows("SELECT count(*) AS n FROM examples WHERE collection = 'late'") == [{"n": 30}]


def _killed(at: str, full: Store, target: str, data: str | None) -> None:
    words = [at, str(full.work), target, *([data] if data else [])]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(params=["folder", "postgres"])
def target(request: pytest.FixtureRequest, postgres: Any, s3: Any, tmp_path: Path) -> tuple[str, str | None]:
    """A name and `data` of a place where no store is."""
    if request.param == "folder":
        return str(tmp_path / "copy"), None
    own = re.sub(r"\W", "_", tmp_path.name.lower())
    return f"{postgres.name} schema={own}", f"s3://lake/{own}"


def _place(target: tuple[str, str | None]) -> str:
    name, data = target
    return f"{data}/" if data else f"{name}/data/"


def test_a_killed_copy_goes_on(
    full: Store, wanted: dict[Any, Any], target: tuple[str, str | None], tmp_path: Path
) -> None:
    name, data = target
    _killed("files", full, name, data)
    with pytest.raises(UsageError, match="no store at"):
        Store.open(name)
    with pytest.raises(UsageError, match="not empty"):
        Store.open(name, create=True, data=data)
    with Store.open(tmp_path / "other", create=True) as other, pytest.raises(UsageError, match="another copy"):
        jobs.copy_store(other, name, data=data)
    # Files that were being sent when it was killed may be there by half.
    sizes = {file.path: file.num_bytes for file in files.data_files(full)}
    sent = {path: facts for path, facts in _objects(_place(target)).items() if sizes.get(path) == facts[0]}
    assert 2 < len(sent) < len(files.data_files(full))
    # A file that came later and went again; a half one; somebody's.
    gone, half = "main/examples/collection=many/ducklake-01234567-89ab-7def-8123-456789abcdef.parquet", next(iter(sent))
    theirs = "main/examples/notes.txt"
    for path in (gone, half, theirs):
        with place.file_system(_place(target)).open_output_stream(path) as stream:
            stream.write(b"half")
    copied = jobs.copy_store(full, name, data=data)
    assert copied.files_sent == copied.files - len(sent) + 1
    now = _objects(_place(target))
    assert {path: now[path] for path in sent if path != half} == {p: sent[p] for p in sent if p != half}
    assert now.keys() == {file.path for file in files.data_files(full)} | {theirs}
    with Store.open(name) as copy:
        assert _same(_everything(copy), wanted) and verify(copy).faults == []


@pytest.mark.parametrize("at", ["the catalog", "moved", "compared"])
def test_a_copy_killed_at_its_catalog_is_no_store(
    at: str, full: Store, wanted: dict[Any, Any], target: tuple[str, str | None]
) -> None:
    name, data = target
    _killed(at, full, name, data)
    with pytest.raises(UsageError, match="no store at"):
        Store.open(name)
    assert jobs.copy_store(full, name, data=data).files_sent == 0
    with Store.open(name) as copy:
        assert _same(_everything(copy), wanted)
    if not data:
        found = [path.name for path in Path(name).iterdir() if path.is_file()]
        assert sorted(found) == ["catalog.sqlite", "write.lock"]


def test_a_copy_killed_at_its_end_is_whole_and_its_files_are_its_own(
    full: Store, target: tuple[str, str | None], postgres: Any
) -> None:
    """No later call takes them for a part of its own copy."""
    name, data = target
    _killed("appeared", full, name, data)
    with Store.open(name) as copy:
        jobs.ingest(copy, [[{"query": f"who is {n}", "pos": [f"she {n}"]} for n in range(30)]], name="later")
        assert {file.path for file in files.data_files(copy)} < _objects(_place(target)).keys()
        with pytest.raises(UsageError, match="already"):
            jobs.copy_store(full, name, data=data)
        with pytest.raises(UsageError, match="another copy"):
            jobs.copy_store(full, f"{postgres.name} schema=another", data=data or f"{name}/data")
        assert verify(copy).faults == []


def test_two_places_with_one_folder_of_files(full: Store, postgres: Any, s3: Any, monkeypatch: Any) -> None:
    """The second call takes the place over; the first one, which comes back to it, leaves it alone."""
    real = copies._copy_catalog
    first, second = (f"{postgres.name} schema=one_of_{name}" for name in ("two", "both"))

    def meanwhile(*given: Any) -> None:
        real(*given)
        monkeypatch.setattr(copies, "_copy_catalog", real)
        place.file_system("s3://lake/both/").delete_file(copies.MARK)
        with place.file_system("s3://lake/both/").open_output_stream(copies.MARK) as stream:
            stream.write(f"{second}".encode())

    monkeypatch.setattr(copies, "_copy_catalog", meanwhile)
    with pytest.raises(UsageError, match="another copy"):
        jobs.copy_store(full, first, data="s3://lake/both")
    with pytest.raises(UsageError, match="no store at"):
        Store.open(first)


def test_a_copy_killed_at_its_mark_goes_on(full: Store, wanted: dict[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "copy" / "data").mkdir(parents=True)
    (tmp_path / "copy" / "data" / copies.MARK).touch()
    jobs.copy_store(full, str(tmp_path / "copy"))
    with Store.open(tmp_path / "copy") as copy:
        assert _same(_everything(copy), wanted)


def test_rows_that_the_copy_gives_otherwise_are_found(
    full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As escapes of what is not ASCII would be."""
    kept = copies._moved

    def wrong(column: str, kind: str, wanted: str) -> str:
        return f"replace({column}, 'ü', '\\xFC') AS {column}" if column == "collection" else kept(column, kind, wanted)

    monkeypatch.setattr(copies, "_moved", wrong)
    with pytest.raises(StoreError, match="gives other rows"):
        jobs.copy_store(full, str(tmp_path / "copy"))
    with pytest.raises(UsageError, match="no store at"):
        Store.open(tmp_path / "copy")


def test_a_damaged_store_is_not_copied(full: Store, wanted: dict[Any, Any], tmp_path: Path) -> None:
    file = next(file for file in files.data_files(full, ["many"]) if file.table == "passages" and file.sha256)
    path = full.work / "data" / file.path
    good = path.read_bytes()
    path.write_bytes(good[:-9] + b"!" + good[-8:])
    with pytest.raises(StoreError, match=re.escape(file.path) + " is damaged"):
        jobs.copy_store(full, str(tmp_path / "copy"))
    path.unlink()
    with pytest.raises(StoreError, match="cannot be reached.*" + re.escape(file.path)):
        jobs.copy_store(full, str(tmp_path / "copy"))
    with pytest.raises(UsageError, match="no store at"):
        Store.open(tmp_path / "copy")
    path.write_bytes(good)
    jobs.copy_store(full, str(tmp_path / "copy"))
    with Store.open(tmp_path / "copy") as copy:
        assert verify(copy).faults == [] and _same(_everything(copy), wanted)


def test_a_copy_does_not_go_where_something_is(full: Store, postgres: Any, s3: Any, tmp_path: Path) -> None:
    for folder in ("thesis", "thesis/data"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "one.tex").write_text("mine")
        with pytest.raises(UsageError, match="not empty"):
            jobs.copy_store(full, str(tmp_path / "thesis"))
        assert (tmp_path / folder / "one.tex").read_text() == "mine"
        (tmp_path / folder / "one.tex").unlink()
    with pytest.raises(UsageError, match="already"):
        jobs.copy_store(full, str(full.work))
    for inside in (full.work / "copy", full.work / "data" / "copy"):
        with pytest.raises(UsageError, match="inside the store"):
            jobs.copy_store(full, str(inside))
        assert not inside.exists()
    with pytest.raises(UsageError, match=r"one\.tex/copy cannot be made"):
        (tmp_path / "one.tex").write_text("mine")
        jobs.copy_store(full, str(tmp_path / "one.tex" / "copy"))
    name = f"{postgres.name} schema=taken"
    with pytest.raises(UsageError, match="`data` says where"):
        jobs.copy_store(full, name)
    with place.file_system("s3://lake/").open_output_stream("taken/theirs") as stream:
        stream.write(b"theirs")
    with pytest.raises(UsageError, match="not empty"):
        jobs.copy_store(full, name, data="s3://lake/taken")
    assert list(_objects("s3://lake/taken/")) == ["theirs"]
    # A schema of somebody else with the name that a copy takes meanwhile.
    with psycopg.connect(postgres.name.removeprefix("postgres:"), autocommit=True) as session:
        stage = f"writing_{hashlib.sha256(b'taken').hexdigest()[:16]}"
        session.execute(f"CREATE SCHEMA {stage}; CREATE TABLE {stage}.theirs (n int)")
        with pytest.raises(UsageError, match=f"has a schema {stage}"):
            jobs.copy_store(full, name, data="s3://lake/new")
        assert session.execute(f"SELECT count(*) FROM {stage}.theirs").fetchone() == (0,)
    for words, says in (
        (["store", "move", str(full.work), str(tmp_path / "copy")], "store copy FROM TO"),
        (["store", "copy", str(tmp_path / "none"), str(tmp_path / "copy")], "FROM: no store at"),
        (["store", "copy", str(full.work), str(tmp_path)], "new folder in TO"),
        (["--store", "store", "list"], "no store at"),
    ):
        result = CliRunner().invoke(app, words)
        assert (result.exit_code, says in result.stderr) == (2, True), result.stderr


def test_two_calls_at_once_make_one_copy(
    full: Store, wanted: dict[Any, Any], postgres: Any, s3: Any, tmp_path: Path
) -> None:
    for target, data in ((tmp_path / "copy", []), (f"{postgres.name} schema=twice", ["--data", "s3://lake/twice"])):
        words = [sys.executable, "-m", "mixture", "store", "copy", str(full.work), str(target), *data]
        calls = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in "ab"]
        said = {call.wait(120): call.communicate()[1] for call in calls}
        assert sorted(said) == [0, 2] and "already" in said[2], said
        with Store.open(target) as copy:
            assert _same(_everything(copy), wanted) and verify(copy).faults == []


def test_in_one_database_and_between_folders(
    full: Store, wanted: dict[Any, Any], postgres: Any, s3: Any, tmp_path: Path
) -> None:
    first, second = (f"{postgres.name} schema={name}" for name in ("first", "second"))
    jobs.copy_store(full, str(tmp_path / "copy"))
    with Store.open(tmp_path / "copy") as copy:
        jobs.copy_store(copy, first, data=str(tmp_path / "shared"))
    with Store.open(first) as one:
        jobs.copy_store(one, second, data="s3://lake/second")
    with Store.open(second) as two:
        assert _same(_everything(two), wanted) and verify(two).faults == []


def test_a_store_that_came_from_an_older_version(
    postgres: Any, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables had fewer columns when the first rows came."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:7])
        with Store.open(tmp_path / "old", create=True) as old:
            old.transaction(lambda connection: connection.execute(
                "INSERT INTO evaluations (model, suite, metric, value, num_queries, num_documents, corpus, prompt, "
                f"evaluated_at) VALUES ('m', 'ä', 'ndcg@10', 0.1, 3, 4, 'c', $${ODD.replace(chr(0), '')}$$, now())"
            ))  # fmt: skip
    with Store.open(tmp_path / "old") as store:
        _fill(store)
        jobs.copy_store(store, f"{postgres.name} schema=older", data="s3://lake/older")
        wanted = _everything(store)
    with Store.open(f"{postgres.name} schema=older") as there:
        assert _same(_everything(there), wanted)
        assert there.rows("SELECT suite, value, revision FROM evaluations") == [
            {"suite": "ä", "value": 0.1, "revision": None}]  # fmt: skip
        assert len(there.rows("SELECT * FROM evaluations AT (VERSION => 2)")[0]) < 20


class DuckdbCatalog(FolderCatalog):
    kind = "duckdb"
    prefix = "ducklake:"
    shared = False


def test_from_a_catalog_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGS, "duckdb", f"{__name__}:DuckdbCatalog")
    with Store.open(f"duckdb:{tmp_path / 'apart'}", create=True) as apart:
        _fill(apart)
        wanted = _everything(apart)
        jobs.copy_store(apart, str(tmp_path / "copy"))
    with Store.open(tmp_path / "copy") as copy:
        assert _same(_everything(copy), wanted)
        with pytest.raises(UsageError, match="nobody has found out"):
            jobs.copy_store(copy, f"duckdb:{tmp_path / 'other'}")
    assert not (tmp_path / "other").exists()


def test_the_source_is_written_in_turn(full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that comes while the catalog is copied, waits for it, and is not in the copy by half."""
    kept, script = copies._copy_catalog, tmp_path / "write.py"
    script.write_text(
        "import sys\nfrom mixture import Store, jobs\nprint('ready', flush=True)\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    jobs.ingest(store, [[{'query': 'late', 'pos': ['it']}]], name='late')\n"
    )
    waiting = []

    def meanwhile(*given: Any) -> None:
        process = subprocess.Popen([sys.executable, str(script), str(full.work)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(3)
        waiting.append((process.poll(), process))
        kept(*given)

    monkeypatch.setattr(copies, "_copy_catalog", meanwhile)
    jobs.copy_store(full, str(tmp_path / "copy"))
    ((code, process),) = waiting
    assert code is None and process.wait(60) == 0
    with Store.open(tmp_path / "copy") as copy:
        assert copy.rows("SELECT * FROM collections WHERE collection = 'late'") == []
    assert full.rows("SELECT count(*) AS n FROM collections WHERE collection = 'late'") == [{"n": 1}]

"""A store whose catalog is in PostgreSQL and whose files are on S3, with real servers on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store, StoreError, UsageError, jobs, registry
from mixture.registry import gc
from mixture.registry.verify import verify
from mixture.store import files, place
from mixture.store.materialise import materialise
from mixture.store.postgres import PostgresCatalog
from mixture.store.write import insert_rows

ROOT = Path(__file__).resolve().parents[2]
RUNS = [{"run_id": "r", "kind": "k", "status": "done", "started_at": "2026-01-01"}]
HIDDEN = "hunter2"


class Where:
    """A name and a place for a store that is not there yet."""

    def __init__(self, name: str, data: str) -> None:
        self.name, self.data = name, data

    def open(self) -> Store:
        return Store.open(self.name, create=True, data=self.data)


@pytest.fixture
def where(postgres: Any, s3: Any, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Where:
    monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))
    schema = "t" + "".join(c if c.isalnum() else "_" for c in request.node.name.lower())[:40] + tmp_path.name[-2:]
    return Where(f"{postgres.name} schema={schema}", f"s3://lake/{schema}")


@pytest.fixture
def store(where: Where) -> Iterator[Store]:
    with where.open() as store:
        yield store


def test_the_same_rows_give_the_same_mixture_as_in_a_folder(
    store: Store, where: Where, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    raw = [str(write_collection(tmp_path / "raw", name)) for name in ("easy", "hard")]
    suite = tmp_path / "suite.txt"
    suite.write_text("how long does the ferry to the islands take\n")
    made = []
    with Store.open(tmp_path / "folder", create=True) as folder:
        for lake in (folder, store):
            jobs.ingest(lake, raw)
            jobs.dedup(lake)
            jobs.decontaminate(lake, suite)
            jobs.mine(lake, per_query=2)
            saved = registry.save(lake, registry.weighted(registry.pin(lake), {"easy": 3.0, "hard": 1.0}), "mix")
            data = materialise(lake, saved.spec)
            texts = {name: (part.folder / "examples.arrow").read_bytes() for name, part in data.components.items()}
            made.append((saved.spec, texts, lake.sql("FROM examples ORDER BY ALL").to_pylist()))
    assert made[0] == made[1]
    assert store.work.parent == tmp_path / "cache" and data.folder.is_relative_to(store.work)
    objects = [f for f in store.data.get_file_info(fs.FileSelector("", recursive=True)) if f.size]
    assert verify(store).checked["data files"] == len(objects) > 4
    assert (verify(store).findings, gc.gc(store)) == ([], [])
    with Store.open(where.name) as again:  # knows where its files are
        assert again.catalog.data == f"{where.data}/"
        assert registry.resolve(again, "mix").spec == made[1][0]


def test_an_older_version_is_read_and_a_command_is_taken_back(
    store: Store, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    jobs.ingest(store, [str(write_collection(tmp_path, "easy"))])
    saved = registry.save(store, registry.weighted(registry.pin(store), {"easy": 1.0}), "mix")
    digest = saved.spec.components[0].digest
    jobs.mine(store, ["easy"], per_query=2)
    (finding,) = verify(store).findings
    assert (finding.says, finding.fault) == (f"is no longer today's; version {saved.snapshot} holds it", False)
    jobs.undo_mining(store)
    assert registry.pin(store)["easy"].digest == digest
    with store.reading() as snapshot, files.at_version(store, snapshot) as old:
        assert old.rows("SELECT count(*) AS n FROM examples") == [{"n": 40}]


def test_damaged_and_missing_objects_are_found(
    store: Store, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    jobs.ingest(store, [str(write_collection(tmp_path, name)) for name in ("easy", "hard")])
    registry.save(store, registry.weighted(registry.pin(store), {"easy": 1.0, "hard": 1.0}), "mix")
    easy, hard = (
        next(f.path for f in files.data_files(store) if (f.collection, f.table) == (name, "passages"))
        for name in ("easy", "hard")
    )
    store.data.delete_file(easy)
    with store.data.open_input_file(hard) as stream:
        content = bytearray(stream.read())
    content[100] ^= 1
    with store.data.open_output_stream(hard) as stream:
        stream.write(bytes(content))
    said = {fault.name: fault.says for fault in verify(store).faults if fault.what == "data file"}
    assert said == {easy: "is missing", hard: "its bytes have changed since they were recorded"}


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("postgres:dbname=lake password=hunter2", None, "holds a password"),
        ("postgresql://u:hunter2@h/lake", None, "holds a password"),
        ("postgresql://u:hunter2/x@h/lake", None, "holds a password"),
        ("postgresql://u:hunter2?x@h/lake", None, "holds a password"),
        ("postgresql://u:hunter2%zz@h/lake", None, "holds a password"),
        ("postgresql://u:hun[ter2hunter2@h/lake", None, "holds a password"),
        ("postgresql://[h/hunter2", None, "no name of a PostgreSQL database"),
        ("postgresql://h/%zzhunter2", None, "no name of a PostgreSQL database"),
        ("postgres:dbname=lake sslpassword=hunter2", None, "holds a password"),
        ("postgres:nonsense", None, "no name of a PostgreSQL database"),
        ("postgres:dbname=lake colour=hunter2", None, "no name of a PostgreSQL database"),
        ("postgres:dbname=lake schema=A-B", None, "schema is 'A-B'"),
        ("postgres:dbname=lake", "s3://bucket", "write s3://bucket/prefix"),
        ("postgres:dbname=lake", "gs://bucket/x", "`data` is 'gs:…'; allowed: a folder, s3://bucket/prefix"),
        ("some-folder", "s3://bucket/x", "a store in a folder has its files there"),
    ],
)
def test_a_wrong_name_is_one_plain_line(name: str, data: str | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Store.open(name if name.startswith("postgres") else tmp_path / name, create=True, data=data)
    assert says in str(caught.value) and HIDDEN not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_names_are_read_as_postgres_reads_them() -> None:
    forms = ["postgres:dbname=lake host=db user=me schema=team", "postgresql://me@db/lake?schema=team",
             "postgres://me@db/lake?schema=team"]  # fmt: skip
    for form in forms:
        catalog = PostgresCatalog(form.partition(":")[2])
        assert str(catalog) == "postgres:user=me dbname=lake host=db schema=team"
    assert str(PostgresCatalog("host='a b'")) == "postgres:host='a b'"
    spaced = PostgresCatalog("//h/lake?options=-c%20statement_timeout%3D0&schema=s")
    assert str(spaced) == "postgres:dbname=lake host=h options='-c statement_timeout=0' schema=s"


def test_what_is_not_there_is_said(where: Where, postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no store at postgres:"):
        Store.open(where.name)
    with pytest.raises(UsageError, match="`data` says where the files of a new one go"):
        Store.open(where.name, create=True)
    with pytest.raises(StoreError, match="cannot be reached: "):
        Store.open(f"postgres:host=127.0.0.1 port={_unused()} dbname=lake")
    with pytest.raises(StoreError, match=r"cannot be reached: .*nobody"):
        Store.open(f"{postgres.name.replace('dbname=lake', 'dbname=nobody')}")
    with where.open() as store:
        insert_rows(store, "runs", RUNS * 50)
    with pytest.raises(UsageError, match=f"has its files at {where.data}/; `data` is s3://lake/elsewhere/"):
        Store.open(where.name, create=True, data="s3://lake/elsewhere")
    with pytest.raises(UsageError, match="is not empty"):
        Store.open(f"{where.name}_2", create=True, data=where.data)
    with pytest.raises(StoreError, match="s3://no-such-bucket/x/ cannot be reached: there is no such bucket"):
        Store.open(f"{where.name}_3", create=True, data="s3://no-such-bucket/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", HIDDEN)
    with pytest.raises(StoreError, match="cannot be reached: ") as caught:
        Store.open(f"{where.name}_4", create=True, data=f"{where.data}_4")
    assert HIDDEN not in str(caught.value)


def _unused() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("inside", ["/", "/more", "/main/examples"])
def test_a_place_inside_another_stores_is_refused(
    inside: str, store: Store, where: Where, postgres: Any, tmp_path: Path
) -> None:
    """Also where nothing lies there yet, since all rows are in the catalog."""
    name = f"{postgres.name} schema=beside_{tmp_path.name[-2:].lower()}"
    for data in (where.data + inside, where.data.rpartition("/")[0] + "/" + where.data.rpartition("/")[2]):
        with pytest.raises(UsageError, match=f"the store in schema {where.name.rpartition('=')[2]}.*its own in `data`"):
            Store.open(name, create=True, data=data)
    # A name that begins so is another place.
    with Store.open(name, create=True, data=f"{where.data}2{inside}") as beside:
        assert beside.rows("SELECT * FROM collections") == []


def test_a_folder_that_machines_share_can_hold_the_files(postgres: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))
    with Store.open(f"{postgres.name} schema=shared", create=True, data=str(tmp_path / "lake")) as store:
        insert_rows(store, "runs", RUNS * 50)
        assert store.sql("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 50}]
    assert list((tmp_path / "lake").rglob("*.parquet"))


REFUSED = [
    "FROM postgres_scan('host=127.0.0.1 port={port} user=mixture dbname=lake', '{schema}', 'ducklake_metadata')",
    "FROM postgres_scan_pushdown('host=127.0.0.1', '{schema}', 'ducklake_metadata')",
    "FROM postgres_query('__ducklake_metadata_lake', 'SELECT 1')",
    "FROM postgres_query('lake', 'SELECT pg_read_file(''/etc/passwd'')')",
    "FROM __ducklake_metadata_lake.{schema}.ducklake_metadata",
    "FROM duckdb_secrets()",
    "FROM duckdb_databases()",
    "FROM duckdb_settings()",
    "SELECT getenv('AWS_SECRET_ACCESS_KEY')",
    "FROM read_parquet('s3://lake/other/x.parquet')",
    "FROM 's3://lake/other/x.parquet'",
    "FROM '{data}/main/runs/x.parquet'",
    "FROM glob('s3://lake/**')",
    "FROM read_text('http://127.0.0.1:{port}/')",
    "COPY (SELECT 1) TO '{data}/evil.parquet'",
    "COPY (SELECT 1) TO 's3://lake/evil.parquet'",
    "CREATE SECRET stolen (TYPE s3, KEY_ID 'k', SECRET 's')",
    "DROP SECRET lake_data",
    "ATTACH 'host=127.0.0.1 port={port}' AS other (TYPE postgres)",
    "CALL postgres_execute('lake', 'DROP SCHEMA {schema} CASCADE')",
    "FROM postgres_attach('host=127.0.0.1 port={port} user=mixture dbname=lake')",
    "SET ducklake_max_retry_count = 10",
    "DELETE FROM runs",
]


def test_a_query_gets_at_nothing_but_the_store(store: Store, where: Where, postgres: Any, s3: Any) -> None:
    insert_rows(store, "runs", RUNS * 50)
    schema = where.data.rpartition("/")[2]
    before = {f.path for f in place.file_system("s3://lake/").get_file_info(fs.FileSelector("", recursive=True))}
    for query in REFUSED:
        with pytest.raises(UsageError) as caught:
            store.sql(query.format(port=postgres.port, schema=schema, data=where.data))
        assert len(str(caught.value).splitlines()) <= 2, query
        assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    # What the lists of names let through by mistake would be stopped by DuckDB.
    for query in ("FROM read_parquet('s3://lake/other/*.parquet')", "FROM read_text('/etc/passwd')",
                  f"FROM read_text('http://127.0.0.1:{postgres.port}/')"):  # fmt: skip
        with pytest.raises(Exception, match=r"Permission|disabled"):
            store._reader._connection.execute(query)  # type: ignore[union-attr]
    after = {f.path for f in place.file_system("s3://lake/").get_file_info(fs.FileSelector("", recursive=True))}
    assert after == before
    assert store.sql("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 50}]


def test_no_key_or_password_is_kept_anywhere(
    store: Store, where: Where, postgres: Any, s3: Any, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    jobs.ingest(store, [str(write_collection(tmp_path, "easy"))])
    runner = CliRunner()
    environment = {"PGPASSWORD": HIDDEN, "MIXTURE_STORE": where.name}
    said = [
        runner.invoke(app, words, env=environment)
        for words in (["create", "uniform"], ["export", "uniform", "--materialised", str(tmp_path / "out")],
                      ["export", "uniform", "--out", str(tmp_path / "mix.json")], ["status", "--json"],
                      ["--debug", "sql", "FROM nowhere"], ["report", "uniform", "--out", str(tmp_path / "page.html")])
    ]  # fmt: skip
    assert [one.exit_code for one in said[:4]] == [0, 0, 0, 0], said
    dump = subprocess.run(
        [str(postgres.bin / "pg_dump"), "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "mixture", "lake"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    kept = [dump, *(one.output.encode() for one in said)]
    kept += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for info in store.data.get_file_info(fs.FileSelector("", recursive=True)):
        if info.is_file:
            with store.data.open_input_file(info.path) as stream:
                kept.append(stream.read())
    secrets = [HIDDEN, s3.environment["AWS_SECRET_ACCESS_KEY"], s3.environment["AWS_ACCESS_KEY_ID"]]
    assert len(dump) > 10_000 and len(kept) > 15
    assert [secret for secret in secrets for body in kept if secret.encode() in body] == []


def test_a_role_that_may_only_read_reads(store: Store, where: Where, postgres: Any) -> None:
    insert_rows(store, "runs", RUNS * 50)
    schema = where.data.rpartition("/")[2]
    with store.catalog._connect() as session:  # type: ignore[attr-defined]
        session.execute("DROP ROLE IF EXISTS reader")
        session.execute("CREATE ROLE reader LOGIN")
        session.execute(f"GRANT USAGE ON SCHEMA {schema} TO reader")
        session.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")
        try:
            with Store.open(where.name.replace("user=mixture", "user=reader")) as reading:
                assert reading.sql("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 50}]
                assert verify(reading).faults == []
                with pytest.raises(StoreError, match="permission denied"):
                    insert_rows(reading, "runs", RUNS)
        finally:
            session.execute("DROP OWNED BY reader")
            session.execute("DROP ROLE reader")


INGEST = """
import os, sys
from mixture import Store, jobs
with Store.open(sys.argv[1], create=True, data=sys.argv[2]) as store:
    jobs.ingest(store, sys.argv[3:])
    jobs.create(store, "one", weights={"easy": os.getpid(), "hard": 1})
"""


def at_once(script: str, number: int, *arguments: str) -> None:
    """Several processes of one script; whatever one says to standard error when it fails is shown."""
    command = [sys.executable, "-c", script, *arguments]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(number)]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]


def test_processes_that_open_ingest_and_save_at_once_agree(
    where: Where, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    """The store is new to each of them, the rows are the same, and so is the mixture's name."""
    at_once(INGEST, 4, where.name, where.data, *(str(write_collection(tmp_path, name)) for name in ("easy", "hard")))
    with Store.open(where.name) as store:
        counted = """SELECT count(*) AS n, count(DISTINCT example_id) AS d,
                            (SELECT count(*) FROM collections) AS c FROM examples"""
        assert store.sql(counted).to_pylist() == [{"n": 80, "d": 80, "c": 2}]
        names = store.sql("SELECT name, version FROM mixtures ORDER BY ALL").to_pylist()
        assert names == [{"name": "one", "version": number} for number in range(1, 5)]
        assert store.sql("SELECT count(*) AS n FROM store_versions").to_pylist()[0]["n"] == store.sql(
            "SELECT max(version) AS n FROM store_versions"
        ).to_pylist()[0]["n"]  # fmt: skip


def test_what_something_else_has_overtaken_is_done_again_whole(store: Store, where: Where) -> None:
    """Without a turn, as a program of somebody else commits: DuckLake would commit the old count by itself."""
    with Store.open(where.name) as other:

        def count(connection: Any) -> int:
            (number,) = connection.execute("SELECT count(*) FROM runs").fetchone()
            if not tries:
                other._transaction(lambda c: c.execute("INSERT INTO runs BY NAME SELECT 'o' AS run_id, 'k' AS kind, "
                                                       "'s' AS status, now() AS started_at"))  # fmt: skip
            tries.append(number)
            connection.execute("INSERT INTO runs BY NAME SELECT ? AS run_id, 'k' AS kind, 's' AS status, "
                               "now() AS started_at", [f"after {number}"])  # fmt: skip
            return int(number)

        tries: list[int] = []
        assert store.transaction(count) == 1
    assert tries == [0, 1]
    assert store.sql("SELECT run_id FROM runs ORDER BY 1")["run_id"].to_pylist() == ["after 1", "o"]


def test_a_bucket_that_is_gone_is_one_line(
    store: Store, where: Where, tmp_path: Path, write_collection: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.ingest(store, [str(write_collection(tmp_path, "easy"))])
    registry.save(store, registry.weighted(registry.pin(store), {"easy": 1.0}), "mix")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{_unused()}")
    with Store.open(where.name) as again:
        for work in (lambda: verify(again),
                     lambda: jobs.ingest(again, [str(write_collection(tmp_path, "hard"))])):  # fmt: skip
            with pytest.raises(StoreError) as caught:
                work()
            assert len(str(caught.value).splitlines()) == 1
    for words in (["export", "mix", "--materialised", str(tmp_path / "out")], ["create", "uniform"], ["verify"]):
        done = CliRunner().invoke(app, ["--store", where.name, *words])
        assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1), done.output
        assert "fault of the toolkit" not in done.stderr


def test_who_waits_says_so_and_a_killed_writer_keeps_nobody(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixture.store.postgres.PATIENCE", 0.2)
    script = """
import os, sys, time
from mixture import Store
with Store.open(sys.argv[1]) as store, store.catalog.turn():
    print("held", flush=True)
    time.sleep(1.5)
    os.kill(os.getpid(), 9)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(store.catalog)], cwd=ROOT, stdout=subprocess.PIPE) as held:
        assert held.stdout is not None and held.stdout.readline() == b"held\n"
        insert_rows(store, "runs", RUNS)
        assert held.wait(10) == -9
    assert "waiting for another process that writes to postgres:" in caplog.text
    assert store.sql("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 1}]


def test_a_restarted_server_costs_one_command(store: Store, where: Where, postgres: Any) -> None:
    insert_rows(store, "runs", RUNS)
    postgres.stop()
    try:
        with pytest.raises(StoreError, match="store"):
            insert_rows(store, "runs", RUNS)
        result = CliRunner().invoke(app, ["--store", where.name, "status"])
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.output
    finally:
        postgres.start()
    with Store.open(where.name) as again:
        insert_rows(again, "runs", RUNS)
        assert again.sql("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 2}]


def test_a_store_goes_on_after_a_server_that_went_away_in_a_transaction(store: Store, postgres: Any) -> None:
    def work(connection: Any) -> None:
        connection.execute("INSERT INTO runs (run_id, kind, status, started_at) VALUES ('a', 'k', 'done', now())")
        if postgres.process is not None and not gone:
            gone.append(True)
            postgres.stop()
        connection.execute("SELECT count(*) FROM examples AT (VERSION => 1)").fetchall()

    gone: list[bool] = []
    insert_rows(store, "runs", RUNS)
    try:
        with pytest.raises(StoreError, match="the store refused a write"):
            store.transaction(work)
    finally:
        postgres.start()
    assert gone and store.rows("SELECT run_id FROM runs") == [{"run_id": "r"}]
    store.transaction(work)
    assert store.rows("SELECT run_id FROM runs ORDER BY 1") == [{"run_id": "a"}, {"run_id": "r"}]


def test_the_commands_take_the_name_and_print_clean_json(
    where: Where, tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    file = str(write_collection(tmp_path, "easy"))
    cache = ["--cache", str(tmp_path / "here")]
    command = [sys.executable, "-m", "cli", *cache, "--store", where.name]
    for words in (["ingest", file, "--data", where.data], ["create", "uniform"], ["list"], ["show", "uniform"],
                  ["sql", "SELECT count(*) AS n FROM examples"]):  # fmt: skip
        done = subprocess.run([*command, *words, "--json"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
    assert answer == [{"n": 40}]
    assert [path.name for path in (tmp_path / "here").iterdir()] and not (tmp_path / "cache").exists()

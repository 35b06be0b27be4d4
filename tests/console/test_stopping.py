"""Ctrl-C as the terminal sends it, to real processes: one line, exit code 130, and never a fault of the toolkit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from mixture import Store, StoreError, jobs
from mixture.console.stopping import is_ctrl_c

ROOT = Path(__file__).resolve().parents[2]
STOPPED = "mixture: stopped"
# Python itself ends with the signal, which a shell shows as 130 too, where C code met the exception first.
ENDED = (130, -signal.SIGINT)
# A command whose statement takes for ever, in a transaction of the store.
SLOW = """
import typer
from mixture import Store
from mixture.console.terminal import PlainCommand
app = typer.Typer(pretty_exceptions_enable=False)
@app.command(cls=PlainCommand)
def slow(folder: str) -> None:
    with Store.open(folder, create=True) as store:
        print("ready", flush=True)
        query = "SELECT sum(i) FROM range(100000000000) t(i) WHERE sin(i) = 2"
        store.transaction(lambda connection: connection.execute(query).fetchall())
app()
"""
# What loses the exception, as a library does that clears errors.
LOST = """
import time
from mixture.console import stopping
stopping.GRACE_SECONDS = float(__import__("sys").argv[1])
with stopping.requests_end("stopped"):
    while True:
        try:
            print("ready", flush=True)
            for _ in range(600):  # a signal just before a long sleep would wait for its end
                time.sleep(0.1)
        except KeyboardInterrupt:
            print("lost", flush=True)
"""


# A command that is asked to end while it reads the store.
ASKED = """
import os, sys
from cli import app
from mixture.store.connect import Store
number, words, real = int(sys.argv[1]), sys.argv[2:], Store.read
count = [0]
def read(self, *given):
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), number)
    return real(self, *given)
Store.read = read
app(words)
"""
LEFT_ALONE = """
import os, signal, time
from mixture.console.stopping import requests_end
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with requests_end("stopped"):
    os.kill(os.getpid(), signal.SIGHUP)
    print("went on", flush=True)
    pid = os.fork()
    if not pid:
        time.sleep(60)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def _start(*command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _stop(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Standard error after a signal; Ctrl-C's is SIGINT."""
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, write_collection: Callable[..., Path]) -> Path:
    return write_collection(tmp_path_factory.mktemp("big"), "big", rows=20_000)


def _ingest(file: Path, store: Path) -> tuple[subprocess.Popen[str], float]:
    """An ingest that has begun, and when it did: the store's folder is there."""
    process = _start("-m", "mixture", "ingest", str(file), MIXTURE_STORE=str(store))
    while not store.exists() and process.poll() is None:
        time.sleep(0.01)
    return process, time.monotonic()


@pytest.fixture(scope="module")
def seconds(file: Path) -> float:
    """What an ingest of the file takes after it has begun."""
    process, begun = _ingest(file, file.parent / "whole")
    assert "mixture: " not in process.communicate()[1]  # lines of progress may come
    return time.monotonic() - begun


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_an_ingest_stops_at_any_moment_and_the_same_command_does_all_of_it(
    file: Path, seconds: float, tmp_path: Path, share: float
) -> None:
    process, _ = _ingest(file, tmp_path / "store")
    time.sleep(share * seconds)
    said = _stop(process)
    lines = [line for line in said.splitlines() if not line.startswith("ingest: ")]  # those of progress may come
    with Store.open(tmp_path / "store", create=True) as store:
        stored = store.rows("SELECT count(*) AS n FROM examples")[0]["n"]
        assert stored in (0, 20_000)
        if process.returncode != 0:  # else it was done before
            assert process.returncode in ENDED, said
            assert all(line.startswith(STOPPED) for line in lines)
            assert len(lines) == 1 or (not lines and stored)  # Python ends, its work done: nothing more is said
        jobs.ingest(store, file)
        assert store.rows("SELECT count(*) AS n FROM examples")[0]["n"] == 20_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_duckdb_makes_of_it_within_a_transaction_is_no_fault(tmp_path: Path, number: signal.Signals) -> None:
    process = _start("-c", SLOW, str(tmp_path / "store"))
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1)  # the statement runs
    said = _stop(process, number)
    assert process.returncode in (128 + number, ENDED[1])
    assert said.startswith(STOPPED)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "words", "after"),
    [
        (signal.SIGTERM, ("create", "again", "--temperature", "2"), "; the store is changed in one step at the end"),
        (signal.SIGHUP, ("export", "mix", "--hf-dataset", "out"), "; nothing half done is left"),
        (signal.SIGINT, ("export", "mix", "--batches", "100000", "--out", "b.jsonl"), "; nothing half done is left"),
        (signal.SIGTERM, ("report", "mix"), "; nothing half done is left"),
        (signal.SIGTERM, ("mine", "--replace"), "; collections that were done are stored"),
        (signal.SIGHUP, ("verify",), ""),
    ],
)
def test_each_request_ends_each_command_with_a_line(
    small_store: Store, tmp_path: Path, number: signal.Signals, words: tuple[str, ...], after: str
) -> None:
    jobs.create(small_store, "mix")
    small_store.close()
    command = [sys.executable, "-c", ASKED, str(int(number)), *words, "--store", str(small_store.work)]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                           capture_output=True, timeout=300)  # fmt: skip
    lines = [line for line in ended.stderr.splitlines() if not line.startswith(f"{words[0]}: ")]
    assert (ended.returncode, ended.stdout) == (128 + number, ""), ended.stderr
    assert len(lines) == 1 and lines[0].startswith(f"mixture: stopped{after}"), ended.stderr
    assert not list(tmp_path.rglob(".writing-*"))
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "store"}


def test_what_is_ignored_stays_so_and_forks_end_as_ever() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_ALONE], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                           capture_output=True, timeout=60)  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"went on\n{-signal.SIGTERM}\n", "")


def test_a_command_that_loses_the_exception_ends_after_a_while_or_at_the_second_one() -> None:
    for grace, times in (("0.5", 1), ("60", 2)):
        process = _start("-c", LOST, grace)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "lost\n"
        if times == 2:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (130, "mixture: stopped\n")


def test_what_came_of_a_ctrl_c_is_told_from_other_errors() -> None:
    """DuckDB's error, bare or as the cause of one of ours; a query that its time limit interrupts is none."""
    query = RuntimeError("Query interrupted")
    wrapped = StoreError("the store could not be read")
    wrapped.__cause__ = query
    for error in (KeyboardInterrupt(), query, wrapped):
        assert is_ctrl_c(error)
    late = StoreError("the query was stopped after 0.5 s")
    late.__cause__ = duckdb.InterruptException("INTERRUPT Error: Interrupted!")
    for other in (late, RuntimeError("no memory"), StoreError("interrupted")):
        assert not is_ctrl_c(other)

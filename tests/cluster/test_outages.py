"""Commands that write to a store in PostgreSQL and on S3, killed in the middle, and servers that go away meanwhile.

A command is stopped before a statement of its transactions. Then the store holds whole units only, and the same command
called again leaves what it leaves when nothing happens.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixture import Store, jobs, registry
from mixture.registry.verify import verify

ROOT = Path(__file__).resolve().parents[2]
# Kills itself, or waits, before a statement of its transactions.
WATCHED = Path(__file__).with_name("watched.py").read_text("utf-8")
# What a store holds, without clocks, the ids of commands and the numbers of versions; by collection or mixture.
CONTENTS = {
    "examples": "SELECT collection AS unit, example_id, positives FROM examples",
    "passages": "SELECT collection AS unit, passage_id FROM passages",
    "negatives": 'SELECT collection AS unit, example_id, passage_id, "rank", miner FROM negatives',
    "removals": "SELECT collection AS unit, example_id, reason, kept_id FROM removals",
    "minings": "SELECT collection AS unit, miner, added, replaced FROM minings",
    "sources": "SELECT collection AS unit, file, sha256, stored FROM sources",
    "file_examples": "SELECT collection AS unit, place, part, example_id FROM file_examples",
    "collections": "SELECT collection AS unit FROM collections",
    "changes": "SELECT collection AS unit, change, renamed_to FROM collection_changes",
    "mixtures": "SELECT name AS unit, mixture, version FROM mixtures",
    "weights": "SELECT mixture AS unit, collection, digest, weight FROM mixture_weights",
    "forgotten": "SELECT collection AS unit, digest, num_forgotten FROM forgotten_contents",
    "tags": "SELECT DISTINCT tag AS unit, mixture FROM mixture_tags",
    "suites": "SELECT suite AS unit, distance FROM test_suites",
    "test_queries": "SELECT suite AS unit, query_id, query FROM test_queries",
}


def nothing(store: Store) -> None:
    pass


# What was done before, and the command.
CASES: dict[str, tuple[Callable[[Store], object], list[str]]] = {
    "ingest": (nothing, ["ingest", "{folder}/new/first.jsonl", "{folder}/new/second.jsonl"]),
    "ingest of a changed file": (nothing, ["ingest", "{folder}/raw/changing.jsonl"]),
    "ingest --append": (nothing, ["ingest", "{folder}/raw/changing.jsonl", "--append"]),
    "dedup": (nothing, ["dedup", "--method", "exact", "--key", "positive"]),
    "dedup --undo": (lambda store: jobs.dedup(store, method="exact", key="positive"), ["dedup", "--undo"]),
    "decontaminate": (nothing, ["decontaminate", "--against", "{folder}/suite.txt"]),
    "forget": (nothing, ["forget", "easy", "--apply"]),
    "forget --undo": (lambda store: jobs.forget(store, "easy", apply=True), ["forget", "--undo"]),
    "mine": (nothing, ["mine", "--per-query", "2"]),
    "mine --undo": (lambda store: jobs.mine(store, per_query=2), ["mine", "--undo"]),
    "create": (nothing, ["create", "new", "--temperature", "2"]),
    "tag": (nothing, ["tag", "mix", "chosen"]),
    "select": (nothing, ["select", "mix", "--top", "50", "--name", "half"]),
    "import": (nothing, ["import", "{folder}/mix.json", "--name", "came"]),
    "remove": (nothing, ["remove", "easy"]),
    "remove --undo": (lambda store: jobs.remove(store, ["easy"]), ["remove", "--undo"]),
    "rename": (nothing, ["rename", "easy", "simple"]),
    "maintain": (lambda store: jobs.mine(store, per_query=2), ["maintain", "--days", "0", "--file-hours", "0"]),
}
SHORT = ("ingest", "mine", "maintain")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, write_collection: Callable[..., Path]) -> Path:
    """A folder with a store, and files for the commands."""
    folder = tmp_path_factory.mktemp("outages")
    files = [write_collection(folder / "raw", name, hard=hard) for name, hard in (("easy", 0), ("changing", 3))]
    twins = folder / "raw" / "twins.jsonl"
    twins.write_text(
        "".join(f'{{"query": "how far is it to {n}", "pos": ["it is {n // 2} miles"]}}\n' for n in range(40))
    )
    (folder / "suite.txt").write_text("how far is it to 3\nhow far is it to 4\n")
    with Store.open(folder / "store", create=True) as store:
        jobs.ingest(store, [str(file) for file in (*files, twins)])
        registry.save(store, registry.weighted(registry.pin(store), {"easy": 0.4, "twins": 0.6}), "mix")
        jobs.export(store, "mix", out=folder / "mix.json")
    write_collection(folder / "raw", "changing", rows=35, seed=1)
    for name in ("first", "second"):
        write_collection(folder / "new", name)
    return folder


@pytest.fixture
def stores(
    template: Path, postgres: Any, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Store], object]], str]:
    """Makes a copy of the template on the servers, prepared; its name."""
    monkeypatch.setenv("MIXTURE_CACHE", str(tmp_path / "cache"))
    made = 0

    def copy(prepare: Callable[[Store], object]) -> str:
        nonlocal made
        made += 1
        schema = "o" + "".join(c if c.isalnum() else "_" for c in tmp_path.name.lower()) + f"_{made}"
        name = f"{postgres.name} schema={schema}"
        with Store.open(template / "store") as store:
            jobs.copy_store(store, name, data=f"s3://lake/{schema}")
        with Store.open(name) as store:
            prepare(store)
        return name

    return copy


def _start(name: str, words: list[str], template: Path, at: int = 0, folder: str = "/nowhere") -> subprocess.Popen[str]:
    words = [word.format(folder=template) for word in words]
    command = [sys.executable, "-c", WATCHED, str(at), folder, "--store", name, *words]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _call(*given: Any) -> tuple[int, str]:
    process = _start(*given)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def _contents(name: str) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], list[str]] = {}
    with Store.open(name) as store:
        with store.reading():
            for table, query in CONTENTS.items():
                for row in store.rows(query):
                    found.setdefault((table, row.pop("unit")), []).append(json.dumps(row, sort_keys=True))
        assert verify(store).faults == []
    return {unit: "\n".join(sorted(rows)) for unit, rows in found.items()}


def _whole(found: dict[Any, str], before: dict[Any, str], after: dict[Any, str]) -> bool:
    """Each unit is as before or as afterwards; all tables of a unit agree on which."""
    states: dict[str, set[str]] = {}
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key):
            assert found.get(key) in (before.get(key), after.get(key)), key
            states.setdefault(key[1], set()).add("before" if found.get(key) == before.get(key) else "after")
    return found.keys() <= before.keys() | after.keys() and all(len(state) == 1 for state in states.values())


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in SHORT else pytest.mark.slow) for case in CASES]
)
def test_a_killed_command_leaves_whole_units_and_goes_on(
    case: str, stores: Any, template: Path, request: pytest.FixtureRequest
) -> None:
    prepare, words = CASES[case]
    name = stores(prepare)
    before = _contents(name)
    code, errors = _call(name, words, template)
    assert code == 0, errors
    statements, after = int(errors.rpartition("statements: ")[2]), _contents(name)
    assert statements > 1 and (after != before or case == "maintain")
    everywhere = request.config.getoption("-m") != "not slow and not gpu"
    for at in sorted({1, statements // 3, statements * 2 // 3, statements} if everywhere else {statements * 2 // 3}):
        name = stores(prepare)
        code, errors = _call(name, words, template, at)
        assert code == -signal.SIGKILL, (at, errors)
        assert _whole(_contents(name), before, after), at
        code, errors = _call(name, words, template)
        assert code == 0 and _contents(name) == after, (at, errors)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["postgres", "s3"])
@pytest.mark.parametrize("case", ["ingest", "dedup", "mine", "remove", "maintain"])
def test_a_server_that_is_away_for_20_s(
    case: str, server: str, stores: Any, template: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The command goes on, or ends with a plain line; called again it does the work."""
    prepare, words = CASES[case]
    name = stores(prepare)
    before = _contents(name)
    code, errors = _call(name, words, template)
    statements, after = int(errors.rpartition("statements: ")[2]), _contents(name)
    for number, at in enumerate(sorted({statements // 2, statements})):
        name = stores(prepare)
        folder = tmp_path / f"at-{number}"
        folder.mkdir()
        process = _start(name, words, template, at, str(folder))
        while not (folder / "here").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        one = request.getfixturevalue(server)
        one.stop()
        try:
            (folder / "go").touch()
            time.sleep(20)
        finally:
            one.start()
        _, errors = process.communicate(timeout=300)
        lines = [line for line in errors.splitlines() if not line.startswith("statements: ")]
        print(case, server, at, process.returncode, lines)
        assert process.returncode in (0, 1) and "fault of the toolkit" not in errors, errors
        assert process.returncode == 0 or lines[-1].startswith("mixture: "), errors
        left = _contents(name)
        assert _whole(left, before, after) and (process.returncode or left == after)
        if left != after or case == "maintain":
            code, errors = _call(name, words, template)
            assert code == 0 and _contents(name) == after, errors

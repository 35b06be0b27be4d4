"""How fast mixtures are listed, shown and compared in a large store: 1,000 over 100 collections of 5 million rows.

    python benchmarks/registry.py [--mixtures 1000] [--collections 100] [--rows 5000000] [--repeats 5] [--keep DIR]

The collections' rows are made by SQL. The mixtures are written in a transaction each, with the rows that
`registry.save` writes; the first and the last ten through it. Each question is asked as a
process of its own and within one. Writes benchmarks/results/registry.json; the store (about 600 MB) is removed, or
kept in DIR and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from mixture import jobs, registry
from mixture.specs import MixtureSpec
from mixture.store import Store
from mixture.store.write import append

HERE = Path(__file__).resolve().parent
MIXTURES_A_NAME = 20
TIMED = 10
NOTE = [
    "Half of a process's time is the start of Python with its imports.",
    "Neither the rows nor the number of collections matters to a list: what it shows stands in the table mixtures.",
    "Three habits had doubled `show`: DuckDB's check of its extensions' signatures, 70 MB at each opening; a query "
    "with parameters, for which DuckDB imports pandas; and a time with a zone on its way to Python, for which it does "
    "too.",
]
ROWS = """
INSERT INTO examples SELECT '{name}', substr(sha256('q{name}.' || i), 1, 20), 'what is number ' || i || ' of {name}',
    CASE WHEN i % 8 = 0 THEN 'zh' ELSE 'en' END,
    [{{'passage_id': substr(sha256('p{name}.' || i), 1, 20), 'grade': 1.0}}], hash(i) FROM range({rows}) r(i);
INSERT INTO passages SELECT '{name}', substr(sha256('p{name}.' || i), 1, 20), '',
    'number ' || i || ' of {name} is ' || hash(i), hash(i) FROM range({rows}) r(i)
"""


def build(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The store, and what it took to make."""
    took: dict[str, float] = {}
    names = [f"collection_{number:03d}" for number in range(arguments.collections)]
    with Store.open(folder, create=True) as store:
        start = time.perf_counter()
        for name in names:
            columns = "collection, added_at, prompts, license, category"
            values = f"'{name}', now(), ['Given a number, find what it is'], 'mit', 'Numbers'"
            store.connection.execute(f"INSERT INTO collections ({columns}) VALUES ({values})")
            for statement in ROWS.format(name=name, rows=arguments.rows // arguments.collections).split(";"):
                store.connection.execute(statement)
        took["rows"] = time.perf_counter() - start
        start = time.perf_counter()
        parts = registry.pin(store)
        took["pin_all"] = time.perf_counter() - start
        random, saves = Random(42), []
        for number in range(arguments.mixtures):
            spec = registry.weighted(parts, {name: random.random() for name in names})
            name, version = f"mix{number // MIXTURES_A_NAME}", number % MIXTURES_A_NAME + 1
            if TIMED <= number < arguments.mixtures - TIMED:
                insert(store, spec, name, version)
                continue
            start = time.perf_counter()
            registry.save(store, spec, name)
            saves.append(time.perf_counter() - start)
        registry.tag(store, "mix0:1", "production")
        took |= {"save_first_10": statistics.median(saves[:TIMED]), "save_last_10": statistics.median(saves[-TIMED:])}
    return took


def insert(store: Store, spec: MixtureSpec, name: str, number: int) -> None:
    """The rows of a mixture, without what `registry.save` looks up and checks before."""
    heaviest = max(spec.components, key=lambda c: c.weight)
    row = {"mixture": spec.id, "name": name, "version": number, "spec": spec.to_json(), "parents": [],
           "snapshot": 1, "created_at": datetime.now(UTC), "num_components": len(spec.components),
           "heaviest": heaviest.name, "heaviest_weight": heaviest.weight}  # fmt: skip
    weights = [
        {"mixture": spec.id, "collection": c.name, "digest": c.digest, "weight": c.weight, "loss_weight": c.loss_weight,
         "num_examples": 50_000, "prompts": ["Given a number, find what it is"]}
        for c in spec.components
    ]  # fmt: skip

    def work(connection: Any) -> None:
        append(connection, "mixture_weights", weights)
        append(connection, "mixtures", [row])

    store.transaction(work)


def as_processes(folder: Path, last: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each command as a user starts it; the first run warms the disk."""
    mixture = str(Path(sys.executable).parent / "mixture")
    commands = {
        "mixture --help": ["--help"],
        "mixture list": ["list"],
        "mixture list --json": ["list", "--json"],
        "mixture show (by name)": ["show", last],
        "mixture show (by tag)": ["show", "production"],
        "mixture diff": ["diff", last, "production"],
    }
    found = {}
    for title, command in commands.items():
        walls, busy = [], []
        for _ in range(repeats + 1):
            start, before = time.perf_counter(), os.times()
            subprocess.run([mixture, "--store", str(folder), *command], check=True, capture_output=True)
            after = os.times()
            walls.append(time.perf_counter() - start)
            busy.append(after.children_user + after.children_system - before.children_user - before.children_system)
        found[title] = {"median": statistics.median(walls[1:]), "max": max(walls[1:]),
                        "processor_median": statistics.median(busy[1:])}  # fmt: skip
    return found


def in_process(folder: Path, last: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of the calls behind the commands, the store once opened."""
    with Store.open(folder) as store:
        calls: dict[str, Callable[[], Any]] = {
            "listing": lambda: registry.listing(store),
            "resolve, describe": lambda: registry.describe(store, registry.resolve(store, last)),
            "resolve by id": lambda: registry.resolve(store, registry.resolve(store, "production").spec.id[:8]),
            "diff": lambda: jobs.diff(store, registry.resolve(store, last), registry.resolve(store, "production")),
            "sql: FROM newest_mixtures": lambda: store.sql("FROM newest_mixtures"),
        }
        found = {}
        for title, call in calls.items():
            walls = []
            for _ in range(repeats + 1):
                start = time.perf_counter()
                call()
                walls.append(time.perf_counter() - start)
            found[title] = {"first": walls[0], "median": statistics.median(walls[1:])}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixtures", type=int, default=1000)
    parser.add_argument("--collections", type=int, default=100)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a folder for the store; used again where it is there")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "registry.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "store"
        took = {} if (folder / "data").exists() else build(folder, arguments)
        last = f"mix{(arguments.mixtures - 1) // MIXTURES_A_NAME}"
        load = os.getloadavg()[0]
        result = {
            "command": f"python benchmarks/registry.py --mixtures {arguments.mixtures} --collections "
            f"{arguments.collections} --rows {arguments.rows}",
            "date": datetime.now(UTC).date().isoformat(),
            "seed": 42,
            "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                         "load_before": load},
            "versions": {name: version(name) for name in ("duckdb", "pyarrow", "typer", "rich")}
            | {"python": platform.python_version()},
            "note": NOTE,
            "seconds_to_build": took,
            "seconds_as_process": as_processes(folder, last, arguments.repeats),
            "seconds_in_process": in_process(folder, last, arguments.repeats),
        }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

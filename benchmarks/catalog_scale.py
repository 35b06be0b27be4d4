"""A store of 10⁹ rows in 10⁵ files with 10⁴ mixtures, as its catalog sees it: what can still be asked, and how fast?

    python benchmarks/catalog_scale.py [--place folder|postgres] [--collections 100] [--files 100000] [--mixtures 10000]

The rows are not there ten thousand times: a file of 10,000 rows of each collection is linked under many names, and each
name is a file of the catalog. So everything that asks the catalog, or plans by numbers of rows, costs what it would
cost; ids repeat. A mixture is a transaction of its own, with the rows that `registry.save` writes.

Asked are commands, as processes; `pin`, which reads all ids, of one collection; and a BatchPlan over all rows, which
knows no file: its first batch, the batch of step 10⁶ in a process that has drawn none before (a resume), and the
thousand after it. Writes its place's part of `benchmarks/results/catalog_scale.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from registry import ROWS, insert
from servers import Postgres

from mixture import registry
from mixture.store import Store
from mixture.store.files import data_files

HERE = Path(__file__).resolve().parent
FILE_ROWS = 10_000
MIXTURES_A_NAME = 20
PLAN = """
import json, resource, sys, time
from mixture.sampling import BatchPlan
sizes = json.loads(sys.argv[1])
began = time.perf_counter()
plan = BatchPlan({name: 1 / len(sizes) for name in sizes}, sizes, 1024, seed=42)
found = {}
asked = ("first", [0]), ("resumed", [10**6]), ("thousand_more", range(10**6 + 1, 10**6 + 1001))
for name, steps in asked[int(sys.argv[2]) :]:
    began = time.perf_counter()
    for step in steps:
        plan.batch(step)
    found[name + "_s"] = round(time.perf_counter() - began, 2)
print(json.dumps(found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""


def build(name: str, data: Path, options: argparse.Namespace) -> dict[str, float]:
    """The store, and the seconds of its parts."""
    names = [f"collection_{number:03d}" for number in range(options.collections)]
    with Store.open(name, create=True, data=None if name == str(data.parent) else str(data)) as store:
        for collection in names:
            store.connection.execute(
                f"INSERT INTO collections (collection, added_at, prompts) VALUES ('{collection}', now(), ['Find it'])"
            )
            store.connection.execute(ROWS.format(name=collection, rows=FILE_ROWS).split(";")[0])
        parts = registry.pin(store)
        own = {file.collection: file for file in data_files(store) if file.table == "examples"}
        began = time.perf_counter()
        for collection in names:
            file = data / own[collection].path
            more = file.parent / "more"
            more.mkdir()
            for number in range(options.files // options.collections - 1):
                os.link(file, more / f"{number}.parquet")
        took = {"links": time.perf_counter() - began}
        began = time.perf_counter()
        for collection in names:
            more = (data / own[collection].path).parent / "more"
            store.connection.execute(f"CALL ducklake_add_data_files('lake', 'examples', '{more}/*.parquet')")
        took["register_files"] = time.perf_counter() - began
        began = time.perf_counter()
        random = Random(42)
        for number in range(options.mixtures):
            spec = registry.weighted(parts, {collection: random.random() for collection in names})
            insert(store, spec, f"mix{number // MIXTURES_A_NAME}", number % MIXTURES_A_NAME + 1)
            if (number + 1) % 1000 == 0:
                print(f"{number + 1} mixtures, {time.perf_counter() - began:.0f} s", flush=True)
        took["mixtures"] = time.perf_counter() - began
    return {key: round(value, 1) for key, value in took.items()}


def asked(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of commands as processes, after a first call that warms the disk."""
    mixture = str(Path(sys.executable).parent / "mixture")
    last = f"mix{(options.mixtures - 1) // MIXTURES_A_NAME}"
    one = "SELECT count(*) AS n FROM examples WHERE collection = 'collection_000'"
    commands = {"list": ["list", "--json"], "show": ["show", last], "diff": ["diff", last, "mix0"],
                "sql, rows of one collection": ["sql", one],
                "sql, rows of all": ["sql", "SELECT count(*) AS n FROM examples"],
                "status": ["status"]}  # fmt: skip
    found = {}
    for title, command in commands.items():
        walls, said = [], ""
        for _ in range(options.repeats + 1):
            began = time.perf_counter()
            said = subprocess.run(
                [mixture, "--store", name, *command], check=True, capture_output=True, text=True
            ).stdout
            walls.append(time.perf_counter() - began)
        found[title] = round(statistics.median(walls[1:]), 2)
        if title == "sql, rows of all" and str(options.files * FILE_ROWS) not in said.replace(",", ""):
            raise RuntimeError(f"other rows than asked for: {said}")
        print(title, found[title], flush=True)
    return found


def planned(options: argparse.Namespace) -> dict[str, Any]:
    rows = options.files // options.collections * FILE_ROWS
    sizes = json.dumps({f"collection_{number:03d}": rows for number in range(options.collections)})
    return {
        name: json.loads(subprocess.check_output([sys.executable, "-c", PLAN, sizes, str(first)], text=True))
        for name, first in (("from the start", 0), ("resumed", 1))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", choices=["folder", "postgres"], default="folder")
    parser.add_argument("--collections", type=int, default=100)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--mixtures", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "catalog_scale.json")
    options = parser.parse_args()
    postgres = Postgres() if options.place == "postgres" else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MIXTURE_CACHE"] = f"{folder}/cache"
            name = postgres.name if postgres else f"{folder}/store"
            row: dict[str, Any] = {"rows": options.files * FILE_ROWS, "files": options.files,
                                   "mixtures": options.mixtures, "collections": options.collections}  # fmt: skip
            row["built_s"] = build(name, Path(folder) / "store" / "data", options)
            if postgres is None:
                row["catalog_mb"] = round(sum(f.stat().st_size for f in Path(name).glob("catalog*")) / 1e6)
            row["seconds"] = asked(name, options)
            with Store.open(name) as store:
                began = time.perf_counter()
                registry.pin(store, ["collection_000"])
                row["pin_of_one_collection_s"] = round(time.perf_counter() - began, 1)
            row["plan"] = planned(options)
    finally:
        if postgres:
            postgres.close()
    result = json.loads(options.out.read_text()) if options.out.is_file() else {}
    result[options.place] = row | {
        "command": " ".join(["python benchmarks/catalog_scale.py", *sys.argv[1:]]), "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(), "versions": {name: version(name) for name in ("duckdb", "numpy")},
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()

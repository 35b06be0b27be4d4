"""Ingest speed against DuckDB's own way from JSON lines to Parquet, over the same files in the same run.

    python benchmarks/ingest.py --data ../shared/data [--sizes 0.1,0.25,0.5,1] [--repeats 3] [--out FILE]

For each size (GB of JSON lines in Tevatron form, see tevatron_file.py) and repeat, each in a process of its own:
  copy    COPY (SELECT * FROM read_json(file)) TO 'x.parquet', time of the statement
  ingest  the command `mixture ingest` into a new store: parse, normalise, hash, fingerprint, store each passage once;
          time of the whole process, imports included, and its peak memory
  again   the same command again
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from tevatron_file import write_tevatron

ROOT = Path(__file__).parent.parent


COPY = """
import duckdb, sys, time
connection = duckdb.connect()
start = time.perf_counter()
connection.execute(f"COPY (SELECT * FROM read_json('{sys.argv[1]}')) TO '{sys.argv[2]}' (FORMAT parquet)")
print(time.perf_counter() - start)
"""


def _copy(file: Path, target: Path) -> float:
    found = subprocess.run([sys.executable, "-c", COPY, str(file), str(target)], check=True, capture_output=True)
    return float(found.stdout.split()[-1])  # DuckDB may print a progress bar before


def run(store: str, *words: str) -> tuple[float, Any, str]:
    """A `mixture` command as a process of its own: seconds, what it used (`resource`), what it printed."""
    command = [sys.executable, "-m", "mixture", "--store", store, *words]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        printed = out.read().decode()
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, usage, printed


def _ingest(file: Path, store: Path) -> dict[str, Any]:
    """Seconds, peak memory (MB) and counts of one `mixture ingest` process."""
    seconds, usage, printed = run(str(store), "ingest", str(file), "--name", "big", "--json")
    result = json.loads(printed)[0]
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss / 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime} | {
        key: result[key] for key in ("rows_read", "stored", "unchanged")
    }


def _one(file: Path, scratch: Path) -> dict[str, Any]:
    store = scratch / "store"
    copy = _copy(file, scratch / "x.parquet")
    first = _ingest(file, store)
    again = _ingest(file, store)
    if first["stored"] == 0 or again["stored"] != 0 or again["unchanged"] != 1:
        raise SystemExit(f"unexpected counts: {first}, {again}")
    shutil.rmtree(store)
    return {"copy_s": copy, "ingest": first, "again": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--sizes", default="0.1,0.25,0.5,1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ingest.json")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        _ingest(_small(scratch), scratch / "warm")  # numba compiles once after an installation
        for size in map(float, options.sizes.split(",")):
            file = scratch / "big.jsonl"
            rows = write_tevatron(options.data, file, int(size * 1e9))
            runs = [_one(file, scratch) for _ in range(options.repeats)]
            copy = statistics.median(run["copy_s"] for run in runs)
            ingest = statistics.median(run["ingest"]["seconds"] for run in runs)
            again = statistics.median(run["again"]["seconds"] for run in runs)
            results.append({
                "gigabytes": size, "rows": rows, "copy_s": round(copy, 2), "ingest_s": round(ingest, 2),
                "again_s": round(again, 2), "share_of_copy_speed": round(copy / ingest, 3),
                "again_share": round(again / ingest, 3),
                "peak_mb": round(max(run["ingest"]["peak_mb"] for run in runs)), "runs": runs,
            })  # fmt: skip
            sys.stderr.write(f"{ {k: v for k, v in results[-1].items() if k != 'runs'} }\n")
    x, y = [r["gigabytes"] for r in results], [r["ingest_s"] for r in results]
    slope, start = np.polyfit(x, y, 1) if len(x) > 1 else (float("nan"), float("nan"))
    report = {
        "command": " ".join(["python", *sys.argv]), "date": datetime.date.today().isoformat(), "seed": 42,
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, "
                    f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "versions": {"python": platform.python_version(), "duckdb": duckdb.__version__, "pyarrow": pa.__version__},
        "line": {"seconds_per_gigabyte": round(float(slope), 2), "seconds_at_zero": round(float(start), 2),
                 "largest_deviation_s": round(float(np.abs(np.polyval((slope, start), x) - y).max()), 2)},
        "results": results,
    }  # fmt: skip
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps({key: value for key, value in report.items() if key != "results"}, indent=1))


def _small(scratch: Path) -> Path:
    file = scratch / "small.jsonl"
    file.write_text('["a question", "an answer"]\n')
    return file


if __name__ == "__main__":
    main()

"""Negatives for every real collection that has none, by BM25 and by all-MiniLM-L6-v2: the same table after a kill at
half and a resume, and with one process and two.

    python benchmarks/mining_real.py [--data DIR] [--only bm25] [--most 1500]

Every run is the command `mixture mine` on a copy of one store. A run is killed with SIGKILL, all its processes, when
half of what the first run wrote is there: collections with BM25, files of embeddings with a model. Then the same
command goes on. With `--most` larger collections are taken out before.

Prints one line for each run, writes `benchmarks/results/mining_real.json`, and ends with exit code 1 where two tables
differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixture import Store, jobs

HERE = Path(__file__).resolve().parent
MINILM = "all-MiniLM-L6-v2"
RUNS = {
    "bm25": {"whole": [], "again": [], "killed": []},
    MINILM: {"whole": [], "two processes": ["--processes", "2"], "two processes, killed": ["--processes", "2"]},
}


def done(store: Path, miner: str) -> int:
    """How much of a run is there."""
    if miner != "bm25":
        return len(list(store.glob("embeddings/*/*.parquet")))
    with Store.open(store) as opened:
        return len(opened.rows("SELECT DISTINCT collection FROM minings"))


def mine(store: Path, miner: str, options: list[str], half: int | None) -> dict[str, Any]:
    """Run the command, killed and run again where `half` says when."""
    command = [sys.executable, "-m", "mixture", "mine", "--miner", miner, "--store", str(store), "--json", *options]
    started, kept = time.perf_counter(), None
    if half is not None:
        running = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while done(store, miner) < half:
            if running.poll() is not None:
                raise SystemExit("the run ended before it could be killed")
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        kept = done(store, miner)
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    rows = json.loads(ended.stdout)
    with Store.open(store) as opened:
        table = opened.rows("SELECT collection, example_id, passage_id, rank, score, miner FROM negatives ORDER BY ALL")
        (bare,) = opened.rows("SELECT count(*) AS n FROM examples ANTI JOIN negatives USING (collection, example_id)")
    lines = "\n".join(json.dumps(row, sort_keys=True) for row in table)
    return {
        "seconds": time.perf_counter() - started,
        "collections": len(rows),
        "negatives": sum(row["negatives"] for row in rows),
        "encoded": sum(row["encoded"] for row in rows),
        "there after the kill": kept,
        "examples without": bare["n"],
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--only", choices=list(RUNS))
    parser.add_argument("--most", type=int, help="examples that a collection may have")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        with Store.open(plain, create=True) as store:
            jobs.ingest(store, [options.data / "raw"], cards=HERE / "cards")
            jobs.dedup(store)
            sizes = {row["collection"]: row["n"] for row in store.rows(
                "SELECT collection, count(*) AS n FROM examples GROUP BY ALL ORDER BY ALL")}  # fmt: skip
            large = [name for name, n in sizes.items() if options.most is not None and n > options.most]
            if large:
                jobs.remove(store, large)
        for miner, runs in RUNS.items():
            if options.only not in (None, miner):
                continue
            half = 0
            for name, given in runs.items():
                work = Path(folder) / "work"
                shutil.copytree(plain, work)
                result = mine(work, miner, given, half if "killed" in name else None)
                half = half or max(1, done(work, miner) // 2)
                shutil.rmtree(work)
                results.setdefault(miner, {})[name] = result
                print(miner, name, result, flush=True)
    facts = {"sizes": sizes, "taken out": large}
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "runs": results,
    } | facts
    name = {None: "mining_real", "bm25": "mining_real_bm25"}.get(options.only, "mining_real_minilm")
    (HERE / "results" / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(any(len({run["sha256"] for run in runs.values()}) > 1 for runs in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())

"""SimHash fingerprints of 50,000 news texts: this toolkit, reading from Arrow on all cores, and the `simhash` package.

    python benchmarks/fingerprints.py [--data DIR] [--texts 50000]

Both do all texts in one run. Needs `pip install simhash`. Writes benchmarks/results/fingerprints.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numba
import pyarrow as pa
from simhash import Simhash

from mixture.dedup import simhash_fingerprints

HERE = Path(__file__).resolve().parent
NOTE = [
    "Title and description of AG News, repeated with a round number at the end; both programs get the same texts.",
    "Bound by arithmetic, not by memory: of one core's time, hashing the n-grams takes 45 %, reading UTF-8 and "
    "normalising 43 %, counting votes (64 counters side by side) 12 %.",
    "The peer has 4-character shingles hashed with MD5, on one core; it can be run as one process a core.",
]


def news(data: Path, num_texts: int) -> list[str]:
    """Title and description of each row, again and again with the number of the round, until there are enough."""
    with gzip.open(data / "raw" / "agnews" / "agnews.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [" ".join(json.loads(line)) for line in file]
    return [f"{rows[number % len(rows)]} {number // len(rows)}" for number in range(num_texts)]


def seconds(work: Callable[[], object], times: int) -> tuple[float, float]:
    """The medians of several runs: seconds, and processor seconds of all threads (hardly changed by other programs)."""
    wall, cpu = [], []
    for _ in range(times):
        started, started_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return statistics.median(wall), statistics.median(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--texts", type=int, default=50_000)
    options = parser.parse_args()
    texts = news(options.data, options.texts)
    column = pa.array(texts)
    started = time.perf_counter()
    simhash_fingerprints(column[:100])  # loads the compiled code, or compiles it
    first = time.perf_counter() - started
    ours, ours_cpu = seconds(lambda: simhash_fingerprints(column), 21)
    listed, _ = seconds(lambda: simhash_fingerprints(texts), 7)
    threads = numba.config.NUMBA_NUM_THREADS
    numba.config.NUMBA_NUM_THREADS = 1
    one, _ = seconds(lambda: simhash_fingerprints(column), 11)
    peer, peer_cpu = seconds(lambda: [Simhash(text).value for text in texts], 1)
    result = {
        "texts": len(texts),
        "mean_characters": round(statistics.mean(map(len, texts)), 1),
        "threads": threads,
        "seconds": {
            "from Arrow, all cores": round(ours, 4),
            "from Arrow, one core": round(one, 4),
            "from a list of str, all cores": round(listed, 4),
            "first call, 100 texts": round(first, 3),
            f"simhash {version('simhash')}, one core": round(peer, 2),
        },
        "cpu_seconds": {"from Arrow, all cores": round(ours_cpu, 4), "simhash": round(peer_cpu, 2)},
        "texts_per_second": round(len(texts) / ours),
        "megabytes_per_second": round(column.nbytes / ours / 1e6),
        "times_as_fast": round(peer / ours),
        "times_as_fast_on_one_core": round(peer / one),
        "times_less_cpu": round(peer_cpu / ours_cpu),
        "command": " ".join(["python", "benchmarks/fingerprints.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("numba", "numpy", "pyarrow", "simhash")},
        "python": platform.python_version(),
        "note": NOTE,
    }
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
    (HERE / "results" / "fingerprints.json").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()

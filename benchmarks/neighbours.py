"""How the search for near-equal fingerprints grows, from 0.1 to 10 million, with the skew of real collections.

    python benchmarks/neighbours.py [--data DIR] [--distance 3] [--sizes 0.1,0.3,1,3,10]

Each size and function runs in its own process, which reports its time and its peak memory. Writes
benchmarks/results/neighbours.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.dedup import near_duplicate_groups, near_duplicates, simhash_fingerprints
from mixture.ingest.read import read_file
from mixture.ingest.sources import discover
from mixture.rows import RawExample

HERE = Path(__file__).resolve().parent
LARGEST_CLUSTER = 1_000
MAKE_UP = (
    "Of 100 fingerprints, 55 are of texts (the real queries and passages once each, then texts spliced from the "
    "halves of two of one collection), 44 copies of them with 0 to 3 bits flipped, in clusters of Zipf-distributed "
    f"size (exponent 2.5, at most {LARGEST_CLUSTER:,}), and 1 shares 32 bits with one of ten boilerplates."
)
NOTE = [
    "Of the processor time of near_duplicate_groups at 10 million, 40 % is comparing within groups (7.2e9 comparisons, "
    "vector population counts), 26 % sorting the values to find equal ones, 19 % moving them into the groups of four "
    "tables; the last two are bound by memory access.",
    "Listing adds to that: near_duplicates sorts the pairs and takes 24 bytes for each at its peak.",
]


def collections(data: Path) -> list[NDArray[np.str_]]:
    """The texts of each real collection, as object arrays."""
    found: dict[str, dict[str, None]] = {}
    for unit in discover([str(data / "raw")], None):
        texts = found.setdefault(unit.collection, {})
        for row in read_file(Path(unit.location)):
            if isinstance(row, RawExample):
                texts.update(dict.fromkeys([row.query, *(p.text for p in [*row.positives, *row.negatives])]))
    return [np.array([text for text in texts if text], dtype=object) for _, texts in sorted(found.items())]


def fingerprints_of_texts(real: list[NDArray[np.str_]], num: int, draw: np.random.Generator) -> NDArray[np.uint64]:
    """Fingerprints of all real texts, then of spliced ones, `num` in all."""
    parts = [simhash_fingerprints(pa.array(texts, pa.large_string())) for texts in real]
    share = np.array([len(texts) for texts in real]) / sum(map(len, real))
    while (missing := num - sum(map(len, parts))) > 0:
        texts = real[draw.choice(len(real), p=share)]
        heads, tails = draw.choice(texts, (2, min(missing, 100_000)))
        spliced = [a[: len(a) // 2] + b[len(b) // 2 :] for a, b in zip(heads, tails, strict=True)]
        parts.append(simhash_fingerprints(pa.array(spliced, pa.large_string())))
    return np.concatenate(parts)[:num]


def flipped(values: NDArray[np.uint64], draw: np.random.Generator) -> NDArray[np.uint64]:
    """The values with 0 to 3 bits turned."""
    turns = draw.integers(0, 4, len(values))
    for turn in range(3):
        bit = np.uint64(1) << draw.integers(0, 64, len(values), dtype=np.uint64)
        values = np.where(turns > turn, values ^ bit, values)
    return values


def like_real(real: list[NDArray[np.str_]], num: int, seed: int) -> NDArray[np.uint64]:
    """`num` fingerprints as `MAKE_UP` says, in random order."""
    draw = np.random.default_rng(seed)
    plain = fingerprints_of_texts(real, num * 55 // 100, draw)
    sizes = np.minimum(draw.zipf(2.5, num), LARGEST_CLUSTER)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), num * 44 // 100)) + 1]
    copies = flipped(np.repeat(draw.choice(plain, len(sizes)), sizes), draw)[: num * 44 // 100]
    rest = num - len(plain) - len(copies)
    random = draw.integers(0, 2**64, rest, dtype=np.uint64)
    boilerplate = draw.choice(plain, 10)[draw.integers(0, 10, rest)] & np.uint64(0xFFFF0000FFFF0000)
    return draw.permutation(np.concatenate([plain, copies, boilerplate | random & np.uint64(0x0000FFFF0000FFFF)]))


def child(function: str, file: str, distance: int) -> None:
    """Run one function on the saved fingerprints and print what it took."""
    values = np.load(file)
    work = {"near_duplicates": near_duplicates, "near_duplicate_groups": near_duplicate_groups}[function]
    work(values[:2000], distance)  # loads the compiled code
    started, started_cpu = time.perf_counter(), time.process_time()
    found = work(values, distance)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    count = len(found) if function == "near_duplicates" else int((found == np.arange(len(found))).sum())
    times = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
    print(json.dumps(times | {"peak_gib": round(peak, 2), "found": count}))


def measure(real: list[NDArray[np.str_]], millions: float, distance: int, folder: str, seed: int) -> dict[str, object]:
    values = like_real(real, int(millions * 1e6), seed)
    file = str(Path(folder) / "fingerprints.npy")
    np.save(file, values)
    row: dict[str, object] = {"fingerprints": len(values), "distinct": len(np.unique(values))}
    for function in ("near_duplicates", "near_duplicate_groups"):
        arguments = [sys.executable, __file__, "--child", function, file, "--distance", str(distance)]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
        row[function] = json.loads(done.stdout)
    print(json.dumps(row), file=sys.stderr)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--distance", type=int, default=3)
    parser.add_argument("--sizes", default="0.1,0.3,1,3,10", help="in millions")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.distance)
        return
    real = collections(options.data)
    with tempfile.TemporaryDirectory() as folder:
        sizes = [float(size) for size in options.sizes.split(",")]
        rows = [measure(real, size, options.distance, folder, options.seed) for size in sizes]
    result = {
        "distance": options.distance,
        "sizes": rows,
        "make_up": MAKE_UP,
        "real_texts": sum(map(len, real)),
        "seed": options.seed,
        "command": " ".join(["python", "benchmarks/neighbours.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("numba", "numpy")},
        "python": platform.python_version(),
        "note": NOTE,
    }
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
    (HERE / "results" / "neighbours.json").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()

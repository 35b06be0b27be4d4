"""A Ray cluster of two nodes beside this process: does it find the same, at what cost, and how does the work grow?

    python benchmarks/cluster.py [--rows 500000 5000000] [--work DIR] [--texts 4096] [--model all-MiniLM-L6-v2]

Rows are generated, one in a hundred a near copy of another, and lie in a store in a folder that both nodes read. Each
node has one processor, and this process two, so that the machine is full either way. Measured are: `dedup` with its
defaults, here and on the cluster, once with a worker killed meanwhile; the further fingerprints of all queries alone,
which is what travels; encoding by one and two copies of a model; and, here alone, `create` and materialising. Start-up
(joining, and the first task of each node) is counted apart. Rows that an earlier call with the same --work has
generated or stored are taken as they are.

Writes `benchmarks/results/cluster.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from servers import RayNodes

from mixture import Store, jobs
from mixture.dedup.bands import many_fingerprints
from mixture.dedup.methods.base import PART_ROWS
from mixture.engine import engine_of
from mixture.jobs.tasks import Snapshot, of_part
from mixture.store import read
from mixture.store.materialise import materialise
from mixture.store.parts import text_parts

HERE = Path(__file__).resolve().parent
FILE_ROWS = 250_000
T = TypeVar("T")


def words(random: np.random.Generator, count: int) -> pa.Array:
    letters = random.integers(0, 26, (count, 9)).astype(np.uint8) + 97
    lengths = random.integers(3, 10, count)
    return pa.array(["".join(map(chr, row[:length])) for row, length in zip(letters, lengths, strict=True)])


def sentences(random: np.random.Generator, vocabulary: pa.Array, rows: int, length: int) -> pa.Array:
    columns = [vocabulary.take(pa.array(random.integers(0, len(vocabulary), rows))) for _ in range(length)]
    return pc.binary_join_element_wise(*columns, " ")


def generate(folder: Path, rows: int) -> None:
    """Files of pairs; of each file 1 % of the rows are copies of others of it in capitals, half of them with another
    word at the end of the positive."""
    if folder.exists():
        return
    random, vocabulary = np.random.default_rng(rows), words(np.random.default_rng(7), 20_000)
    there = folder.with_name(folder.name + ".part")
    there.mkdir(parents=True, exist_ok=True)
    for number in range(-(-rows // FILE_ROWS)):
        count = min(FILE_ROWS, rows - number * FILE_ROWS)
        queries, positives = (sentences(random, vocabulary, count, length) for length in (10, 30))
        copies = random.integers(0, count, count // 100)
        later = pc.binary_join_element_wise(
            positives.take(pa.array(copies)), sentences(random, vocabulary, len(copies), 1), " "
        )
        half = np.arange(len(copies)) % 2 == 0
        theirs = pc.if_else(pa.array(half), positives.take(pa.array(copies)), later)
        queries = pa.concat_arrays([queries, pc.utf8_upper(queries.take(pa.array(copies)))])
        positives = pa.concat_arrays([positives, theirs])
        pq.write_table(pa.table({"query": queries, "positive": positives}), there / f"part-{number:03}.parquet")
    there.rename(folder)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return work(), round(time.perf_counter() - started, 2)


def removals(results: list[Any]) -> pa.Table:
    found = pa.concat_tables([result.removals for result in results])
    return found.sort_by([("collection", "ascending"), ("example_id", "ascending")])


def kill_a_worker(after: float, killed: list[int]) -> None:
    """One that runs a task, once there is one."""
    time.sleep(after)
    while not killed:
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith("ray::_run"):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return
        time.sleep(0.1)


def of_rows(rows: int, work: Path, address: str) -> dict[str, Any]:
    generate(work / f"raw-{rows}", rows)
    runs, row = engine_of(f"ray:{address}"), {"rows": rows}
    with Store.open(work / f"store-{rows}", create=True) as store:
        if not read.names(store):
            _, row["ingest_s"] = timed(lambda: jobs.ingest(store, [str(work / f"raw-{rows}")], name="generated"))
        with store.reading() as snapshot:
            prints = read.query_prints(store, ["generated"])
            parts = [part for _, part in text_parts(store, "query", ["generated"], prints["row"].to_numpy(), PART_ROWS)]
            for name, engine, source in [("local", engine_of("local"), Snapshot(store.catalog, snapshot, store)),
                                         ("ray", runs, Snapshot(store.catalog, snapshot, store))]:  # fmt: skip
                made, row[f"fingerprints_{name}_s"] = timed(
                    lambda: list(engine.map(partial(of_part, source, many_fingerprints), parts))  # noqa: B023
                )
                row.setdefault("first", np.concatenate(made))
                row["fingerprints_equal"] = bool(np.array_equal(row["first"], np.concatenate(made)))
            del row["first"]
        print(row, flush=True)
        here, row["dedup_local_s"] = timed(lambda: removals(jobs.dedup(store, dry_run=True)))
        there, row["dedup_ray_s"] = timed(lambda: removals(jobs.dedup(store, dry_run=True, engine=runs)))
        killed: list[int] = []
        thread = threading.Thread(target=kill_a_worker, args=(row["dedup_ray_s"] / 5, killed), daemon=True)
        thread.start()
        again, row["dedup_ray_killed_s"] = timed(lambda: removals(jobs.dedup(store, dry_run=True, engine=runs)))
        row |= {"removed": here.num_rows, "equal": there.equals(here), "killed": len(killed),
                "equal_after_the_kill": again.equals(here)}  # fmt: skip
        spec, row["create_s"] = timed(lambda: jobs.create(store, "uniform").spec)
        folder, row["materialise_s"] = timed(lambda: materialise(store, spec, work / f"materialised-{rows}"))
        row["materialised_mb"] = round(sum(f.stat().st_size for f in folder.folder.rglob("*") if f.is_file()) / 1e6)
        shutil.rmtree(folder.folder)
    print(row, flush=True)
    return row


def of_texts(model: str, count: int, address: str) -> dict[str, Any]:
    from trainers import encode_with

    random = np.random.default_rng(11)
    texts = sentences(random, words(random, 5_000), count, 40).to_pylist()
    row: dict[str, Any] = {"model": model, "texts": count}
    found = []
    for name, given in [("local", {}), ("ray_1", {"processes": 1}), ("ray_2", {"processes": 2})]:
        encode = encode_with(model, **given, **({"engine": f"ray:{address}"} if given else {}))
        encode([f"text {number}" for number in range(8)], "passage")  # starts the copies
        vectors, row[f"{name}_s"] = timed(lambda: encode(texts, "passage"))  # noqa: B023
        found.append(vectors)
    row["equal"] = all(np.array_equal(found[1], vectors) for vectors in found[1:])
    row["equal_to_local"] = bool(np.array_equal(found[0], found[1]))
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mixture-cluster")
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=int, default=4_096)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "cluster.json")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    nodes = RayNodes(2, memory=1_500_000_000)
    os.environ.update(nodes.token)
    try:
        _, start = timed(lambda: list(engine_of(f"ray:{nodes.address}").map(many_fingerprints, [["a text"]] * 8)))
        result: dict[str, Any] = {
            "command": f"python benchmarks/cluster.py --rows {' '.join(map(str, options.rows))}",
            "start_s": start,
            "dedup": [of_rows(rows, options.work, nodes.address) for rows in options.rows],
        }
        if options.texts:
            result["encoding"] = of_texts(options.model, options.texts, nodes.address)
    finally:
        nodes.close()
    result |= {
        "date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("ray", "duckdb", "numpy", "pyarrow", "torch")},
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

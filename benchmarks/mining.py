"""Dense mining: peak memory and time, beside sentence-transformers' own; and what a second call encodes.

    python benchmarks/mining.py search [--queries 10000] [--passages 200000] [--size 384] [--no-theirs]
    python benchmarks/mining.py index [--queries 10000] [--passages 200000] [--size 384] [--indexes exact faiss …]
    python benchmarks/mining.py rows [--rows 1000000] [--mined 20000] [--size 32]
    python benchmarks/mining.py bm25 [--queries 20000] [--passages 200000] [--no-theirs]
    python benchmarks/mining.py encode --data DIR [--texts 3000] [--rounds 3]

`search`: n queries, each with one positive among m passages; generated embeddings. `ours` is the pool, embeddings
written to files, the search and the table of negatives; `again` the same call with all embeddings kept, and `killed`
the call that goes on after SIGKILL at half of the search; `theirs` is
`sentence_transformers.util.mine_hard_negatives` (no faiss) with the same encoder: 8 negatives of 100 candidates, none
above 0.95 of the positive's score. Each is a process of its own. Beside its peak of resident memory stands what the
process held once all was imported. `same` is the share of queries, of the first 1,000, for which both chose the same
negatives in the same order.

`index`: the search alone, exactly and by indexes of faiss, each in a process of its own, over kept embeddings of
passages in clusters within clusters (`Clustered`). `recall` is that of all queries at depth 100, beside `said`, which
the index measured on its sample. `cpu_seconds` are the processor's, and
`built` those of them until all passages are added.

`rows`: a store of so many generated rows in one collection, of which `--mined` have no negatives; `jobs.mine` for these
with an encoder that costs nothing (`first`), again after 5 % new rows without negatives (`grown`), and once more for
nothing new (`same`). `encoded` must be what is new.

`bm25`: 100 candidates of each query by mining's BM25 and by bm25s as its own documentation uses it, with its numpy and
its numba backend; generated texts, tokenised within the measured time. Each is a process of its own. `held_mb` is what
it held once texts were made. `same` is the share of the first 1,000 queries for which a side has our scores to the bit.

`encode`: texts a second by mining's encoding (`ours`), by the same with its files (`kept`), and by
`SentenceTransformer.encode` with its defaults, one after the other in each round, in one process. `thrice` has each
text three times. Ratios, of the rounds, are of processor time.
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
from typing import Any

import mining_texts
import numpy as np

HERE = Path(__file__).resolve().parent
DEPTH, PER_QUERY, RATIO = 100, 8, 0.95
COMPARED = 1_000


class Generated:
    """Embeddings of texts that end in a number, made on the spot: passages of many near ones, queries near theirs."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.size = size
        self._base = rng.standard_normal((4_096, size)).astype(np.float32)
        self.encoded = 0

    def __call__(self, texts: Any, kind: str) -> np.ndarray:
        self.encoded += len(texts)
        numbers = np.array([int(text.rsplit(" ", 1)[1]) for text in texts], np.uint64)
        vectors = self._base[numbers % 4_096] * np.float32(0.6)
        for turn in range(1, 4 if kind == "passage" else 5):
            vectors += self._base[(numbers * np.uint64(2654435761 + 2 * turn) >> np.uint64(7 * turn)) % 4_096] * 0.5
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def space(self, kind: str) -> Any:
        from mixture.embeddings import Space

        return Space(model=f"generated {self.size}", prompt=f"{kind}: ")


class Clustered(Generated):
    """Passages around one of 4,096 centres, some directions wider than others; a query lies near the passage of its
    number."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.size, self.encoded = size, 0
        self._width = (np.arange(1, size + 1) ** -0.5).astype(np.float32)
        self._base = rng.standard_normal((4_096, size)).astype(np.float32)
        self._noise = rng.standard_normal(2**20 + size).astype(np.float32)

    def __call__(self, texts: Any, kind: str) -> np.ndarray:
        self.encoded += len(texts)
        numbers = np.array([int(text.rsplit(" ", 1)[1]) for text in texts], np.uint64)
        vectors = self._base[numbers * np.uint64(2654435761) % 4_093] + self._shifted(numbers, 0)
        if kind == "query":
            vectors += self._shifted(numbers, 1) * 0.5
        vectors *= self._width
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _shifted(self, numbers: np.ndarray, turn: int) -> np.ndarray:
        starts = (numbers * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20 + 7 * turn)) % np.uint64(2**20)
        return self._noise[starts[:, None].astype(np.int64) + np.arange(self.size)]


def measured(before: float, seconds: float, **more: Any) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_mb": round(peak / 1e6), "imports_mb": round(before / 1e6), "seconds": round(seconds, 1)}
                     | more))  # fmt: skip


def resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss)


def ours(queries: int, passages: int, size: int, folder: Path) -> None:
    import pyarrow as pa

    from mixture.embeddings import Keeping
    from mixture.mining import MINERS, MiningPool, MiningSettings
    from mixture.mining.filters import filters_of

    before, started = resident(), time.perf_counter()
    ids = pa.array([f"{number:08d}" for number in range(passages)])
    texts = pa.array([f"passage {number}" for number in range(passages)])
    asked = pa.array([f"query {number}" for number in range(queries)])
    positives = pa.ListArray.from_arrays(np.arange(queries + 1, dtype=np.int32), ids[:queries])
    pool = MiningPool.build(ids[:queries], asked, positives, ids, texts)
    model = Generated(size)
    source = Keeping(model, lambda name: folder / name)
    settings = MiningSettings(per_query=PER_QUERY, depth=DEPTH, filters=filters_of({"max_ratio": RATIO}),
                              fill_random=False)  # fmt: skip
    table = MINERS["dense"].mine(pool, settings, encode=source, recorded="generated").table()
    seconds = time.perf_counter() - started
    found: dict[int, list[int]] = {}
    for row in table.slice(0, COMPARED * PER_QUERY).to_pylist():
        found.setdefault(int(row["example_id"]), []).append(int(row["passage_id"]))
    chosen = [found.get(number, []) for number in range(min(COMPARED, queries))]
    measured(before, seconds, negatives=table.num_rows, encoded=model.encoded, chosen=chosen)


def noting(queries: int, passages: int, size: int, folder: Path) -> None:
    """`ours`, noting each second how far it is."""
    from mixture.embeddings import standing

    standing.EVERY = 1.0
    ours(queries, passages, size, folder)


def killed(*arguments: Any) -> float:
    """Kill a search when half of it is noted; the share that is."""
    command = [sys.executable, __file__, "--child", "noting", *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    share = 0.0
    while share < 0.5:
        if running.poll() is not None:
            raise SystemExit("the search ended before it could be killed")
        time.sleep(0.05)
        for file in arguments[-1].glob("*/.search-*"):
            share = float(np.load(file)["done"].mean())
    running.kill()
    running.wait()
    return round(share, 2)


def theirs(queries: int, passages: int, size: int, folder: Path) -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers import util

    generated = Generated(size)

    class Model:
        device = torch.device("cpu")
        similarity = staticmethod(util.dot_score)
        similarity_pairwise = staticmethod(util.pairwise_dot_score)

        def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
            return self._all(texts, "query")

        def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
            return self._all(texts, "passage")

        def _all(self, texts: list[str], kind: str) -> np.ndarray:
            found = np.empty((len(texts), size), np.float32)
            for start in range(0, len(texts), 4_096):
                found[start : start + 4_096] = generated(texts[start : start + 4_096], kind)
            return found

    before, started = resident(), time.perf_counter()
    rows = Dataset.from_dict({"anchor": [f"query {n}" for n in range(queries)],
                              "positive": [f"passage {n}" for n in range(queries)]})  # fmt: skip
    found = util.mine_hard_negatives(
        rows, Model(), corpus=[f"passage {n}" for n in range(passages)], range_max=DEPTH, num_negatives=PER_QUERY,
        relative_margin=1 - RATIO, output_format="labeled-list", verbose=False,
    )  # type: ignore[arg-type]  # fmt: skip
    seconds = time.perf_counter() - started
    chosen: list[list[int]] = [[] for _ in range(min(COMPARED, queries))]
    count = 0
    for row in found:
        own = [int(text.rsplit(" ", 1)[1]) for text, label in zip(*_columns(row), strict=True) if not label]
        count += len(own)
        if (number := int(row["anchor"].rsplit(" ", 1)[1])) < len(chosen):
            chosen[number] = own
    measured(before, seconds, negatives=count, encoded=generated.encoded, chosen=chosen)


def _columns(row: dict[str, Any]) -> tuple[list[str], list[int]]:
    texts = next(value for name, value in row.items() if name != "labels" and isinstance(value, list))
    return texts, row["labels"]


def indexed(number: int, queries: int, passages: int, size: int, folder: Path) -> None:
    """The search by the index of this number in `indexes.json`; what the first one finds is what the others should."""
    import pyarrow as pa

    from mixture.embeddings import Keeping, index_of
    from mixture.text.strings import Strings

    name = json.loads((folder / "indexes.json").read_text())[number]
    source = Keeping(Clustered(size), lambda space: folder / space)
    asked, texts = (Strings(pa.chunked_array([[f"{kind} {n}" for n in range(count)]], pa.large_string()))
                    for kind, count in (("query", queries), ("passage", passages)))  # fmt: skip
    search = index_of(name)
    before, started, cpu, steps = resident(), time.perf_counter(), time.process_time(), []
    vectors = source.vectors(asked, "query", again=True)
    best = search(vectors, source.vectors(texts, "passage"), DEPTH,
                  progress=lambda done, total: steps.append((total - done, time.process_time() - cpu)))  # fmt: skip
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    numbers = best.arrays()[1]
    if not number:
        np.save(folder / "exact.npy", numbers)
    exact = np.load(folder / "exact.npy")
    found = [len(np.intersect1d(*pair)) for pair in zip(numbers, exact, strict=True)]
    more = {} if best.recall is None else {"built": round(next(at for left, at in steps if left <= queries), 1),
                                           "said": round(best.recall, 4)}  # fmt: skip
    measured(
        before,
        seconds,
        cpu_seconds=round(cpu, 1),
        encoded=source.encoded,
        recall=round(sum(found) / exact.size, 4),
        **more,
    )


def _rows_file(file: Path, first: int, count: int, mined: int) -> None:
    """Rows of a query and a positive, and of a negative (another row's positive) where nothing is to be mined."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(first, first + count)
    table = {"query": [f"what is thing {n}" for n in numbers], "positive": [f"thing is {n}" for n in numbers]}
    schema = pa.schema([("query", pa.string()), ("positive", pa.string()), ("negative", pa.list_(pa.string()))])
    bad = [[] if n < first + mined else [f"thing is {first + (n - first + 1) % count}"] for n in numbers]
    pq.write_table(pa.table(table | {"negative": bad}, schema=schema), file)


def ingest(first: int, count: int, mined: int, folder: Path) -> None:
    from mixture import Store, jobs

    file = folder / f"rows-{first}.parquet"
    _rows_file(file, first, count, mined)
    before, started = resident(), time.perf_counter()
    with Store.open(folder / "store", create=True) as store:
        jobs.ingest(store, str(file), name="rows")
    measured(before, time.perf_counter() - started)


def mine(size: int, depth: int, folder: Path) -> None:
    """Mines without collections: for the examples that have no negatives."""
    from mixture import Store, jobs

    model = Generated(size)
    before, started = resident(), time.perf_counter()
    with Store.open(folder / "store") as store:
        found = jobs.mine(store, miner="generated", encode=model, per_query=PER_QUERY, depth=depth)
    counts = {name: sum(getattr(result, name) for result in found)
              for name in ("examples", "negatives", "encoded", "reused")}  # fmt: skip
    measured(before, time.perf_counter() - started, given=model.encoded, **counts)


def bm25_side(side: int, queries: int, passages: int, folder: Path) -> None:
    steps = list(mining_texts.SIDES.values())[side](queries, passages)
    next(steps)
    held, found = resident(), {}
    for part in ("index", "search"):
        started, before = time.perf_counter(), time.process_time()
        next(steps)
        found[f"{part}_s"] = round(time.perf_counter() - started, 1)
        found[f"{part}_processor_s"] = round(time.process_time() - before, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    scores = [row.astype(np.float32).tobytes().hex() for row in next(steps)]
    print(json.dumps({"peak_mb": round(peak / 1e6), "held_mb": round(held / 1e6)} | found | {"chosen": scores}))


def child(*arguments: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TQDM_DISABLE": "1"})
    if done.returncode:
        raise SystemExit(f"{arguments[0]} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = {name: value for name, value in found.items() if name != "chosen"}
    print(arguments[0], shown, file=sys.stderr, flush=True)
    return found


def search(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    shape = (options.queries, options.passages, options.size, folder)
    points = {"ours": child("ours", *shape), "again": child("ours", *shape)}
    share = killed(*shape)
    points["killed"] = child("ours", *shape) | {"noted before": share}
    if options.theirs:
        points["theirs"] = child("theirs", *shape)
    chosen = {name: point.pop("chosen") for name, point in points.items()}
    assert chosen["ours"] == chosen["again"] == chosen["killed"]
    pairs = list(zip(chosen["ours"], chosen.get("theirs", []), strict=False))
    same = round(sum(a == b for a, b in pairs) / len(pairs), 4) if pairs else None
    return {"queries": options.queries, "passages": options.passages, "dimensions": options.size, "same": same} | points


def bm25(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    shape = (options.queries, options.passages, folder)
    sides = list(mining_texts.SIDES)[: None if options.theirs else 1]
    points = {name: child("bm25_side", side, *shape) for side, name in enumerate(sides)}
    chosen = {name: point.pop("chosen") for name, point in points.items()}
    for name, point in points.items():
        point["same"] = round(np.mean([a == b for a, b in zip(chosen["ours"], chosen[name], strict=True)]), 4)
    return {"queries": options.queries, "passages": options.passages, "candidates": mining_texts.DEPTH} | points


def index(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    names = ["exact", "exact", *options.indexes]  # the first one encodes
    (folder / "indexes.json").write_text(json.dumps(names))
    shape = (options.queries, options.passages, options.size, folder)
    points = [{"index": name} | child("indexed", number, *shape) for number, name in enumerate(names)]
    return {
        "queries": options.queries,
        "passages": options.passages,
        "dimensions": options.size,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "points": points[1:],
    }


def rows(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    new = options.rows // 20
    result: dict[str, Any] = {"rows": options.rows, "mined": options.mined, "dimensions": options.size}
    result["ingest"] = child("ingest", 0, options.rows, options.mined, folder)
    result["first"] = child("mine", options.size, options.depth, folder)
    child("ingest", options.rows, new, new, folder)
    result["grown"] = child("mine", options.size, options.depth, folder)
    result["same"] = child("mine", options.size, options.depth, folder)
    # Of the new rows' texts every passage and every query is new, and nothing else.
    assert result["grown"]["encoded"] == 2 * new, result["grown"]
    assert result["same"]["encoded"] == 0
    return result | {"new_rows": new}


def main() -> None:
    if "--child" in sys.argv:
        name, *numbers, folder = sys.argv[2:]
        globals()[name](*map(int, numbers), Path(folder))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["search", "index", "rows", "bm25", "encode"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--texts", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, help="[10000; 20000 for bm25]")
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--mined", type=int, default=20_000)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--size", type=int, help="Dimensions [384 for search, 32 for rows]")
    parser.add_argument("--indexes", nargs="+", default=["faiss", "faiss:IVF1024,Flat:nprobe=256", "faiss:HNSW32"])
    parser.add_argument("--theirs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="[benchmarks/results/mining_PART.json]")
    options = parser.parse_args()
    options.queries = options.queries or (20_000 if options.part == "bm25" else 10_000)
    options.size = options.size or (32 if options.part == "rows" else 384)
    parts = {"search": search, "index": index, "rows": rows, "bm25": bm25, "encode": mining_texts.encode}
    with tempfile.TemporaryDirectory() as folder:
        found = parts[options.part](options, Path(folder))
    result = {
        "command": f"python benchmarks/mining.py {' '.join(sys.argv[1:])}", **found,
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("faiss-cpu", "numpy", "numba", "pyarrow", "bm25s", "torch",
                                                   "sentence-transformers")},
    }  # fmt: skip
    out = options.out or HERE / "results" / f"mining_{options.part}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Evaluation: what it says of three models on real suites, how quick its search is, and what a large corpus takes.

    python benchmarks/evaluation.py suites --data DIR [--models bm25 static all-MiniLM-L6-v2]
    python benchmarks/evaluation.py search [--queries 1000] [--documents 200000] [--size 384] [--rounds 5]
    python benchmarks/evaluation.py corpus [--queries 1000] [--documents 2000000] [--size 384]

`suites`: `trainers.evaluate` of each model on the suites in DIR/eval, nDCG@10 times 100 and seconds.

`search`: the 101 best of random vectors by evaluation's search, and by a plain product of blocks with `torch.topk` of
each and of both bests together, one after the other in each round; ratios are of processor time.

`corpus`: a suite of so many generated documents, and one of twice as many, by an encoder that costs little; each in a
process of its own, with its peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
TOP, BLOCK = 101, 16_384


def suites(options: argparse.Namespace) -> dict[str, Any]:
    import trainers
    from mixture import Store

    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store", create=True) as store:
        found = trainers.evaluate(store, options.models, options.data / "eval", metrics=["mrr@10"])
    points: dict[str, dict[str, Any]] = {}
    for result in found:
        scores = {name: round(100 * value, 2) for name, value in result.metrics.items()}
        facts = {"queries": result.num_queries, "documents": result.num_documents, "seconds": round(result.seconds, 2)}
        points.setdefault(result.model, {})[result.suite] = scores | facts
    for name, of_model in points.items():
        means = {key: statistics.fmean(row[key] for row in of_model.values()) for key in ("ndcg@10", "mrr@10")}
        print(name, {key: round(value, 2) for key, value in means.items()}, round(sum(
            row["seconds"] for row in of_model.values()), 1), "s", flush=True)  # fmt: skip
    return {"models": points}


def plain(queries: torch.Tensor, documents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    for start in range(0, len(documents), BLOCK):
        scores, places = torch.topk(queries @ documents[start : start + BLOCK].T, TOP, dim=1)
        places = places + start
        if best is not None:
            scores, order = torch.topk(torch.cat([best[0], scores], 1), TOP, dim=1)
            places = torch.cat([best[1], places], 1).gather(1, order)
        best = scores, places
    assert best is not None
    return best


def search(options: argparse.Namespace) -> dict[str, Any]:
    from mixture.embeddings import InMemory
    from trainers.evaluation.search import nearest

    rng = np.random.default_rng(0)
    queries, documents = (rng.standard_normal((n, options.size), np.float32)
                          for n in (options.queries, options.documents))  # fmt: skip
    for vectors in (queries, documents):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    device, seconds = torch.device("cpu"), {"ours": [], "plain": []}  # type: dict[str, list[float]]
    for _ in range(options.rounds + 1):
        started = time.process_time()
        _, numbers = nearest(InMemory(queries), InMemory(documents, BLOCK), TOP, device=device,
                             progress=lambda done, total: None)  # fmt: skip
        middle = time.process_time()
        _, places = plain(torch.from_numpy(queries), torch.from_numpy(documents))
        seconds["plain"].append(time.process_time() - middle)
        seconds["ours"].append(middle - started)
    ratios = [theirs / own for theirs, own in zip(seconds["plain"][1:], seconds["ours"][1:], strict=True)]
    shared = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(numbers.tolist(), places.tolist(), strict=True)])
    found = {"threads": torch.get_num_threads(), "seconds": {k: round(min(v[1:]), 2) for k, v in seconds.items()},
             "plain / ours": [round(ratio, 2) for ratio in (min(ratios), statistics.median(ratios), max(ratios))],
             "same": round(float(shared), 5)}  # fmt: skip
    print(found)
    return {"queries": options.queries, "documents": options.documents, "dimensions": options.size} | found


def one_corpus(queries: int, documents: int, size: int) -> None:
    import pyarrow as pa
    from mining import Generated, resident

    from mixture.suites.documents import Documents
    from mixture.suites.suite import Suite
    from mixture.text.strings import Strings
    from trainers.evaluation.evaluate import score_suite
    from trainers.evaluation.rankers import Dense

    before, started = resident(), time.perf_counter()

    def column(words: str, count: int) -> Strings:
        parts = [pa.array([f"{words} {n}" for n in range(start, min(start + 65_536, count))], pa.large_string())
                 for start in range(0, count, 65_536)]  # fmt: skip
        return Strings(pa.chunked_array(parts))

    texts = column("passage", documents)
    empty = Strings(pa.chunked_array([pa.repeat("", documents).cast(pa.large_string())]))
    ids = [str(n) for n in range(queries)]
    suite = Suite("generated", column("d", documents), Documents(empty, texts), ids,
                  [f"query {n}" for n in range(queries)], {n: {f"d {n}": 1} for n in ids})  # fmt: skip
    encoder: Any = SimpleNamespace(similarity_fn_name="cosine", device=torch.device("cpu"), max_seq_length=None)
    model = Generated(size)
    result = score_suite(Dense(encoder, lambda _: None, encode=lambda q, p: model), suite)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "documents": documents, "peak_mb": round(peak / 1e6), "imports_mb": round(before / 1e6),
        "seconds": round(time.perf_counter() - started, 1), "processor_seconds": round(time.process_time(), 1),
        "ndcg@10": result.metrics["ndcg@10"],
    }))  # fmt: skip


def corpus(options: argparse.Namespace) -> dict[str, Any]:
    points = []
    for documents in (options.documents, 2 * options.documents):
        command = [sys.executable, __file__, "--child", str(options.queries), str(documents), str(options.size)]
        points.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
        print(points[-1], flush=True)
    return {"queries": options.queries, "dimensions": options.size, "points": points}


def main() -> None:
    if "--child" in sys.argv:
        one_corpus(*map(int, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["suites", "search", "corpus"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--models", nargs="+", default=["bm25", "static", "all-MiniLM-L6-v2"])
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--documents", type=int, help="[200000 for search, 2000000 for corpus]")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.documents = options.documents or (200_000 if options.part == "search" else 2_000_000)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = {"suites": suites, "search": search, "corpus": corpus}[options.part](options)
    result = {
        "command": f"python benchmarks/evaluation.py {' '.join(sys.argv[1:])}", **found,
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    out = HERE / "results" / f"evaluation_{options.part}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

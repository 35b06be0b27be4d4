"""Do chosen rows teach more than random ones? Coresets of real collections, with a pretrained static student.

    python benchmarks/coreset.py [--data DIR] [--work DIR] [--steps 200] [--seeds 5]
    python benchmarks/coreset.py --scale

Twelve collections, equally weighted, near-duplicates and test queries taken out, BM25 negatives. The target is the half
`learn` of thirteen suites; the table has the half `report`. Of 10 % and 30 % of the rows there are, each way twice:

- each collection gives by its weight, and all keep equal weights: chosen rows, or random ones
- from all collections together, and their shares are the weights: chosen rows, or random ones

`shares alone` has all rows, and the weights that the free choice came to. Every mixture trains models of the same seeds
for the same steps; of random rows each seed draws its own. Killed and run again with the same --work, it goes on where
it was. It writes `benchmarks/results/coreset.json` and the table of docs/benchmarks.md.

--scale chooses among a million random vectors, in a process of its own, and says what that takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from study.scores import Scores, compared, of_static

import trainers
from mixture import Store, jobs, registry
from mixture.coreset import Costs, choose
from mixture.suites.layout import find_suites

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "coreset.json"
COLLECTIONS = ("agnews", "altlex", "cmrc2018", "dureader", "pubmedqa", "disflqa", "asset", "cose", "covidfaq",
               "concode", "covidqa", "xquad")  # fmt: skip
BUDGETS = (0.1, 0.3)


class Bench:
    def __init__(self, store: Store, data: Path, work: Path, steps: int) -> None:
        self.store, self.work, self.steps = store, work, steps
        self.suites = sorted(find_suites([data / "eval"]), key=lambda folder: folder.name)
        self.encode = trainers.encode_with("static")

    def chosen(self, name: str, budget: float, **options: Any) -> str:
        """A coreset's reference; what it took stands in `chosen/`."""
        file = self.work / "chosen" / f"{name}.json"
        if not file.is_file():
            made = jobs.coreset(self.store, "uniform", name, target=self.suites, budget=budget, encode=self.encode,
                                **options)  # fmt: skip
            facts = {"reference": made.mixture.reference, "seconds": round(made.seconds, 1), "distance": made.distance,
                     "random": made.random, "rows": made.rows}  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(facts))
        return str(json.loads(file.read_text())["reference"])

    def shares(self, name: str, budget: float) -> str:
        """All rows, with the weights of the free choice."""
        weights = {row["collection"]: row["weight"] for row in json.loads(
            (self.work / "chosen" / f"free-{budget:g}.json").read_text())["rows"] if row["weight"] > 0}  # fmt: skip
        return jobs.create(self.store, name, weights=weights).reference

    def scored(self, mixture: str, seed: int) -> Scores:
        return of_static(self.store, mixture, seed, steps=self.steps, suites=self.suites, work=self.work)


def prepare(store: Store, data: Path) -> None:
    if store.rows("SELECT 1 FROM mixtures WHERE name = 'uniform'"):
        return
    jobs.ingest(store, [data / "raw" / name for name in COLLECTIONS], cards=HERE / "cards")
    jobs.dedup(store)
    jobs.decontaminate(store, [*sorted((data / "decontaminate").glob("*.jsonl.gz")), data / "eval"])
    jobs.mine(store)
    jobs.create(store, "uniform")


def mixtures(bench: Bench) -> dict[str, Callable[[int], str]]:
    """Name -> the mixture that a seed trains on."""
    made: dict[str, Callable[[int], str]] = {"uniform": lambda _: "uniform:1"}
    for budget in BUDGETS:
        for way, shares in (("core", "mixture"), ("free", "free")):

            def chosen(_: int, way: str = way, shares: str = shares, budget: float = budget) -> str:
                return bench.chosen(f"{way}-{budget:g}", budget, shares=shares)

            def chance(seed: int, way: str = way, shares: str = shares, budget: float = budget) -> str:
                name = f"random-{way}-{budget:g}-{seed}"
                return bench.chosen(name, budget, shares=shares, random=True, seed=seed)

            made[f"{way}-{budget:g}"], made[f"random-{way}-{budget:g}"] = chosen, chance
        made[f"shares-{budget:g}"] = lambda _, budget=budget: bench.shares(f"shares-{budget:g}", budget)
    return made


def against(ours: list[Scores], theirs: list[Scores]) -> dict[str, float]:
    """The difference in nDCG@10 × 100 over all suites, its standard error, and p."""
    found = compared(ours, theirs)
    assert found is not None
    return {name: found[name] for name in ("difference", "error", "p")}


BASELINES = {"core": "random-core", "free": "random-free"}


def table(bench: Bench, seeds: int) -> dict[str, Any]:
    found: dict[str, list[Scores]] = {}
    rows: dict[str, Any] = {}
    for name, make in mixtures(bench).items():
        found[name] = [bench.scored(make(seed), seed) for seed in range(seeds)]
    for name, scores in found.items():
        way, _, budget = name.partition("-")
        means = compared(scores, found["uniform"])
        assert means is not None
        rows[name] = {"ndcg": means["mean"], "sd": means["sd"]}
        if name != "uniform":
            rows[name]["against uniform"] = against(scores, found["uniform"])
        if way in BASELINES:
            rows[name]["against random"] = against(scores, found[f"{BASELINES[way]}-{budget}"])
            rows[name] |= {key: value for key, value in json.loads(
                (bench.work / "chosen" / f"{name}.json").read_text()).items() if key != "reference"}  # fmt: skip
        if way == "free":
            rows[name]["against shares alone"] = against(scores, found[f"shares-{budget}"])
    return rows


def cell(one: dict[str, float] | None) -> str:
    return "" if one is None else f"{one['difference']:+.2f} ± {one['error']:.2f} ({one['p']:.2g})"


def shown(rows: dict[str, Any]) -> None:
    print(
        "| mixture | nDCG@10 | against uniform (p) | against random rows (p) | against shares alone (p) | chosen in |"
    )
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        took = f"{row['seconds']:.0f} s" if "seconds" in row else ""
        cells = (cell(row.get(f"against {other}")) for other in ("uniform", "random", "shares alone"))
        print(f"| {name} | {row['ndcg']:.2f} ± {row['sd']:.2f} | {' | '.join(cells)} | {took} |")


# Candidates, target rows and dimensions: a query and a passage of 256 numbers each, as `static` gives.
SCALE = (1_000_000, 2_000, 512)


def scaled(n: int) -> None:
    """In a process of its own: seconds of a choice of n, and the most memory that the process had."""
    generator = np.random.default_rng(0)
    vectors = [np.empty((size, SCALE[2]), np.float32) for size in SCALE[:2]]
    for array in vectors:
        generator.standard_normal(dtype=np.float32, out=array)
        for start in range(0, len(array), 65_536):
            array[start : start + 65_536] /= np.linalg.norm(array[start : start + 65_536], axis=1, keepdims=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    made = choose(Costs(*vectors), n)
    print(json.dumps({"chosen": n, "method": made.method, "seconds": round(time.perf_counter() - started, 1),
                      "vectors_gb": round(before / 2**20, 2),
                      "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXTURE_REAL_DATA") or "../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/coreset"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.one:
        scaled(options.one)
        return
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if options.scale:
        result["scale"] = {"candidates": SCALE[0], "target_rows": SCALE[1], "dimensions": SCALE[2], "choices": []}
        for n in (1_000, 10_000, 100_000):
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(n)], capture_output=True, text=True, check=True
            )
            result["scale"]["choices"].append(json.loads(done.stdout))
            print(done.stdout, end="", flush=True)
    else:
        with Store.open(str(options.work / "store"), create=True) as store:
            prepare(store, Path(options.data))
            bench = Bench(store, Path(options.data), options.work, options.steps)
            result["table"] = table(bench, options.seeds)
            held = registry.pinned_facts(store, registry.resolve(store, "uniform").spec)
            result |= {"rows": sum(facts.num_examples or 0 for facts in held.values()), "steps": options.steps,
                       "seeds": options.seeds}  # fmt: skip
        shown(result["table"])
    result |= {
        "command": "python benchmarks/coreset.py; python benchmarks/coreset.py --scale",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("numpy", "pot", "torch", "wordllama")},
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

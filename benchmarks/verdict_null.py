"""Does `verdict` keep its word? Uniform against uniform with other seeds, and against mixtures that differ.

    python benchmarks/verdict_null.py --data ../shared/data --work FOLDER [--seeds 30 --steps 400]

The student is `static`, the components are the collections with 100 examples or more, xquad by language, the suites are
all of the data's. Each mixture is trained once with each seed; the scores of single queries are kept in FOLDER, so that
a second call goes on. Then, for 2, 3 and 5 seeds a side:

null     two disjoint draws of seeds of uniform, `--repetitions` times, as 40 users would see it, and 4,000 times for
         the share itself. Expected of a test at 5 %: "ahead" in 2.5 %, "behind" in 2.5 %. The draws share seeds with
         each other, so the share over all draws is less sure than 4,000 says.
queries  the same draws by a paired t-test over all queries, which takes the seeds for no chance at all.
found    uniform against each other mixture, the same seeds on both sides: how often "ahead" is said.
pairing  the correlation between the means of two mixtures over equal seeds: what equal seeds bring.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixture import Store, jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.store.materialise import materialise
from mixture.suites.layout import find_suites
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.output import record_of
from trainers.finetune.scores import METRIC, load_suites

HERE = Path(__file__).resolve().parent
LEAST = 100
# uniform, and what it is held against: without the largest collection that has a suite; every weight up or down a fifth.
MIXTURES = ("uniform", "without-disflqa", "a-fifth-off", "proportional")


def prepared(data: Path, work: Path) -> dict[str, MaterialisedMixture]:
    """The mixtures, in a store in `work` that is made once."""
    there = (work / "store").is_dir()
    with Store.open(work / "store", create=True) as store:
        if not there:
            jobs.ingest(store, [str(data / "raw")], cards=HERE / "cards")
            jobs.mine(store, (), miner="bm25", per_query=8, seed=42)
            sizes = {row["collection"]: row["n"] for row in
                     store.rows("SELECT collection, count(*) AS n FROM examples GROUP BY ALL")}  # fmt: skip
            whole = sorted(name for name, n in sizes.items() if n >= LEAST and name != "xquad")
            jobs.create(store, "uniform", collections=whole, slices="xquad:language", allow_contaminated=True)
            spec = registry.resolve(store, "uniform").spec
            facts = registry.pinned_facts(store, spec)
            names = [c.name for c in spec.components]
            off = {name: 0.8 + 0.4 * (place % 2) for place, name in enumerate(names)}
            registry.save(store, spec.with_weights({n: w / sum(off.values()) for n, w in off.items()}), "a-fifth-off")
            counts = {name: facts[name].num_examples or 0 for name in names}
            total = sum(counts.values())
            registry.save(store, spec.with_weights({n: k / total for n, k in counts.items()}), "proportional")
            jobs.create(store, "without-disflqa", source="uniform", dropped="disflqa", allow_contaminated=True)
        return {name: materialise(store, registry.resolve(store, name).spec) for name in MIXTURES}


def scores(data: MaterialisedMixture, name: str, seed: int, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Values of the queries by suite, of one training; kept in the work folder."""
    file = options.work / f"scores-{name}-{options.steps}-{seed}.npz"
    if not file.is_file():
        out = options.work / "model"
        settings = FinetuneSettings(steps=options.steps, negatives=1, temperature=0.05, tracker="none", seed=seed,
                                    checkpoint_every=10_000)  # fmt: skip
        began = time.perf_counter()
        finetune(data, "static", settings, out, suites=options.suites)
        found = {row["suite"]: row["values"][METRIC] for row in record_of(out)["query_scores"]}
        np.savez(file, **{suite: np.array([values[q] for q in sorted(values)]) for suite, values in found.items()})
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        out.rmdir()
        print(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    with np.load(file) as stored:
        return dict(stored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    options.suites = load_suites(find_suites(options.data / "eval"))
    data = prepared(options.data, options.work)
    for seed in range(options.seeds):
        for name in MIXTURES if seed < 10 else MIXTURES[:1]:
            scores(data[name], name, seed, options)


if __name__ == "__main__":
    main()

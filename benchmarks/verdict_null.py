"""Does `verdict` keep its word? Uniform against uniform with other seeds, and against mixtures that differ.

    python benchmarks/verdict_null.py --data ../shared/data --work FOLDER [--seeds 30 --paired 10 --steps 400]

The student is `static`, the components are the collections with 100 examples or more, xquad by language, the suites are
all of the data's. Uniform is trained once with each of `--seeds`, each other mixture with the first `--paired` of them;
the scores of single queries are kept in FOLDER, so that a second call goes on. Then, for 2, 3 and 5 models a side:

null     two disjoint draws of seeds of uniform, 40 times, and 500 times for the share itself. Expected of a test at
         5 %: 2.5 % "ahead" and 2.5 % "behind". Draws share models, so that 500 are worth far fewer. `over_queries` is
         a paired t-test over all queries on the same draws, `over_seeds` one over the differences of the seeds' means.
found    each other mixture against uniform, draws of equal seeds: how often it is ahead and behind. `verdict` takes
         three seeds and more as pairs where the mixtures share four fifths of their draws: all but proportional.
pairing  the correlation of two mixtures' means over equal seeds: what equal seeds have in common.
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
from scipy import stats

from mixture import Store, jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.store.materialise import materialise
from mixture.suites.given import suites_of
from trainers.evaluation.compare import SIGNIFICANT, Comparison, compare
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.output import record_of
from trainers.finetune.scores import METRIC, load_suites

HERE = Path(__file__).resolve().parent
LEAST = 100
# Uniform, and what it is held against. disflqa is the collection with the largest suite of its own.
SIDES = (2, 3, 5)
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


def counted(found: list[Comparison]) -> dict[str, Any]:
    return {"draws": len(found), "ahead": sum(one.p <= SIGNIFICANT and one.difference > 0 for one in found),
            "behind": sum(one.p <= SIGNIFICANT and one.difference < 0 for one in found),
            "error": round(100 * float(np.mean([one.error for one in found])), 3)}  # fmt: skip


class Scored:
    """The scores of all models of each mixture, (seeds, queries), and of which suite each query is."""

    def __init__(self, runs: dict[str, list[dict[str, np.ndarray]]], ids: dict[str, list[str]]) -> None:
        names = np.concatenate([[suite] * len(ids[suite]) for suite in sorted(ids)])
        clusters = np.concatenate([[f"{s.partition('-')[0]} {q}" for q in ids[s]] for s in sorted(ids)])
        # As numbers, which are compared faster.
        self.suites, self.clusters = (np.unique(one, return_inverse=True)[1] for one in (names, clusters))
        self.of = {name: np.array([np.concatenate([one[s] for s in sorted(ids)]) for one in found])
                   for name, found in runs.items()}  # fmt: skip
        weights = np.concatenate([np.full(len(ids[s]), 1 / len(ids) / len(ids[s])) for s in sorted(ids)])
        self.means = {name: values @ weights for name, values in self.of.items()}

    def null(self, side: int, draws: int) -> dict[str, Any]:
        random, found, paired, queries, seeds = np.random.default_rng(side), [], [], 0, 0
        values, means = self.of["uniform"], self.means["uniform"]
        for _ in range(draws):
            chosen = random.permutation(len(values))[: 2 * side]
            one, other = chosen[:side], chosen[side:]
            found.append(compare(values[one], values[other], self.suites, self.clusters))
            paired.append(compare(values[one], values[other], self.suites, self.clusters, paired=True))
            queries += stats.ttest_1samp(values[one].mean(0) - values[other].mean(0), 0).pvalue <= SIGNIFICANT
            seeds += stats.ttest_rel(means[one], means[other]).pvalue <= SIGNIFICANT
        return counted(found) | {"paired": counted(paired), "over_queries": int(queries), "over_seeds": int(seeds)}

    def found(self, name: str, side: int, *, paired: bool) -> dict[str, Any]:
        ours, theirs, random, found = self.of[name], self.of["uniform"], np.random.default_rng(side), []
        for _ in range(200):
            chosen = random.permutation(len(ours))[:side]
            found.append(compare(ours[chosen], theirs[chosen], self.suites, self.clusters, paired=paired))
        gap = float(self.means[name].mean() - self.means["uniform"][: len(ours)].mean())
        return counted(found) | {"difference": round(100 * gap, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--paired", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "verdict_null.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    options.suites = load_suites(suites_of(options.data / "eval"))
    data = prepared(options.data, options.work)
    runs: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in MIXTURES}
    for seed in range(options.seeds):
        for name in MIXTURES if seed < options.paired else MIXTURES[:1]:
            runs[name].append(scores(data[name], name, seed, options))
    scored = Scored(runs, {suite.title: sorted(suite.query_ids) for suite in options.suites})
    uniform = scored.means["uniform"]
    result = {
        "uniform": {"mean": round(100 * float(uniform.mean()), 2),
                    "spread": round(100 * float(uniform.std(ddof=1)), 3)},
        "null": {side: {"as_40_users": scored.null(side, 40), "share": scored.null(side, 500)} for side in SIDES},
        "found": {name: {how: {side: scored.found(name, side, paired=how == "paired") for side in SIDES}
                         for how in ("paired", "not paired")} for name in MIXTURES[1:]},
        "pairing": {name: round(float(np.corrcoef(scored.means[name], uniform[: options.paired])[0, 1]), 2)
                    for name in MIXTURES[1:]},
        "command": "python benchmarks/verdict_null.py --data ../shared/data --work FOLDER "
                   f"--seeds {options.seeds} --paired {options.paired} --steps {options.steps}",
        "settings": {k: v for k, v in vars(options).items() if isinstance(v, int)},
        "hardware": f"1 of {os.cpu_count()} cores, {platform.machine()}", "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "sentence-transformers", "wordllama")},
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in result.items() if k not in ("settings", "versions")}, indent=1))


if __name__ == "__main__":
    main()

"""Do learned weights help? Every learner against uniform, on real collections, with a pretrained static student.

    python benchmarks/weights_that_win.py [--data DIR] [--work DIR] [--steps 400] [--seeds 5] [--only NAME,...]

Nineteen components: eleven collections and xquad by language. Thirteen suites, each in two halves by a hash of the
query: a learner that looks at a target sees the half `learn`, the table has the half `report`. The suites are dealt
into two sets, A and B, every other one in order of name. What looks at a target is run towards all, towards A and
towards B; of the last two the other set's suites are "left out".

Every mixture trains models of the same seeds for the same steps. Killed and run again with the same --work, it goes on
where it was. It writes `benchmarks/results/weights_that_win.json` and the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import trainers
from mixture import Store, jobs, registry, transfers
from mixture.errors import MixtureError
from mixture.suites.families import family
from mixture.suites.layout import find_suites
from trainers.evaluation.compare import compare
from trainers.jobs.verdict import ALIKE
from trainers.settings import resolve

HERE = Path(__file__).resolve().parent
COLLECTIONS = ("agnews", "altlex", "cmrc2018", "dureader", "pubmedqa", "disflqa", "asset", "cose", "covidfaq",
               "concode", "covidqa")  # fmt: skip
HOLDOUT = 0.05
# Models of these mixtures are kept for soups: the three that are learned towards all suites, and uniform.
LEARNED = ("swarm-all", "swarm-holdout-all", "search-all")
SOUPS = ("uniform", *LEARNED)
LONGER = (2, 3)
# Suite -> query -> nDCG@10.
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Bench:
    store: Store
    data: Path
    work: Path
    steps: int

    @property
    def suites(self) -> list[Path]:
        return sorted(find_suites([self.data / "eval"]), key=lambda folder: folder.name)

    def target(self, which: str) -> list[Path]:
        """all; A, every other suite in order of name; B, the others"""
        return {"all": self.suites, "A": self.suites[::2], "B": self.suites[1::2]}[which]

    def learn(self, name: str, algorithm: str, which: str | None = None, **settings: Any) -> str:
        """The mixture that a learner finds; its reference, with the seconds that it took beside it in `seconds`."""
        chosen = resolve(trainers.LearningSettings, "static", {"algorithm": algorithm, "steps": self.steps, **settings})
        started = time.perf_counter()
        made = trainers.learn_weights(
            self.store, "uniform", proxy="static", name=name, target=self.target(which) if which else (),
            settings=chosen,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        for line in made.lines():
            print(f"{name}: {line}", file=sys.stderr, flush=True)
        note = {"seconds": round(seconds, 1), "lines": made.lines()}
        file = self.work / "learned" / f"{name}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(note, indent=1))
        return made.first.reference

    def moved(self, name: str) -> float:
        """The share of the draws that goes to other collections than with uniform; 1 where the rows are others."""
        with contextlib.suppress(MixtureError):
            weights = [registry.resolve(self.store, f"{one}:1").spec.weights for one in (name, "uniform")]
            if weights[0].keys() == weights[1].keys():
                return sum(abs(weights[0][c] - weights[1][c]) for c in weights[0]) / 2
        return 0.0 if name.startswith("soup-uniform") else 1.0

    def cost(self, name: str) -> dict[str, Any]:
        """What learning took, in trainings of the mixture's length: references, proxies, trunk and branches, probes and
        candidates. A measurement on the target takes a fiftieth of a training."""
        kind = name.rsplit("-", 1)[0] if name.rsplit("-", 1)[-1] in ("all", "A", "B") else name
        found = {"search": 9, "swarm": 66, "swarm-holdout": 66, "influence": 10, "kmm": 6, "ensemble": 5, "top70": 2}
        own = {"uniform": 0, "proportional": 0}.get(kind, 1 if not kind.startswith(("uniform x", "soup")) else 0)
        both = ("tdro-relative", "tdro-excess", "tdro-group", "doremi")  # reference and proxy
        trainings = found.get(kind, 2 if kind in both else own)
        if kind.startswith("uniform x"):
            trainings = int(kind[9:]) - 1
        if kind.startswith("soup"):
            trainings = {"soup-uniform": 2, "soup-learned": 2 + 66 + 66 + 9}[kind]
        return {"cost": trainings}

    def top(self, name: str, reference: str, percent: float) -> str:
        """The heaviest of a mixture, equally weighted."""
        spec = transfers.select_top(registry.resolve(self.store, reference).spec, percent)
        return registry.save(self.store, spec, name).reference

    def train(self, mixture: str, seed: int, steps: int | None = None, *, again: bool = False) -> Scores:
        """nDCG@10 of every query of the report halves, by suite, after a training; the model goes, but for soups.

        again: also where the scores are known and the model is not there
        """
        steps = steps or self.steps
        name = f"{mixture.replace(':', '-')}-{steps}-{seed}"
        scores, out = self.work / "scores" / f"{name}.json", self.work / "models" / name
        keep = mixture.split(":")[0] in SOUPS and steps == self.steps
        if scores.is_file() and ((out / "training.json").is_file() or not again):
            return json.loads(scores.read_text())
        print(f"training {name}", file=sys.stderr, flush=True)
        chosen = resolve(trainers.FinetuneSettings, "static", {"steps": steps, "seed": seed, "tracker": "none"})
        trainers.train(self.store, mixture, "static", out=out, settings=chosen, suites=self.suites, half="report")
        record = json.loads((out / "training.json").read_text())
        found = {row["suite"]: row["values"]["ndcg@10"] for row in record["query_scores"]}
        scores.parent.mkdir(parents=True, exist_ok=True)
        scores.write_text(json.dumps(found))
        if not keep:
            shutil.rmtree(out)
        gc.collect()
        return found

    def soup(self, name: str, seed: int, models: list[tuple[str, int]]) -> Scores:
        """The same of the average of models, each a mixture's and a seed's."""
        scores = self.work / "scores" / f"{name}-{seed}.json"
        if scores.is_file():
            return json.loads(scores.read_text())
        for mixture, one in models:
            self.train(mixture, one, again=True)
        out = self.work / "models" / f"{name}-{seed}"
        folders = [self.work / "models" / f"{m.replace(':', '-')}-{self.steps}-{one}" for m, one in models]
        trainers.soup(folders, out=out)
        results = trainers.evaluate(self.store, out, self.suites, half="report")
        found = {r.suite: {q: values["ndcg@10"] for q, values in r.per_query.items()} for r in results}
        scores.write_text(json.dumps(found))
        shutil.rmtree(out)
        return found


def prepare(store: Store, data: Path) -> None:
    """The collections, without near-duplicates and test queries, with BM25 negatives, and the mixture uniform."""
    if store.rows("SELECT 1 FROM mixtures WHERE name = 'proportional'"):
        return
    jobs.ingest(store, [data / "raw"], cards=HERE / "cards")
    jobs.dedup(store)
    jobs.decontaminate(store, [*sorted((data / "decontaminate").glob("*.jsonl.gz")), data / "eval"])
    jobs.mine(store)
    for name in ("uniform", "proportional"):
        jobs.create(store, name, collections=COLLECTIONS, slices=["xquad:language"], weights=name)


def mixtures(bench: Bench) -> dict[str, Callable[[], str]]:
    """Name -> how the mixture is made."""
    made: dict[str, Callable[[], str]] = {
        "uniform": lambda: "uniform:1",
        "proportional": lambda: "proportional:1",
        "tdro-relative": lambda: bench.learn("tdro-relative", "tdro"),
        "tdro-excess": lambda: bench.learn("tdro-excess", "tdro", measurement="excess"),
        "tdro-group": lambda: bench.learn("tdro-group", "tdro", measurement="relative_group"),
        "tdro-loss": lambda: bench.learn("tdro-loss", "tdro", measurement="loss"),
        "groupdro": lambda: bench.learn("groupdro", "groupdro"),
        "doremi": lambda: bench.learn("doremi", "doremi"),
        "chi2": lambda: bench.learn("chi2", "chi2"),
        "cvar": lambda: bench.learn("cvar", "cvar"),
        "rb": lambda: bench.learn("rb", "rb"),
        "drpruning": lambda: bench.learn("drpruning", "drpruning"),
        "tdro-forecast": lambda: bench.learn("tdro-forecast", "tdro", measurement="forecast"),
        "top70": lambda: bench.top("top70", bench.learn("tdro-relative", "tdro"), 70),
    }
    for which in ("all", "A", "B"):

        def towards(name: str, algorithm: str, which: str = which, **settings: Any) -> None:
            """`name` towards these suites, each with one say, as the table's means have it."""
            name = f"{name}-{which}"
            made[name] = lambda: bench.learn(name, algorithm, which, group_sets=False, **settings)

        towards("search", "search")
        towards("swarm", "search", candidates="real")
        towards("swarm-holdout", "search", candidates="real", holdout=HOLDOUT)
        if which == "all":
            towards("influence", "influence")
            towards("kmm", "kmm")
    members = ["tdro-relative", "chi2", "search-all", "swarm-all"]
    made["ensemble-all"] = lambda: bench.learn("ensemble-all", "ensemble", "all", group_sets=False, members=members)
    return made


def trained(bench: Bench, name: str, make: Callable[[], str] | None, seeds: int) -> list[Scores]:
    """One entry a seed, of a mixture, of uniform for longer, or of a soup."""
    if name.startswith("uniform x"):
        return [bench.train("uniform:1", seed, int(name[9:]) * bench.steps) for seed in range(seeds)]
    if name == "soup-uniform":
        return [bench.soup(name, s, [("uniform:1", (s + k) % seeds) for k in range(3)]) for s in range(seeds)]
    if name == "soup-learned":
        return [bench.soup(name, s, [(f"{mixture}:1", s) for mixture in LEARNED]) for s in range(seeds)]
    assert make is not None
    reference = make()
    return [bench.train(reference, seed) for seed in range(seeds)]


def compared(
    ours: list[Scores], uniform: list[Scores], chosen: Callable[[str], bool], *, paired: bool
) -> dict[str, Any] | None:
    """nDCG@10 × 100 over the chosen suites, and how far from uniform's; None for no suite."""
    columns = [(suite, query) for suite in sorted(ours[0]) if chosen(suite) for query in sorted(ours[0][suite])]
    if not columns:
        return None
    sides = [np.array([[one[s][q] for s, q in columns] for one in side]) for side in (ours, uniform)]
    suites = [s for s, _ in columns]
    found = compare(sides[0], sides[1], suites, [f"{family(s)} {q}" for s, q in columns], paired=paired)
    means = [np.mean([row[np.array(suites) == s].mean() for s in dict.fromkeys(suites)]) for row in sides[0]]
    return {
        "mean": round(100 * found.ours, 2), "sd": round(100 * float(np.std(means, ddof=1)), 2),
        "difference": round(100 * found.difference, 2), "error": round(100 * found.error, 2),
        "p": float(f"{found.p:.2g}"),
    }  # fmt: skip


def result_of(bench: Bench, name: str, found: list[Scores], uniform: list[Scores], moved: float) -> dict[str, Any]:
    """What the table says of a mixture. Seeds count as pairs where the mixtures share most draws, as in a verdict."""
    which = name.rsplit("-", 1)[-1]
    own = {f"{folder.name}/report" for folder in bench.target(which)} if which in ("A", "B") else set()
    english = {"agnews", "disflqa", "pubmedqa", "xquad-en"}
    parts: dict[str, Callable[[str], bool]] = {"all": lambda s: True, "not English": lambda s: s[:-7] not in english}
    if own:
        parts |= {"target": lambda s: s in own, "left out": lambda s: s not in own}
    paired = moved <= ALIKE
    result: dict[str, Any] = {part: compared(found, uniform, test, paired=paired) for part, test in parts.items()}
    families = [np.mean([np.mean([np.mean(list(v.values())) for s, v in one.items() if family(s) == f])
                         for f in sorted({family(s) for s in one})]) for one in found]  # fmt: skip
    result["mean over families"] = round(100 * float(np.mean(families)), 2)
    return result


def row(name: str, result: dict[str, Any]) -> str:
    def cell(part: str) -> str:
        one = result.get(part)
        if one is None:
            return ""
        return f"{one['difference']:+.2f} ± {one['error']:.2f} ({one['p']:.2g})"

    all_ = result["all"]
    return (f"| {name} | {all_['mean']:.2f} ± {all_['sd']:.2f} | {cell('all') if name != 'uniform' else ''} | "
            f"{cell('target')} | {cell('left out')} | {cell('not English') if name != 'uniform' else ''} | "
            f"{result['mean over families']:.2f} | {result.get('cost', '')} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXTURE_REAL_DATA") or "../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/weights-that-win"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with Store.open(str(options.work / "store"), create=True) as store:
        prepare(store, options.data)
        bench = Bench(store, options.data, options.work, options.steps)
        made = mixtures(bench)
        longer = [f"uniform x{times}" for times in LONGER]
        names = options.only.split(",") if options.only else [*made, *longer, "soup-uniform", "soup-learned"]
        uniform = trained(bench, "uniform", made["uniform"], options.seeds)
        table = {}
        for name in names:
            found = trained(bench, name, made.get(name), options.seeds)
            table[name] = result_of(bench, name, found, uniform, bench.moved(name)) | bench.cost(name)
            print(row(name, table[name]), flush=True)
        if options.only:
            return
    result = {
        "command": " ".join(["python", "benchmarks/weights_that_win.py", *sys.argv[1:]]), "table": table,
        "targets": {which: [folder.name for folder in bench.target(which)] for which in ("A", "B")},
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("torch", "sentence-transformers", "wordllama", "duckdb")},
    }  # fmt: skip
    (HERE / "results" / "weights_that_win.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

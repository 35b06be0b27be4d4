"""What does a model with fewer layers lose, and what can it stand in for? all-MiniLM-L6-v2 on real collections.

    python benchmarks/shrink.py [--data DIR] [--work DIR] [--steps 200] [--stage NAME …]

Seven English collections, equally weighted, with negatives and scores of the whole model; three English suites.
Seconds are the processor's, so that other work on the machine counts little. The stages:

search   which layers go, for 5, 4 and 3 that are left
models   the whole model and those of 5, 4 and 3 layers: nDCG@10, and texts and tokens a second on one thread
recover  each of them after a training with the same settings; 3 layers distilled from the whole model, too
elastic  one training in which the first 3 layers are a model, too
tdro     weights by tDRO with the whole model as the proxy, and with 3 layers: rank correlation and seconds
width    6 layers with half of the inner channels, before and after a training

Killed and run again with the same --work, it goes on where it was. It writes `benchmarks/results/shrink.json`, and
prints the tables of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

import trainers
from mixture import Store, jobs, registry
from mixture.suites.layout import find_suites
from trainers.model.encoder import load_encoder

HERE = Path(__file__).resolve().parent
MODEL = "all-MiniLM-L6-v2"
COLLECTIONS = ("agnews", "concode", "cose", "covidqa", "disflqa", "pubmedqa")
SUITES = ("agnews", "pubmedqa", "xquad-en")
LAYERS = (5, 4, 3)
SETTINGS: dict[str, Any] = {
    "batch_size": 8, "negatives": 1, "learning_rate": 2e-5, "temperature": 0.05, "max_query_tokens": 64,
    "max_passage_tokens": 64, "query_template": "none", "tracker": "none", "seed": 0,
}  # fmt: skip
# Texts whose encoding is timed, and how often; the best counts.
TIMED, TIMES = 256, 3


class Bench:
    def __init__(self, options: argparse.Namespace, store: Store) -> None:
        self.options, self.store, self.work = options, store, options.work
        self.file = self.work / "found.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    @property
    def suites(self) -> list[Path]:
        return [folder for folder in sorted(find_suites([self.options.data / "eval"])) if folder.name in SUITES]

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """What a piece of work found, by its name: done once."""
        if name not in self.found:
            print(name, file=sys.stderr, flush=True)
            self.found[name] = work()
            scratch = self.file.with_suffix(".new")
            scratch.write_text(json.dumps(self.found, indent=1))
            scratch.replace(self.file)
        return self.found[name]

    def folder(self, name: str) -> Path:
        return Path(self.work / "models" / name)

    def measured(self, model: str | Path) -> dict[str, Any]:
        """nDCG@10 × 100 by suite and their mean, parameters, and speed."""
        results = trainers.evaluate(self.store, model, self.suites, prompt="")
        scores = {one.suite: 100 * one.metrics["ndcg@10"] for one in results}
        encoder = load_encoder(str(model))
        return {"mean": float(np.mean(list(scores.values()))), "suites": scores, **self.speed(encoder),
                "parameters": sum(p.numel() for p in encoder.parameters())}  # fmt: skip

    def speed(self, encoder: SentenceTransformer) -> dict[str, float]:
        """Of documents of agnews on one thread."""
        lines = (self.options.data / "eval" / "agnews" / "corpus.jsonl").read_text("utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines[:TIMED]]
        tokens = sum(len(ids) for ids in encoder.tokenizer(texts)["input_ids"])
        seconds = []
        for _ in range(TIMES):
            started = time.process_time()
            encoder.encode(texts, batch_size=32, show_progress_bar=False)
            seconds.append(time.process_time() - started)
        return {"texts_per_second": len(texts) / min(seconds), "tokens_per_second": tokens / min(seconds)}

    def cut(self, name: str, **how: Any) -> dict[str, Any]:
        """A smaller model into a folder of this name."""

        def work() -> dict[str, Any]:
            shutil.rmtree(self.folder(name), ignore_errors=True)
            started = time.process_time()
            made = trainers.shrink(MODEL, out=self.folder(name), store=self.store, mixture="uniform", **how)
            return {"kept": made.kept, "width": made.width, "curve": made.curve, "collections": made.collections,
                    "loss": made.loss, "seconds": time.process_time() - started}  # fmt: skip

        return dict(self.once(f"cut {name}", work))

    def train(self, name: str, model: str | Path, **more: Any) -> dict[str, Any]:
        """A model trained further, into a folder of this name."""

        def work() -> dict[str, Any]:
            settings = trainers.FinetuneSettings(**SETTINGS | {"steps": self.options.steps} | more)
            started = time.process_time()
            trainers.train(self.store, "uniform", model, out=self.folder(name), settings=settings)
            seconds = time.process_time() - started
            return self.measured(self.folder(name)) | {"train_seconds": seconds}

        return dict(self.once(f"train {name}", work))

    def model(self, layers: int) -> str | Path:
        return MODEL if layers == 6 else self.folder(f"layers-{layers}")


def prepare(store: Store, data: Path) -> None:
    """The collections with negatives and scores of the whole model, and the mixture uniform."""
    if store.rows("SELECT 1 FROM mixtures WHERE name = 'uniform'"):
        return
    files = [data / "raw" / name for name in COLLECTIONS] + [data / "raw" / "xquad" / "xquad.en.jsonl"]
    jobs.ingest(store, files, cards=HERE / "cards")
    jobs.dedup(store)
    jobs.decontaminate(store, [data / "eval" / name for name in SUITES])
    jobs.mine(store, miner=MODEL, encoder=trainers.encode_with, per_query=3)
    jobs.create(store, "uniform")


def search(bench: Bench) -> None:
    found = bench.cut("layers-3", layers=3)
    for layers in (5, 4):
        gone = set(found["curve"][6 - layers]["removed"])
        bench.cut(f"layers-{layers}", keep=[layer for layer in range(6) if layer not in gone])


def models(bench: Bench) -> None:
    for layers in (6, *LAYERS):
        bench.once(f"before {layers}", lambda layers=layers: bench.measured(bench.model(layers)))


def recover(bench: Bench) -> None:
    for layers in (6, *LAYERS):
        bench.train(f"recovered-{layers}", bench.model(layers))
    bench.train("distilled-3", bench.model(3), loss="distil", distil_weight=0.5)


def elastic(bench: Bench) -> None:
    bench.train("elastic", MODEL, elastic_layers=(3,))

    def first() -> dict[str, Any]:
        out = bench.folder("elastic-3")
        shutil.rmtree(out, ignore_errors=True)
        trainers.shrink(bench.folder("elastic"), out=out, layers=3, first=True)
        return bench.measured(out)

    def plain() -> dict[str, Any]:
        out = bench.folder("plain-first-3")
        shutil.rmtree(out, ignore_errors=True)
        trainers.shrink(bench.folder("recovered-6"), out=out, layers=3, first=True)
        return bench.measured(out)

    bench.once("elastic, first 3", first)
    bench.once("plain training, first 3", plain)


def tdro(bench: Bench) -> None:
    def learn(proxy: str | Path, name: str) -> dict[str, Any]:
        settings = trainers.LearningSettings(**SETTINGS | {"steps": bench.options.steps // 2})
        started = time.process_time()
        made = trainers.learn_weights(bench.store, "uniform", proxy=proxy, name=name, settings=settings)
        return {"weights": registry.resolve(bench.store, made.first.reference).spec.weights,
                "seconds": time.process_time() - started}  # fmt: skip

    whole = bench.once("tdro whole", lambda: learn(MODEL, "tdro-whole"))
    small = bench.once("tdro 3 layers", lambda: learn(bench.model(3), "tdro-small"))
    names = sorted(whole["weights"])

    def compared() -> dict[str, Any]:
        found = spearmanr([whole["weights"][n] for n in names], [small["weights"][n] for n in names])
        apart = sum(abs(whole["weights"][n] - small["weights"][n]) for n in names) / 2
        return {"spearman": float(found.statistic), "p": float(found.pvalue), "collections": len(names),
                "moved": apart}  # fmt: skip

    bench.once("tdro compared", compared)


def width(bench: Bench) -> None:
    bench.cut("half-width", layers=6, width=0.5)
    bench.once("before half-width", lambda: bench.measured(bench.folder("half-width")))
    bench.train("recovered-half-width", bench.folder("half-width"))


STAGES = {one.__name__: one for one in (search, models, recover, tdro, elastic, width)}


def tables(found: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    lines = [
        "| model | texts/s | tokens/s | " + " | ".join(SUITES) + " | mean |",
        "|---|" + "---:|" * (len(SUITES) + 3),
    ]
    names = {f"before {n}": f"{n} layers" for n in (6, *LAYERS)}
    names |= {f"train recovered-{n}": f"{n} layers, trained" for n in (6, *LAYERS)}
    names |= {
        "train distilled-3": "3 layers, distilled from 6",
        "train elastic": "6 layers, trained with `elastic_layers=[3]`",
        "elastic, first 3": "its first 3 layers",
        "plain training, first 3": "first 3 layers of the 6, trained",
        "before half-width": "6 layers of half the width",
        "train recovered-half-width": "the same, trained",
    }
    for key, name in names.items():
        if (one := found.get(key)) is not None:
            scores = " | ".join(f"{one['suites'][suite]:.1f}" for suite in SUITES)
            lines.append(f"| {name} | {one['texts_per_second']:.0f} | {one['tokens_per_second']:,.0f} | {scores} | "
                         f"{one['mean']:.1f} |")  # fmt: skip
    if cut := found.get("cut layers-3"):
        lines += ["", "| layers | left out | loss |", "|---:|---|---:|"]
        lines += [f"| {6 - len(one['removed'])} | {', '.join(map(str, one['removed'])) or 'none'} | {one['loss']:.4f} |"
                  for one in cut["curve"]]  # fmt: skip
    if "tdro compared" in found:
        lines += ["", "| collection | 6 layers | 3 layers |", "|---|---:|---:|"]
        sides = [found[name]["weights"] for name in ("tdro whole", "tdro 3 layers")]
        lines += [f"| {name} | {sides[0][name]:.3f} | {sides[1][name]:.3f} |" for name in sorted(sides[0])]
        seconds = [found[name]["seconds"] for name in ("tdro whole", "tdro 3 layers")]
        lines += [f"| seconds | {seconds[0]:.0f} | {seconds[1]:.0f} |", "", json.dumps(found["tdro compared"])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXTURE_REAL_DATA") or "../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/shrink"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="a stage; may be given again")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    with Store.open(str(options.work / "store"), create=True) as store:
        prepare(store, options.data)
        bench = Bench(options, store)
        for name in options.stage or STAGES:
            STAGES[name](bench)
    print(tables(bench.found))
    result = {
        "command": f"python benchmarks/shrink.py --steps {options.steps}", "model": MODEL, "settings": SETTINGS,
        "found": bench.found, "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"one thread of {os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("torch", "sentence-transformers", "transformers", "duckdb")},
    }  # fmt: skip
    (HERE / "results" / "shrink.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

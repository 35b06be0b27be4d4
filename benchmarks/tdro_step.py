"""What a tDRO step costs beside a plain fine-tuning step on the same examples and negatives, and where the rest goes.

    python benchmarks/tdro_step.py --data ../shared/data [--steps 8] [--models tiny-qwen2:32,all-MiniLM-L6-v2:8]

For each model (name:batch size) the steps of one process take turns on the same mixed batches:
  plain    fine-tuning, in-batch negatives
  uncached tDRO with `reference_cache_mb = 0`: the reference encodes every batch
  first    tDRO as it is: a text that an earlier batch had comes from the cache
  again    tDRO once more on the same texts (an ablation, a resumed run): all of them come from the cache
The first step of each is not counted. Seconds are of the processor (all threads), which other jobs on the machine
disturb less than the clock. Prints the result and writes `benchmarks/results/tdro_step.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mixture import jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.store import Store
from mixture.store.materialise import materialise
from trainers.batch.texts import BatchSource
from trainers.finetune import FinetuneSettings
from trainers.finetune.loop import step as plain_step
from trainers.learning.averages import WeightState
from trainers.learning.config import LearningSettings
from trainers.learning.learners import Tdro
from trainers.learning.loop import Reference, Run
from trainers.loop.steps import TrainingLoop
from trainers.model.encoder import load_encoder
from trainers.model.names import resolve_model

HERE = Path(__file__).resolve().parent
COLLECTIONS = ("AllNLI", "altlex", "msmarco", "nq")
COMMON = {"learning_rate": 1e-4, "temperature": 0.05, "negatives": 3, "max_query_tokens": 64, "max_passage_tokens": 128,
          "steps": 1000}  # fmt: skip


def prepare(data: Path, work: Path) -> tuple[Path, MaterialisedMixture]:
    with Store.open(work / "store", create=True) as store:
        jobs.ingest(store, [str(data / "raw" / name) for name in COLLECTIONS], cards=HERE / "cards")
        jobs.mine(store, (), miner="bm25", per_query=8, seed=42)
        parts = registry.pin(store)
        return store.work, materialise(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)))


class Timed:
    """Seconds spent in a reference's `losses`, step by step."""

    def __init__(self, reference: Reference) -> None:
        self.seconds: list[float] = []
        losses = reference.losses

        def timed(batch: Any) -> torch.Tensor:
            started = time.process_time()
            result = losses(batch)
            self.seconds.append(time.process_time() - started)
            return result

        reference.losses = timed  # type: ignore[method-assign]


def measure(root: Path, data: MaterialisedMixture, model: str, batch_size: int, steps: int, work: Path) -> dict:
    base = resolve_model(root, data, model, seed=42)
    uniform = dict.fromkeys(data.sizes, 1.0 / len(data.sizes))

    def source(seed: int) -> BatchSource:
        return BatchSource(data, BatchPlan(uniform, data.sizes, batch_size, seed), negatives=3)

    plain = TrainingLoop(load_encoder(base), FinetuneSettings(batch_size=batch_size, **COMMON), work / "plain")
    plain.encoder.train()
    settings = LearningSettings(batch_size=batch_size, **COMMON)
    runs, timed, caches = {}, {}, {}
    for name in ("uncached", "first", "again"):
        own = replace(settings, reference_cache_mb=0 if name == "uncached" else 256)
        loop = TrainingLoop(load_encoder(base), own, work / name)
        loop.encoder.train()
        reference = Reference(loop, base, work / name)
        if name == "again":  # as a later run shares it through its files
            reference.cache = caches["first"]
        caches[name], timed[name] = reference.cache, Timed(reference)
        groups = len(data.sizes)
        runs[name] = Run(
            loop,
            Tdro(groups),
            reference,
            WeightState.start(torch.full((groups,), 1 / groups, dtype=torch.float64)),
            None,
        )
    batches = source(42)
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *runs)}
    found: dict[str, list[int]] = {name: [0, 0] for name in runs}
    for step in range(steps + 1):
        batch = batches.mixed(step)
        started = time.process_time()
        plain_step(plain, batch)
        seconds["plain"].append(time.process_time() - started)
        for name, run in runs.items():
            cache = caches[name]
            before = (cache.encoded, cache.found)
            started = time.process_time()
            run.step(batch)
            seconds[name].append(time.process_time() - started)
            found[name][0] += cache.encoded - before[0]
            found[name][1] += cache.found - before[1]
    return summary(seconds, timed, found) | {"model": model, "batch_size": batch_size, "steps": steps}


def summary(seconds: dict[str, list[float]], timed: dict[str, Timed], found: dict[str, list[int]]) -> dict[str, Any]:
    totals = {name: sum(values[1:]) for name, values in seconds.items()}
    result: dict[str, Any] = {"plain": {"seconds_per_step": round(statistics.median(seconds["plain"][1:]), 4)}}
    for name, part in timed.items():
        reference = sum(part.seconds[1:])
        result[name] = {
            "seconds_per_step": round(statistics.median(seconds[name][1:]), 4),
            "times_plain": round(totals[name] / totals["plain"], 3),
            "reference_share": round(reference / totals[name], 3),
            "without_reference_times_plain": round((totals[name] - reference) / totals["plain"], 3),
            "texts_from_cache": round(found[name][1] / max(1, sum(found[name])), 3),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--models", default="tiny-qwen2:32,all-MiniLM-L6-v2:8")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tdro_step.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, data = prepare(options.data, Path(folder))
        measured = []
        for entry in options.models.split(","):
            model, _, batch_size = entry.rpartition(":")
            print(f"{model}, batch {batch_size}", file=sys.stderr, flush=True)
            measured.append(measure(root, data, model, int(batch_size), options.steps, Path(folder) / model))
    result = {
        "command": f"python benchmarks/tdro_step.py --steps {options.steps} --models {options.models}",
        "measured": measured,
        "settings": COMMON | {"collections": COLLECTIONS, "seed": 42},
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()

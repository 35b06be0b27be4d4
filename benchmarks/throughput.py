"""Fine-tuning and tDRO steps beside sentence-transformers' trainer: same model, texts, batches, negatives and loss.

    python benchmarks/throughput.py --data ../shared/data                      MiniLM on the CPU
    python benchmarks/throughput.py --prepare DIR --data ../shared/data        real texts, for a machine without duckdb
    python benchmarks/throughput.py --mixture DIR --shape 0.5b --batch-size 64 --negatives 7 --bf16 --tdro

On a GPU take `benchmarks/gpu.sh`, which does this and more.

Each system takes the same batches in the same order, from collections of short and of long texts; the first step of
each is not counted, and they take turns (`--rounds`). A system's time is its mean over the steps, in its median round.
`ours` is the step of `mixture train` with its background tokenisation. `peer` is SentenceTransformerTrainer with
CachedMultipleNegativesRankingLoss at each of `--mini-batch` sizes, of which the fastest is compared; its loss has the
same candidates (in-batch passages and hard negatives). `tdro` is the step of `mixture learn-weights`, reference
included, nothing of it cached.

FLOPs are those of the model on the tokens that are really there: 6 for each parameter outside the embedding table and
token, 12 · layers · width · length for attention; a second forward pass (gradient cache) and padding are not counted as
work done. `--shape 0.5b` is Qwen2-0.5B's architecture with random weights and a tokenizer trained on the texts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import shapes
import torch

from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.batch.feed import Feed
from trainers.batch.texts import BatchSource, TextBatch
from trainers.finetune import FinetuneSettings
from trainers.finetune.loop import step as train_step
from trainers.learning.averages import WeightState
from trainers.learning.config import LearningSettings
from trainers.learning.learners import Tdro
from trainers.learning.loop import Reference, Run
from trainers.loop.steps import TrainingLoop
from trainers.model.encoder import load_encoder

HERE = Path(__file__).resolve().parent
COLLECTIONS = ("agnews", "altlex", "cose", "covidqa", "disflqa", "pubmedqa")
# Dense bf16 peak of the device, FLOPs a second (NVIDIA's data sheets).
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def prepare(data: Path, out: Path) -> None:
    """Real collections of mixed length, materialised into `out`."""
    from mixture import jobs, registry
    from mixture.store import Store
    from mixture.store.materialise import materialise

    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store", create=True) as store:
        jobs.ingest(store, [str(data / "raw" / name) for name in COLLECTIONS], cards=HERE / "cards")
        jobs.mine(store, (), miner="bm25", per_query=8, seed=42)
        parts = registry.pin(store)
        materialise(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), out)


def open_mixture(folder: Path) -> MaterialisedMixture:
    spec = next(folder.glob("[0-9a-f]" * 12 + ".json"))
    return MaterialisedMixture.open(folder, spec.stem)


def build_model(shape: str, data: MaterialisedMixture, folder: Path) -> str:
    """The name of a model to load, or a folder with Qwen2-0.5B's architecture."""
    if shape != "0.5b":
        return shape
    return str(shapes.build("0.5b", shapes.train_tokenizer(data), folder))


def batches_of(data: MaterialisedMixture, options: argparse.Namespace) -> list[TextBatch]:
    """Full homogeneous batches, the first steps of the plan."""
    plan = BatchPlan(data.spec.weights, data.sizes, options.batch_size, 42, positives=data.positives())
    source, found = BatchSource(data, plan, negatives=options.negatives), []
    step = 0
    while len(found) < options.steps + 1:
        if step == 1000:
            raise SystemExit(f"the collections are too small for batches of {options.batch_size}; take --batch-size 8")
        batch = source.homogeneous(step)
        if len(batch.queries) == options.batch_size:
            found.append(batch)
        step += 1
    return found


def settings_of(kind: Any, options: argparse.Namespace, **more: Any) -> Any:
    return kind(
        steps=1000, batch_size=options.batch_size, negatives=options.negatives, temperature=0.05, learning_rate=1e-5,
        max_query_tokens=options.max_tokens[0], max_passage_tokens=options.max_tokens[1], bf16=options.bf16,
        tokens_per_pass=options.tokens_per_pass, tokens_kept=options.tokens_kept, **more,
    )  # fmt: skip


def training_loop(model: str, options: argparse.Namespace, work: Path, **more: Any) -> TrainingLoop:
    """The loop of `mixture train`; `more` are settings over those of the options."""
    settings = settings_of(FinetuneSettings, options, **more)
    loop = TrainingLoop(load_encoder(model, max_tokens=max(options.max_tokens)), settings, work)
    loop.encoder.train()
    return loop


def ours(model: str, batches: list[TextBatch], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    return timed(training_loop(model, options, work), batches)


def timed(loop: TrainingLoop, batches: list[TextBatch]) -> dict[str, Any]:
    """Steps of a loop on batches, the first of which is not counted."""
    seconds, waited = [], []
    with Feed(lambda n: loop.prepared(batches[n]), 0, len(batches)) as feed:
        began = time.perf_counter()
        for batch in feed:
            train_step(loop, batch)
            synchronise()
            seconds.append(time.perf_counter() - began)
            waited.append(feed.waited)
            began = time.perf_counter()
    return _measured(seconds) | {
        "seconds_in_step": [whole - wait for whole, wait in zip(seconds[1:], waited[1:], strict=True)],
        "share_waited_for_data": sum(waited[1:]) / sum(seconds[1:]),
        "budget": vars(loop.budget),
    }


def tdro(model: str, batches: list[TextBatch], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    settings = settings_of(LearningSettings, options, reference_cache_mb=0)
    loop = TrainingLoop(load_encoder(model, max_tokens=max(options.max_tokens)), settings, work)
    loop.encoder.train()
    groups = len(batches[0].names)
    run = Run(
        loop,
        Tdro(groups),
        Reference(loop, model, work),
        WeightState.start(torch.full((groups,), 1 / groups, dtype=torch.float64)),
        None,
    )
    seconds, inside = [], []
    with Feed(lambda n: loop.prepared(batches[n]), 0, len(batches)) as feed:
        began = time.perf_counter()
        for batch in feed:
            run.step(batch)
            synchronise()
            seconds.append(time.perf_counter() - began)
            inside.append(seconds[-1] - feed.waited)
            began = time.perf_counter()
    return _measured(seconds) | {"seconds_in_step": inside[1:]}


def peer(
    model: str, batches: list[TextBatch], options: argparse.Namespace, work: Path, size: int,
    num_tokens: int | None = None, report: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Its mini-batches have `size` texts, or as many as have `num_tokens` tokens; `report` gets each step's number and
    seconds without the wait for data."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    per_example = 1 + options.negatives
    columns: dict[str, list[str]] = {"query": [q for batch in batches for q in batch.queries]}
    for place in range(per_example):
        name = "positive" if place == 0 else f"negative_{place}"
        columns[name] = [text for batch in batches for text in batch.passages[place::per_example]]
    encoder = load_encoder(model, max_tokens=max(options.max_tokens))
    seconds: list[float] = []
    inside: list[float] = []

    class Clock(TrainerCallback):
        began = start = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            Clock.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronise()
            now = time.perf_counter()
            seconds.append(now - Clock.began)
            inside.append(now - Clock.start)
            if report is not None:
                report(len(inside) - 1, inside[-1])
            Clock.began = now

    class InOrder(SentenceTransformerTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, *_: Any, **__: Any) -> Any:
            rows = iter(SequentialSampler(dataset))
            return Lists([[next(rows) for _ in batch.queries] for batch in batches])

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work), per_device_train_batch_size=options.batch_size, max_steps=len(batches),
        learning_rate=1e-5, weight_decay=0.1, bf16=options.bf16, report_to="none", save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True, dataloader_num_workers=options.workers,
    )  # fmt: skip
    by_tokens = {} if num_tokens is None else {"mini_batch_num_tokens": num_tokens}
    loss = CachedMultipleNegativesRankingLoss(encoder, scale=20.0, mini_batch_size=size, **by_tokens)
    trainer = InOrder(encoder, arguments, Dataset.from_dict(columns), loss=loss, callbacks=[Clock()])
    Clock.began = time.perf_counter()
    trainer.train()
    return _measured(seconds) | {"seconds_in_step": inside[1:]}


class Lists(list):  # type: ignore[type-arg]
    """Batches of row numbers, as a batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[list[int]]:
        return super().__iter__()


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _measured(seconds: list[float]) -> dict[str, Any]:
    return {"seconds": seconds[1:]} | peak_memory()


def peak_memory() -> dict[str, float]:
    """Of the GPU since its count was reset; empty where there is none."""
    if not torch.cuda.is_available():
        return {}
    return {"peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def work_in(model: str, batches: list[TextBatch], options: argparse.Namespace, work: Path) -> dict[str, float]:
    """What a step does, on average over the steps that are counted (`work_of`)."""
    loop = training_loop(model, options, work)
    each = [work_of(loop, batch) for batch in batches[1:]]
    return {name: statistics.fmean(one[name] for one in each) for name in each[0]}


def work_of(loop: TrainingLoop, batch: TextBatch) -> dict[str, float]:
    """Texts, tokens and model FLOPs of a step: of all texts, and of the distinct ones (`_of_distinct_texts`)."""
    inner: Any = loop.encoder.transformers_model
    shape = inner.config
    parameters = sum(p.numel() for n, p in inner.named_parameters() if "embed" not in n)

    def flops(lengths: torch.Tensor) -> float:
        attention = 12 * shape.num_hidden_layers * shape.hidden_size * float((lengths**2).sum())
        return 6 * parameters * float(lengths.sum()) + attention

    made = loop.tokens(loop.encoder, *loop.limited(batch))
    distinct = torch.tensor([len(ids) for ids in made.ids]).double()
    whole = distinct[made.places]
    return {
        "texts": len(whole), "tokens": float(whole.sum()), "flops": flops(whole),
        "tokens_of_distinct_texts": float(distinct.sum()), "flops_of_distinct_texts": flops(distinct),
    }  # fmt: skip


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data = open_mixture(options.mixture or folder / "mixture")
    model = build_model(options.shape, data, folder)
    batches = batches_of(data, options)
    systems: dict[str, Any] = {"ours": ours}
    if options.tdro:
        systems["tdro"] = tdro
    for size in options.mini_batch:
        systems[f"peer, mini-batch {size}"] = lambda m, b, o, w, s=size: peer(m, b, o, w, s)
    seconds: dict[str, list[list[float]]] = {name: [] for name in systems}
    facts: dict[str, dict[str, Any]] = {}
    for number in range(options.rounds):
        for name, system in systems.items():
            print(f"round {number + 1}, {name}", file=sys.stderr, flush=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            work = Path(tempfile.mkdtemp(dir=folder))
            found = system(model, batches, options, work)
            seconds[name].append(found.pop("seconds"))
            found.pop("seconds_in_step", None)
            facts[name] = found
            shutil.rmtree(work, ignore_errors=True)
    per_step = work_in(model, batches, options, folder / "work")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((flops for name, flops in PEAK.items() if name in device), None)
    names = [batch.names[int(batch.collections[0])] for batch in batches[1:]]
    result: dict[str, Any] = {"steps": names, "work_per_step": per_step, "device": device or f"{os.cpu_count()} cores"}
    for name, values in seconds.items():
        middle = statistics.median(statistics.fmean(steps) for steps in values)
        result[name] = facts[name] | {
            "seconds_per_step": round(middle, 4), "texts_per_second": round(per_step["texts"] / middle, 1),
            "tokens_per_second": round(per_step["tokens"] / middle),
            "all_seconds": [[round(v, 3) for v in steps] for steps in values],
        }  # fmt: skip
        if peak:
            result[name]["share_of_peak_flops"] = round(per_step["flops"] / middle / peak, 4)
    peers = [result[name]["seconds_per_step"] for name in seconds if name.startswith("peer")]
    if peers:
        result["times_the_peer"] = round(min(peers) / result["ours"]["seconds_per_step"], 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--prepare", type=Path, help="only write the texts to this folder")
    parser.add_argument("--mixture", type=Path, help="what --prepare wrote")
    parser.add_argument("--shape", default="all-MiniLM-L6-v2", help="a model, or 0.5b")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, nargs=2, default=(128, 256), help="of queries and passages")
    parser.add_argument("--mini-batch", type=int, nargs="*", default=(16, 32, 64))
    parser.add_argument("--workers", type=int, default=0, help="of the peer's data loader")
    parser.add_argument("--tokens-per-pass", type=int, default=0)
    parser.add_argument("--tokens-kept", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tdro", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "throughput.json")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.data, options.prepare)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.mixture is None:
            prepare(options.data, Path(folder) / "mixture")
        result = measure(options, Path(folder))
    result |= {
        "command": " ".join(["python", "benchmarks/throughput.py", *sys.argv[1:]]),
        "settings": {k: v for k, v in vars(options).items() if not isinstance(v, Path)},
        "threads": torch.get_num_threads(), "load_average": round(os.getloadavg()[0], 1),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}", "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in result.items() if k not in ("settings", "versions")}, indent=1))


if __name__ == "__main__":
    main()

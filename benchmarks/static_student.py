"""Training `static` beside sentence-transformers' trainer: same table, tokenizer, batches, negatives and loss.

    python benchmarks/static_student.py --data ../shared/data [--steps 150] [--rounds 3]

Both take the batches of the first steps of one plan, on one core (the process is bound to it), and take turns. Ours is
what `mixture train` does: rows read and tokenised in a second thread, no text's tokens known before the first step. The
peer is SentenceTransformerTrainer with MultipleNegativesRankingLoss, whose candidates are the same, its texts cut at
the passages' limit; it gets the texts as lists. Loading and saving are not counted, the first step of each neither.
Texts are counted as the batches have them, repeated ones each time. Other programs may run beside: seconds of the
processor, all threads, tell more than those of the clock.
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
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from throughput import COLLECTIONS, Lists, open_mixture, prepare

from mixture.sampling import BatchPlan
from trainers.batch.feed import Feed
from trainers.batch.texts import BatchSource, TextBatch
from trainers.finetune import FinetuneSettings
from trainers.finetune.loop import step as train_step
from trainers.loop.steps import TrainingLoop
from trainers.model.encoder import load_encoder, load_for_training
from trainers.model.fitting import fitted
from trainers.model.template import template_of

HERE = Path(__file__).resolve().parent


class Clock:
    """Seconds by the clock and of the processor, from the first call to the last."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def __call__(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    @property
    def seconds(self) -> tuple[float, float]:
        (wall, cpu), (wall_end, cpu_end) = self.marks[0], self.marks[-1]
        return wall_end - wall, cpu_end - cpu


def ours(source: BatchSource, settings: FinetuneSettings, steps: int, folder: Path) -> Clock:
    loop, clock = TrainingLoop(load_for_training("static", settings), settings, folder), Clock()
    loop.encoder.train()
    with Feed(lambda n: loop.prepared(source.homogeneous(n)), 0, steps) as feed:
        for batch in feed:
            train_step(loop, batch)
            clock()
    return clock


def peer(batches: list[TextBatch], settings: FinetuneSettings, folder: Path) -> Clock:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    columns: dict[str, list[str]] = {"query": [q for batch in batches for q in batch.queries]}
    for place in range(1 + settings.negatives):
        name = "positive" if place == 0 else f"negative_{place}"
        columns[name] = [text for batch in batches for text in batch.passages[place :: 1 + settings.negatives]]
    encoder, clock = load_encoder("static"), Clock()
    encoder.tokenizer.enable_truncation(settings.max_passage_tokens)

    class Mark(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock()

    class InOrder(SentenceTransformerTrainer):
        def get_batch_sampler(self, *_: Any, **__: Any) -> Any:
            rows: Iterator[int] = iter(range(len(columns["query"])))
            return Lists([[next(rows) for _ in batch.queries] for batch in batches])

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=settings.batch_size, max_steps=len(batches),
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    loss = MultipleNegativesRankingLoss(encoder, scale=1 / settings.temperature)
    InOrder(encoder, arguments, Dataset.from_dict(columns), loss=loss, callbacks=[Mark()]).train()
    return clock


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    prepare(options.data, folder / "mixture")
    data = open_mixture(folder / "mixture")
    settings = FinetuneSettings(steps=options.steps, negatives=options.negatives, temperature=0.05, tracker="none")
    settings = fitted(settings, "static")
    plan = BatchPlan(data.spec.weights, data.sizes, settings.batch_size, settings.seed, positives=data.positives())
    source = BatchSource(data, plan, negatives=settings.negatives, template=template_of("static", settings))
    batches = [source.homogeneous(step) for step in range(options.steps)]
    texts = [len(batch.queries) + len(batch.passages) for batch in batches]
    distinct = {text for batch in batches for text in [*batch.queries, *batch.passages]}
    systems = {"ours": lambda work: ours(source, settings, options.steps, work),
               "peer": lambda work: peer(batches, settings, work)}  # fmt: skip
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    for number in range(options.rounds):
        for name, system in systems.items():
            print(f"round {number + 1}, {name}", file=sys.stderr, flush=True)
            found[name].append(system(Path(tempfile.mkdtemp(dir=folder))).seconds)
    result: dict[str, Any] = {
        "collections": COLLECTIONS, "texts": sum(texts[1:]), "distinct_texts": len(distinct),
        "characters_a_text": round(statistics.fmean(map(len, distinct))),
    }  # fmt: skip
    for name, rounds in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        result[name] = {
            "seconds": round(wall, 2), "processor_seconds": round(cpu, 2),
            "texts_a_second": round(sum(texts[1:]) / wall), "texts_a_processor_second": round(sum(texts[1:]) / cpu),
            "rounds": [[round(value, 2) for value in one] for one in rounds],
        }  # fmt: skip
    for what in ("seconds", "processor_seconds"):
        result[f"times_the_peer_in_{what}"] = round(result["peer"][what] / result["ours"][what], 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "static_student.json")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    result |= {
        "command": " ".join(["python", "benchmarks/static_student.py", *sys.argv[1:]]),
        "settings": {k: v for k, v in vars(options).items() if not isinstance(v, Path)},
        "load_average": round(os.getloadavg()[0], 1), "hardware": f"1 of {os.cpu_count()} cores, {platform.machine()}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "tokenizers", "sentence-transformers", "wordllama")},
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in result.items() if k not in ("settings", "versions")}, indent=1))


if __name__ == "__main__":
    main()

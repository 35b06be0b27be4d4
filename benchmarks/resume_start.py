"""How long a killed fine-tuning takes from its process's start to its first new step, at step 100,000, 10 million rows.

    python benchmarks/resume_start.py [--rows 10000000] [--repeats 3]

Writes a materialised mixture of synthetic rows (five collections, the largest with half of the rows; two examples in
three share their positive with others) and a checkpoint of step 100,000 with its whole history, then starts the run
anew in a process of its own, several times, and takes the median. Seconds from the process's start, by the clock and
of the processor (all threads), which other jobs on the machine disturb less:
  imports   until the libraries are loaded
  model     loading the model
  rest      everything else until the first new step is done: data, plan, checkpoint, order of the epoch, batch, step
Needs 2 GB of disk for the time of the run. Prints the result and writes `benchmarks/results/resume_start.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mixture.materialised import MaterialisedMixture
from mixture.specs import Component, MixtureSpec
from trainers.finetune import FinetuneSettings, output
from trainers.finetune.loop import encoder_of, identity
from trainers.finetune.scores import Scores
from trainers.loop.steps import History, TrainingLoop
from trainers.model.tiny import build_tiny

HERE = Path(__file__).resolve().parent
SHARES = {"a": 0.5, "b": 0.2, "c": 0.1, "d": 0.1, "e": 0.1}
STEP = 100_000
BATCH_ROWS = 16_384
SETTINGS = {"steps": 2 * STEP, "batch_size": 64, "negatives": 1, "max_query_tokens": 128, "max_passage_tokens": 32,
            "temperature": 0.05, "tracker": "none", "checkpoint_every": STEP}  # fmt: skip
RUN = """
import json, os, sys, time
from pathlib import Path
started, marks = float(sys.argv[1]), []
def mark():
    marks.append((time.time(), time.process_time()))
from mixture.materialised import MaterialisedMixture
from trainers.finetune import FinetuneSettings, loop
mark()
build = loop.load_for_training
def timed(*arguments):
    mark()
    encoder = build(*arguments)
    mark()
    return encoder
loop.load_for_training = timed
def first(done, total, line):
    mark()
    found = {"step": done}
    for kind, zero, (imported, before, after, end) in zip(("clock", "processor"), (started, 0.0), zip(*marks)):
        found[kind] = {"imports": imported - zero, "model": after - before, "rest": end - after + before - imported}
    print(json.dumps(found), flush=True)
    os._exit(0)
data = MaterialisedMixture.open(Path(sys.argv[2]), sys.argv[3])
loop.finetune(data, sys.argv[4], FinetuneSettings(**json.loads(sys.argv[6])), Path(sys.argv[5]), progress=first)
"""


def write_mixture(folder: Path, rows: int) -> MaterialisedMixture:
    """Components of `SHARES` of the rows, as `mixture.store.materialise` lays them out."""
    parts = []
    for name, share in SHARES.items():
        digest = f"{name}" * 64
        target, count = folder / "components" / digest, int(rows * share)
        target.mkdir(parents=True)
        passages = max(2, count // 2)
        _write(target / "passages.arrow", _passages(passages))
        _write(target / "examples.arrow", _examples(name, count, passages))
        (target / "component.json").write_text(json.dumps({"collection": name, "prompts": [], "num_examples": count}))
        parts.append(Component(name, digest, share))
    spec = MixtureSpec(tuple(parts))
    (folder / f"{spec.id}.json").write_text(spec.to_json())
    return MaterialisedMixture.open(folder, spec.id)


def _write(file: Path, batches: Iterator[pa.RecordBatch]) -> None:
    first = next(batches)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _passages(count: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, count, BATCH_ROWS):
        numbers = range(start, min(count, start + BATCH_ROWS))
        texts = pa.array([f"passage {n} of them" for n in numbers])
        names = pa.array([f"{n:020x}" for n in numbers])
        yield pa.record_batch([names, pa.array([""] * len(numbers)), texts], names=["passage_id", "title", "text"])


def _examples(name: str, count: int, passages: int) -> Iterator[pa.RecordBatch]:
    random = np.random.default_rng(ord(name))
    for start in range(0, count, BATCH_ROWS):
        size = min(count, start + BATCH_ROWS) - start
        lists = [
            pa.ListArray.from_arrays(pa.array(np.arange(size + 1, dtype=np.int32)), pa.array(drawn.astype(np.int32)))
            for drawn in (random.integers(0, passages, size), random.integers(0, passages, size))
        ]
        columns = [pa.array([f"{n:020x}" for n in range(start, start + size)]),
                   pa.array([f"question {n} of {name}" for n in range(start, start + size)]),
                   pa.nulls(size, pa.string()), *lists]  # fmt: skip
        yield pa.record_batch(columns, names=["example_id", "query", "language", "positives", "negatives"])


def write_checkpoint(data: MaterialisedMixture, model: str, settings: FinetuneSettings, out: Path) -> None:
    """A run that stands at step `STEP`, with the history of all its steps."""
    output.mark(out, identity(data, model, settings))
    names = sorted(SHARES)
    history = History([{"step": n + 1, "collection": names[n % 5], "examples": 64, "loss": 1.0 + 1e-6 * n}
                       for n in range(STEP)])  # fmt: skip
    loop = TrainingLoop(
        encoder_of(data, model, settings), settings, out / "checkpoints", also=(history, Scores([], settings))
    )
    for parameter in loop.parameters:
        parameter.grad = torch.full_like(parameter, 1e-6)
    loop.optimizer.step()
    loop.step = STEP
    loop.checkpoints.save(STEP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "resume_start.json")
    options = parser.parse_args()
    settings = FinetuneSettings(**SETTINGS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print("writing the rows", file=sys.stderr, flush=True)
        data = write_mixture(folder / "data", options.rows)
        build_tiny([f"question passage {n} of them" for n in range(2000)], folder / "tiny", seed=1)
        write_checkpoint(data, str(folder / "tiny"), settings, folder / "out")
        measured = []
        for _ in range(options.repeats):
            started = datetime.now(UTC).timestamp()
            words = [str(started), str(data.folder), data.spec.id, str(folder / "tiny"), str(folder / "out")]
            command = [sys.executable, "-c", RUN, *words, json.dumps(SETTINGS)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured.append(json.loads(done.stdout))
            print(measured[-1], file=sys.stderr, flush=True)
        disk = sum(file.stat().st_size for file in (folder / "data").rglob("*") if file.is_file())
    result = {
        "command": f"python benchmarks/resume_start.py --rows {options.rows} --repeats {options.repeats}",
        "seconds": {kind: {part: round(statistics.median(run[kind][part] for run in measured), 2)
                           for part in ("imports", "model", "rest")} for kind in ("clock", "processor")},
        "rest_of_every_run": {kind: [round(run[kind]["rest"], 2) for run in measured]
                              for kind in ("clock", "processor")},
        "first_new_step": measured[0]["step"],
        "rows": options.rows,
        "collections": SHARES,
        "disk_gb": round(disk / 1e9, 2),
        "settings": SETTINGS | {"seed": settings.seed, "model": "tiny-qwen2"},
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("torch", "numpy", "pyarrow", "sentence-transformers")},
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Peak memory of a fine-tuning step against the batch size, with the gradient cache and without.

    python benchmarks/memory.py [--sizes 64,256,1024,4096]

Each point is a process of its own: `tiny-qwen2` (two layers, 128 wide), generated texts of 8 to 64 words, one hard
negative, two steps; `cached` keeps the activations of 4,096 padded tokens, `plain` of all. Peak resident memory of the
process, imports included, with glibc told to give freed blocks back (MALLOC_MMAP_THRESHOLD_): by default it keeps them,
and the resident memory of the larger batches is then mostly free space. `benchmarks/plots.py` draws the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = 4_096
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
LARGEST_PLAIN = 1_024


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 8))) for _ in range(2_000)]
    return [" ".join(draw.choices(words, k=draw.randint(8, 64))) for _ in range(count)]


def child(batch_size: int, kept: int) -> None:
    """Two steps; prints the peak."""
    import numpy as np
    import torch

    from trainers.batch.texts import TextBatch
    from trainers.finetune import FinetuneSettings
    from trainers.finetune.loop import step
    from trainers.loop.steps import TrainingLoop
    from trainers.model.encoder import load_encoder
    from trainers.model.tiny import build_tiny

    with tempfile.TemporaryDirectory() as folder:
        build_tiny(texts(500, 0), Path(folder) / "model", seed=1, vocabulary=3_000)
        settings = FinetuneSettings(
            steps=10, batch_size=batch_size, negatives=1, temperature=0.05, max_passage_tokens=128, tokens_kept=kept,
            tokens_per_pass=KEPT,
        )  # fmt: skip
        loop = TrainingLoop(load_encoder(str(Path(folder) / "model")), settings, Path(folder) / "run")
        loop.encoder.train()
        started = time.perf_counter()
        for number in range(2):
            made = texts(3 * batch_size, number + 1)
            batch = TextBatch(
                np.zeros(batch_size, dtype=np.int64), made[:batch_size], made[batch_size:],
                torch.zeros(batch_size, 2 * batch_size, dtype=torch.bool), np.arange(batch_size),
                [""] * batch_size, ("generated",),
            )  # fmt: skip
            step(loop, batch)
        seconds = (time.perf_counter() - started) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_mb": round(peak / 1e6), "seconds_per_step": round(seconds, 2)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,256,1024,4096")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "memory.json")
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    sizes = [int(size) for size in options.sizes.split(",")]
    points = []
    for kind, kept in (("cached", KEPT), ("plain", 10**9)):
        for size in sizes:
            if kind == "plain" and size > LARGEST_PLAIN:
                continue
            command = [sys.executable, __file__, "--child", str(size), str(kept)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | MALLOC)
            points.append({"kind": kind, "batch_size": size} | json.loads(done.stdout.splitlines()[-1]))
            print(points[-1], file=sys.stderr, flush=True)
    cached = [point["peak_mb"] for point in points if point["kind"] == "cached"]
    result = {
        "command": f"python benchmarks/memory.py --sizes {options.sizes}", "points": points,
        "cached_largest_over_smallest": round(max(cached) / min(cached), 3),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result["points"], indent=1), result["cached_largest_over_smallest"])


if __name__ == "__main__":
    main()

"""Every figure that needs a GPU, in one command: under 8 minutes on one H100, the first figures within 2.

    benchmarks/gpu.sh --prepare FOLDER                        texts and tokenizer (`gpu_data.py`), no model weights
    benchmarks/gpu.sh OUT --data FOLDER                       all steps
    benchmarks/gpu.sh OUT --data FOLDER --shape tiny          the same on any machine, small: a rehearsal
    python benchmarks/gpu_tables.py OUT/gpu.json              into benchmarks/results/ and docs/benchmarks.md

Steps run one after another, the most worthwhile first, each in a process of its own with a time limit. OUT gets
STEP.log and STEP.json of each, written as figures come, so that a step which fails or runs out of time leaves what it
had; and gpu.json with all of them. Neither duckdb nor a network is needed; the comparisons with sentence-transformers'
trainer need the package datasets, as that does.

FLOPs are the model's own, as in `throughput.py`: 6 for each parameter outside the embedding table and token, and
12 · layers · width · length for attention; padding, the second forward pass of the gradient cache and a repeated text
count as no work. The share of the peak is that, by the step's time, by the dense bf16 rate of the card's data sheet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_steps import Bench

LIMIT = 480  # seconds, all steps together
# In the order of their worth, with the seconds that each may take; a processor gets 20 times as many.
STEPS = {"device": 40, "train": 110, "tests": 100, "peer": 170, "tdro": 70, "minilm": 60, "encode": 40, "search": 30,
         "fsdp": 50, "profile": 40}  # fmt: skip
EXTRA = {"compile": 120, "losses": 90, "lora": 60}  # by name only
SHAPES = ("0.5b", "tiny")


def run_step(name: str, bench: Bench, out: Path, limit: float) -> dict[str, Any]:
    """A step in a forked process, its output in NAME.log; the record that lies in NAME.json."""
    import gpu_steps

    file = out / f"{name}.json"
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            log = os.open(out / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            gpu_steps.STEPS[name](replace(bench, seconds=0.9 * limit), partial(write, file))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = None
    while status is None and time.perf_counter() - began < limit:
        done, state = os.waitpid(child, os.WNOHANG)
        status = ("ok" if state == 0 else "failed") if done else None
        time.sleep(0.02)
    if status != "ok":
        with contextlib.suppress(ProcessLookupError):  # and what it started
            os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
        status = f"stopped after {limit:.0f} s"
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    record = {"status": status, "took_seconds": round(time.perf_counter() - began, 1), **found}
    write(file, record)
    return record


def write(file: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a step may be stopped while it writes."""
    scratch = file.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    scratch.replace(file)


def chosen(names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in STEPS | EXTRA]
    if unknown:
        raise SystemExit(f"no step {unknown[0]!r}; there are: {', '.join(STEPS | EXTRA)}")
    return list(names) or list(STEPS)


def main() -> None:
    # Steps are forked from a process that must not have touched the GPU: it asks the driver's library what there is.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder for logs and results")
    parser.add_argument("--data", type=Path, help="what --prepare wrote")
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--steps", nargs="+", default=(), help=f"some of: {', '.join(STEPS | EXTRA)}")
    parser.add_argument("--examples", type=int, help="of --prepare; else of steps that only try something")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for all steps")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="only write texts and tokenizer to FOLDER")
    parser.add_argument("--real-data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    options = parser.parse_args()
    if options.prepare:
        import gpu_data

        examples = {} if options.examples is None else {"examples": options.examples}
        gpu_data.prepare(options.real_data, options.prepare, **examples)
        size = sum(file.stat().st_size for file in options.prepare.rglob("*") if file.is_file())
        print(f"{options.prepare}: {size / 1e6:.1f} MB")
        return
    if options.out is None or options.data is None:
        parser.error("name OUT and --data FOLDER, or --prepare FOLDER")
    names = chosen(options.steps)
    if not (options.data / "mixture").is_dir() or not (options.data / "tokenizer").is_dir():
        parser.error(f"{options.data} was not made by --prepare")
    # Late: whoever mistypes a name does not wait for torch. All steps share what this imports.
    import gpu_steps
    import torch

    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    work = Path(tempfile.mkdtemp(prefix="gpu-"))
    shape = gpu_steps.SHAPES[options.shape]
    shape = replace(shape, probe=options.examples or shape.probe)
    bench, results = gpu_steps.Bench(options.data.resolve(), work, shape), {}
    summary = {"command": f"benchmarks/gpu.sh OUT --data FOLDER --shape {options.shape}", "shape": options.shape,
               "date": datetime.now(UTC).date().isoformat(), "steps": results}  # fmt: skip
    try:
        for name in names:
            left = options.limit - (time.perf_counter() - began)
            (options.out / f"{name}.json").unlink(missing_ok=True)
            if left < 5:
                results[name] = {"status": "no time left"}
            else:
                limit = (STEPS | EXTRA)[name] * (1 if torch.cuda.is_available() else 20)
                results[name] = run_step(name, bench, options.out, min(left, limit))
            record = results[name]
            print(f"{name:8} {record['status']:28} {record.get('took_seconds', ''):>6}", flush=True)
            write(options.out / "gpu.json", summary | {"seconds": round(time.perf_counter() - began, 1)})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if any(record["status"] != "ok" for record in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

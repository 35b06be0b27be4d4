"""The main job on real collections, as a user would run it: from raw files to a table of what the weights did.

    python benchmarks/main_job.py [--data DIR] [--work DIR] [--steps 400] [--weight-steps 300] [--seeds 42,43,44]

Runs the `mixture` commands one after the other (each is shown), keeps their times, and writes
`benchmarks/results/main_job.json` and a Markdown table to standard output. Killed and run again with the same --work,
it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "main_job.toml"
MODEL = "tiny-qwen2"
MIXTURES = ("uniform", "top70", "tdro", "tdro-group")


class Job:
    """Runs commands on one store and keeps how long each took."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.seconds: dict[str, float] = {}
        self.environment = os.environ | {"MIXTURE_STORE": str(work / "store"), "HF_HUB_OFFLINE": "1"}

    def __call__(self, *arguments: str, label: str | None = None) -> Any:
        print(f"$ mixture {' '.join(arguments)}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments, "--json"], env=self.environment, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            sys.exit(done.returncode)
        self.seconds[label or arguments[0]] = round(time.perf_counter() - started, 1)
        return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXTURE_REAL_DATA") or "../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/main-job"))
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--weight-steps", type=int, default=300, help="of the reference model and of tDRO")
    parser.add_argument("--seeds", default="42,43,44", help="of the trainings; tDRO has the first")
    parser.add_argument("--floor", type=float, help="reference_floor; default: the setting's own")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    job = Job(options.work)
    result = prepare(job, Path(options.data)) | learn(job, options.weight_steps, seeds[0], options.floor)
    result["ndcg@10"] = train_and_evaluate(job, Path(options.data), options.steps, seeds)
    result |= {
        "command": f"python benchmarks/main_job.py --steps {options.steps} --weight-steps {options.weight_steps} "
        f"--seeds {options.seeds}" + (f" --floor {options.floor}" if options.floor else ""),
        "seconds": job.seconds,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "duckdb")},
        "python": platform.python_version(),
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "main_job.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(markdown(result))


def prepare(job: Job, data: Path) -> dict[str, Any]:
    lists = sorted(str(file) for file in (data / "decontaminate").glob("*.jsonl.gz"))
    read = job("ingest", str(data / "raw"), "--cards", str(HERE / "cards"))
    twins = job("dedup")
    leaks = job("decontaminate", *(part for file in lists for part in ("--against", file)))
    mined = job("mine")
    mixture = job("create", "uniform", "--uniform", "--min-examples", "100")
    return {
        "collections": {
            r["collection"]: {
                "rows": r["rows_read"], "stored": r["stored"], "rejected": r["rejected"],
                "near_duplicates": _of(twins, r["collection"], "removed"),
                "test_queries": _of(leaks, r["collection"], "removed"),
                "mined": _of(mined, r["collection"], "negatives"),
            }
            for r in read
        },
        "uniform": mixture["id"],
    }  # fmt: skip


def learn(job: Job, steps: int, seed: int, floor: float | None) -> dict[str, Any]:
    def weights(name: str, *more: str) -> Any:
        common = ["--steps", str(steps), "--seed", str(seed), "--set", "negatives=3", "--config", str(RECIPE)]
        if floor:
            common += ["--set", f"reference_floor={floor}"]
        return job("learn-weights", "--mix", "uniform", "--proxy", MODEL, "--name", name, *common, *more, label=name)

    learned = weights("tdro")
    group = weights("tdro-group", "--set", "measurement=relative_group")
    top = job("select", "tdro", "--top", "70", "--name", "top70")
    history = job(
        "sql",
        "SELECT collection, avg(proxy_loss) AS proxy_loss, avg(reference_loss) AS reference_loss FROM weight_history "
        f"WHERE run_id = '{learned['run_id']}' AND step > {steps} * 0.9 GROUP BY ALL",
    )
    return {
        "tdro": learned["id"],
        "top70": top["id"],
        "top70_collections": sorted(c["collection"] for c in top["components"]),
        "weights": {c["collection"]: c["weight"] for c in learned["components"]},
        "weights_relative_group": {c["collection"]: c["weight"] for c in group["components"]},
        "told": learned["learning"]["runs"],
        "losses_last_tenth": {r["collection"]: [r["proxy_loss"], r["reference_loss"]] for r in history},
    }


def train_and_evaluate(job: Job, data: Path, steps: int, seeds: list[int]) -> dict[str, Any]:
    """mixture -> suite -> one nDCG@10 a seed."""
    # The very model that tDRO used: `tiny-qwen2` of a smaller mixture would have another tokenizer.
    (model,) = (job.work / "store" / "models").iterdir()
    scores: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        for mixture in MIXTURES:
            out = str(job.work / "models" / f"{mixture}-{seed}")
            job("train", "--mix", mixture, "--model", str(model), "--out", out, "--config", str(RECIPE),
                "--steps", str(steps), "--seed", str(seed), "--set", "negatives=1",
                label=f"train {mixture} {seed}")  # fmt: skip
            results = job("evaluate", out, "--suite", str(data / "eval"), label=f"evaluate {mixture} {seed}")
            for row in results:
                scores.setdefault(mixture, {}).setdefault(row["suite"], []).append(row["metrics"]["ndcg@10"])
    return scores


def markdown(result: dict[str, Any]) -> str:
    scores = result["ndcg@10"]
    lines = ["| suite | " + " | ".join(MIXTURES) + " |", "|---" * (len(MIXTURES) + 1) + "|"]
    for suite in scores["uniform"]:
        lines.append(f"| {suite} | " + " | ".join(_cell(scores[m][suite]) for m in MIXTURES) + " |")
    means = {m: [statistics.fmean(column) for column in zip(*scores[m].values(), strict=True)] for m in MIXTURES}
    lines.append("| **mean** | " + " | ".join(_cell(means[m]) for m in MIXTURES) + " |")
    lines += ["", "| collection | weight | relative_group | proxy loss | reference loss |", "|---|---|---|---|---|"]
    for name, weight in result["weights"].items():
        proxy, reference = result["losses_last_tenth"][name]
        group = result["weights_relative_group"][name]
        lines.append(f"| {name} | {weight:.4f} | {group:.4f} | {proxy:.3f} | {reference:.3f} |")
    lines += ["", "| step | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds} |" for name, seconds in result["seconds"].items()]
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    """Mean over seeds, and the standard deviation where there are several, times 100."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _of(rows: list[dict[str, Any]], collection: str, field: str) -> int:
    return next((int(row[field]) for row in rows if row["collection"] == collection), 0)


if __name__ == "__main__":
    main()

"""Do learners towards a target see noise and twins? Collections whose truth is known, three seeds, a static student.

    python benchmarks/planted_target.py [--steps 200] [--seeds 60,61,62] [--only NAME,...] [--out FILE]

The rows are those of planted_truth.py: easy (the positive is the query), hard (its translation word by word) and noise
(translations dealt out at random), 6,000 rows each, in a language of 2,000 words. The target is eight suites of 50
fresh queries each, four of easy and four of hard. drpruning looks at no target. Each learner runs on easy, hard and
noise, and again with the rows of hard dealt out to hard-a and hard-b. The second time the base mixture gives these a
sixth each and the others a third.

Written before the first run:
  noise  search, influence and kmm give it no more than a third: it brings neither suite anything. drpruning as well:
         its curve is flat once the student is no longer sure of wrong answers.
  hard   search, influence and kmm give it more than noise. easy is solved from the start, so it may land anywhere.
  twins  hard-a and hard-b together get what hard got, within 0.05 with kmm and drpruning. Their losses and changes are
         those of hard, halved or alike. influence takes weights of a ratio to the base, search draws other candidates:
         0.1 with these.

Two tries before that, of one seed each, kept the base mixture with search and swarm. With one suite of each kind, of
which one gains x and one nothing, the mean difference is exactly one standard error: hence four of each. With 64 words,
as in planted_truth.py, the table knows the translation after any training: hence 2,000.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import planted_truth
import torch

import trainers
from mixture import Store, jobs, registry
from trainers.settings import resolve

VOCABULARY = 2000
NUM_ROWS, NUM_QUERIES, NUM_SUITES = 6000, 50, 4
NAMES = ("easy", "hard", "noise")
LEARNERS: dict[str, dict[str, Any]] = {
    "search": {"algorithm": "search"},
    "swarm": {"algorithm": "search", "candidates": "real", "num_candidates": 16},
    "influence": {"algorithm": "influence"},
    "kmm": {"algorithm": "kmm"},
    "drpruning": {"algorithm": "drpruning"},
}


def write_data(folder: Path, seed: int) -> None:
    """easy, hard, noise, hard-a and hard-b in `folder`; in `folder`/eval the suites of the last rows of easy and hard,
    which are in no collection."""
    planted_truth.VOCABULARY = VOCABULARY
    planted_truth.write_collections(folder, seed, NUM_ROWS + NUM_SUITES * NUM_QUERIES)
    for name in NAMES:
        rows = (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
        kept, rest = rows[:NUM_ROWS], [json.loads(row) for row in rows[NUM_ROWS:]]
        (folder / f"{name}.jsonl").write_text("\n".join(kept) + "\n", "utf-8")
        if name == "hard":
            for half in (0, 1):
                (folder / f"hard-{'ab'[half]}.jsonl").write_text("\n".join(kept[half::2]) + "\n", "utf-8")
        for number in range(NUM_SUITES if name != "noise" else 0):
            write_suite(folder / "eval" / f"{name}-{number}", rest[number::NUM_SUITES])


def write_suite(folder: Path, rows: list[dict[str, Any]]) -> None:
    """In BEIR layout; each row's answer is another row's distractor."""
    (folder / "qrels").mkdir(parents=True)
    for file, texts in (("queries", [r["query"] for r in rows]), ("corpus", [r["pos"][0] for r in rows])):
        lines = [json.dumps({"_id": f"{file}{n}", "text": text}) for n, text in enumerate(texts)]
        (folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    judged = [f"queries{n}\tcorpus{n}\t1" for n in range(len(rows))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n", "utf-8")


def one_run(folder: Path, seed: int, steps: int, names: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Learner -> whole or halved -> collection -> weight."""
    write_data(folder, seed)
    found: dict[str, dict[str, dict[str, float]]] = {}
    with Store.open(folder / "store", create=True) as store:
        jobs.ingest(store, [str(file) for file in sorted(folder.glob("*.jsonl"))])
        parts = registry.pin(store, [])
        whole = registry.weighted({name: parts[name] for name in NAMES}, dict.fromkeys(NAMES, 1 / 3))
        shares = {"easy": 1 / 3, "hard-a": 1 / 6, "hard-b": 1 / 6, "noise": 1 / 3}
        halved = registry.weighted({name: parts[name] for name in shares}, shares)
        for title, spec in (("whole", whole), ("halved", halved)):
            registry.save(store, spec, title)
        for name in names:
            for title in ("whole", "halved"):
                given = {**LEARNERS[name], "steps": steps, "seed": seed}
                settings = resolve(trainers.LearningSettings, "static", given)
                target = [folder / "eval"] if settings.looks_at_target else ()
                settings = replace(settings, group_sets=not settings.looks_at_target)
                made = trainers.learn_weights(store, title, proxy="static", name=f"{name}-{title}", target=target,
                                              base=title, settings=settings)  # fmt: skip
                found.setdefault(name, {})[title] = dict(made.first.spec.weights)
                sys.stderr.write(f"seed {seed}, {name}, {title}: {made.first.spec.weights}\n")
                sys.stderr.writelines(f"  {line}\n" for line in made.lines())
    return found


def summary(by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Learner -> what noise got of both, what hard got, and what its twins got together, by seed."""
    table: dict[str, Any] = {}
    for name in next(iter(by_seed.values())):
        runs = [found[name] for found in by_seed.values()]
        hard = [run["whole"]["hard"] for run in runs]
        twins = [run["halved"]["hard-a"] + run["halved"]["hard-b"] for run in runs]
        table[name] = {
            "noise": [round(run[title]["noise"], 3) for title in ("whole", "halved") for run in runs],
            "seeds_with_noise_at_most_a_third": sum(
                all(run[title]["noise"] <= 1 / 3 + 1e-9 for title in ("whole", "halved")) for run in runs),
            "hard": [round(value, 3) for value in hard], "twins": [round(value, 3) for value in twins],
            "farthest": round(max(abs(a - b) for a, b in zip(hard, twins, strict=True)), 3),
        }  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", default="60,61,62")
    parser.add_argument("--only", default=",".join(LEARNERS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/planted_target.json")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started, runs = time.perf_counter(), {}
    for seed in map(int, options.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            runs[seed] = one_run(Path(folder), seed, options.steps, options.only.split(","))
    report = {
        "command": " ".join(["python", *sys.argv]), "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}", "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started), "learners": summary(runs), "by_seed": runs,
    }  # fmt: skip
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report["learners"], indent=1))


if __name__ == "__main__":
    main()

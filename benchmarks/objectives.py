"""Which objective trains the better retriever? Each against InfoNCE, on real collections, with equal steps and batches.

    python benchmarks/objectives.py [--data DIR] [--work DIR] [--model static] [--seeds 5] [--steps 200] [--only NAME …]

The collections are those of the study, without near-duplicates and test queries, equally weighted. Negatives, and the
scores that `distil` and the teacher's margin take, are all-MiniLM-L6-v2's. All rows of a table train the same model
from the same seeds with the same settings but for those named. Scored are all queries of thirteen suites.

Killed and run again with the same --work, it goes on where it was. It writes the model's part of
`benchmarks/results/objectives.json`, and prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from study.scores import compared

import trainers
from mixture import Store, jobs
from mixture.suites.layout import find_suites
from trainers.evaluation.compare import FEWEST_PAIRS
from trainers.settings import resolve

HERE = Path(__file__).resolve().parent
COLLECTIONS = ("agnews", "altlex", "cmrc2018", "dureader", "pubmedqa", "disflqa", "asset", "cose", "covidfaq",
               "concode", "covidqa")  # fmt: skip
TEACHER = "all-MiniLM-L6-v2"
BASE: dict[str, Any] = {"temperature": 0.05, "tracker": "none"}
# Beside the defaults, or for `static` its recipe.
OF_MODEL: dict[str, dict[str, Any]] = {
    "static": {"max_passage_tokens": 128},
    TEACHER: {
        "batch_size": 32,
        "negatives": 3,
        "max_query_tokens": 64,
        "max_passage_tokens": 96,
        "learning_rate": 2e-5,
    },
}
FORMS: dict[str, dict[str, Any]] = {
    "info_nce": {},
    "margin −0.1": {"margin": -0.1},
    "margin 0.05 by the teacher": {"margin": 0.05, "margin_by": "teacher"},
    "hardness 5": {"hardness": 5.0},
    "distil, KL": {"loss": "distil"},
    "distil, margin-MSE": {"loss": "distil", "distil_by": "margin_mse"},
    "75 % info_nce, then expected_ndcg": {"loss": "expected_ndcg", "info_nce_first": 0.75},
    "mixed batches": {"batching": "mixed"},
    "directions": {"directions": ("qd", "qq", "dq", "dd")},
    "spread_out 1": {"spread_out": 1.0},
}
# A training of MiniLM takes minutes where one of the table takes seconds.
OF_TABLE = {"static": tuple(FORMS), TEACHER: ("info_nce", "margin −0.1", "hardness 5", "distil, KL",
                                              "75 % info_nce, then expected_ndcg", "mixed batches")}  # fmt: skip


def prepare(store: Store, data: Path) -> None:
    """The collections, mined, and the mixture uniform."""
    if store.rows("SELECT 1 FROM mixtures WHERE name = 'uniform'"):
        return
    jobs.ingest(store, [data / "raw"], cards=HERE / "cards")
    jobs.dedup(store)
    jobs.decontaminate(store, [*sorted((data / "decontaminate").glob("*.jsonl.gz")), data / "eval"])
    jobs.mine(store, (*COLLECTIONS, "xquad"), miner=TEACHER, encoder=trainers.encode_with)
    jobs.create(store, "uniform", collections=COLLECTIONS, slices=["xquad:language"], miners=[TEACHER])


def train(folder: Path, options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """The scores of every query after a training, and its seconds; the model goes."""
    file = options.work / "scores" / options.model / f"{name}-{options.steps}-{seed}.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    print(f"training {options.model}: {name}, seed {seed}", file=sys.stderr, flush=True)
    given = BASE | OF_MODEL.get(options.model, {}) | FORMS[name] | {"steps": options.steps, "seed": seed}
    out, started = options.work / "models" / f"{options.model}-{name}-{seed}", time.process_time()
    settings = resolve(trainers.FinetuneSettings, "static" if options.model == "static" else None, given)
    suites = sorted(find_suites([options.data / "eval"]), key=lambda folder: folder.name)
    trainers.train_on_folder(folder, options.model, out=out, settings=settings, suites=suites)
    record = json.loads((out / "training.json").read_text())
    scores = {row["suite"]: row["values"]["ndcg@10"] for row in record["query_scores"]}
    found = {"scores": scores, "seconds": round(time.process_time() - started, 1)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    shutil.rmtree(out)
    gc.collect()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXTURE_REAL_DATA") or "../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--model", choices=["static", TEACHER], default="static")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=list(FORMS), help="a row; may be given again")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    names = ["info_nce", *(name for name in options.only or OF_TABLE[options.model] if name != "info_nce")]
    table: dict[str, Any] = {}
    with Store.open(str(options.work / "store"), create=True) as store:
        prepare(store, options.data)
        folder = options.work / "mixture"
        if not (folder / "mixture.json").is_file():
            jobs.export(store, "uniform", materialised=folder)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(options.seeds):  # seed by seed, so that what is there is comparable
        for name in names:
            runs[name].append(train(folder, options, name, seed))
    plain = [run["scores"] for run in runs["info_nce"]]
    for name, found in runs.items():
        # Batches hold the same rows, but for mixed ones.
        one = compared(
            [run["scores"] for run in found], plain, lambda suite: True,
            paired=name != "mixed batches" and options.seeds >= FEWEST_PAIRS,
        )  # fmt: skip
        assert one is not None
        table[name] = one | {"cpu_seconds": round(float(np.mean([run["seconds"] for run in found])), 1)}
        less = f"{one['difference']:+.2f} ± {one['error']:.2f} ({one['p']:.2g})" if name != "info_nce" else ""
        print(f"| {name} | {one['mean']:.2f} ± {one['sd']:.2f} | {less} |", flush=True)
    if options.only:
        return
    file = HERE / "results" / "objectives.json"
    result = json.loads(file.read_text()) if file.is_file() else {}
    result[options.model] = {
        "command": f"python benchmarks/objectives.py --model {options.model} --steps {options.steps} "
                   f"--seeds {options.seeds}", "table": table,
        "settings": BASE | OF_MODEL.get(options.model, {}), "steps": options.steps, "seeds": options.seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "sentence-transformers", "transformers", "duckdb")},
    }  # fmt: skip
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

"""The noise case for learners: what each leaves three collections whose positives are shuffled, and what that is worth.

    python benchmarks/noise_learners.py [--work DIR] [--steps 400] [--seeds 3] [--only NAME,...]

The learners of `PROVED` run with the seeds 42, 43 and 44, the others with the first alone; its mixture is trained, with
--seeds seeds.

--work is that of `python benchmarks/study`, whose store is copied. To its mixture `uniform` come the three of
noise_case.py; equal weights give them 3 of 22 parts. Learners that look at a target see the `learn` halves of the 13
suites; scores are over the `report` halves. Writes `benchmarks/results/noise_learners.json` and a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noise_case import SHUFFLED, SUFFIX, add_noise
from study.scores import compared, of_static

import trainers
from mixture import Store, registry
from mixture.suites.layout import find_suites
from trainers.settings import resolve

HERE = Path(__file__).resolve().parent
LEARNING_SEEDS = (42, 43, 44)
PROVED = ("search", "influence", "kmm", "drpruning")
LEARNERS: dict[str, dict[str, Any]] = {
    "tdro-relative": {"algorithm": "tdro"},
    "tdro-group": {"algorithm": "tdro", "measurement": "relative_group"},
    "tdro-excess": {"algorithm": "tdro", "measurement": "excess"},
    "tdro-loss": {"algorithm": "tdro", "measurement": "loss"},
    "groupdro": {"algorithm": "groupdro"},
    "chi2": {"algorithm": "chi2"},
    "rb": {"algorithm": "rb"},
    "drpruning": {"algorithm": "drpruning"},
    "search": {"algorithm": "search", "group_sets": False},
    "influence": {"algorithm": "influence", "group_sets": False},
    "kmm": {"algorithm": "kmm", "group_sets": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/study"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work = options.work / "noise"
    if not work.is_dir():
        shutil.copytree(options.work / "store", work / "store", ignore=shutil.ignore_patterns("runs"))
    with Store.open(str(work / "store")) as store:
        add_noise(store)
        suites = sorted(find_suites([options.data / "eval"]), key=lambda folder: folder.name)
        made = {"uniform without them": "uniform:1", "uniform": "noisy:1"}
        shares = {"uniform without them": [0.0], "uniform": [100 * len(SHUFFLED) / 22]}
        for name in options.only.split(",") if options.only else LEARNERS:
            shares[name] = []
            for seed in LEARNING_SEEDS if name in PROVED else LEARNING_SEEDS[:1]:
                settings = {**LEARNERS[name], "steps": options.steps, "seed": seed}
                chosen = resolve(trainers.LearningSettings, "static", settings)
                target = suites if chosen.looks_at_target else ()
                learned = trainers.learn_weights(store, "noisy", proxy="static", name=f"noisy-{name}-{seed}",
                                                 target=target, settings=chosen)  # fmt: skip
                weights = registry.resolve(store, learned.first.reference).spec.weights
                shares[name].append(100 * sum(weights[collection + SUFFIX] for collection in SHUFFLED))
                made.setdefault(name, learned.first.reference)
            print(f"{name}: {', '.join(f'{share:.1f} %' for share in shares[name])}", flush=True)
        scores = {
            name: [of_static(store, reference, seed, steps=options.steps, suites=suites, work=work)
                   for seed in range(options.seeds)]
            for name, reference in made.items()
        }  # fmt: skip
    table = {}
    for name in made:
        found = compared(scores[name], scores["uniform"])
        assert found is not None
        table[name] = {"shares": [round(share, 1) for share in shares[name]], **found}
        says = "" if name == "uniform" else f"{found['difference']:+.2f} ± {found['error']:.2f} ({found['p']:.2g})"
        given = " · ".join(f"{share:.1f}" for share in shares[name])
        print(f"| {name} | {given} | {found['mean']:.2f} | {says} |", flush=True)
    if not options.only:
        result = {"command": "python benchmarks/noise_learners.py", "date": datetime.now(UTC).date().isoformat(),
                  "seeds": options.seeds, "table": table}  # fmt: skip
        (HERE / "results" / "noise_learners.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

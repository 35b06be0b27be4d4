"""How often do the tests of `evaluate` call two models different that are not?

    python benchmarks/false_alarms_evaluate.py [--pairs 10000]

A query has a difficulty that both models of a pair share. Three kinds of scores, drawn for each model by itself:
binary     0 or 1, as recall@100 with one relevant passage
ndcg       nDCG@10 with one relevant passage: 1 / log2(1 + rank), 0 below rank 10
smooth     within 0 to 1, no two equal
The share of pairs with p ≤ 0.05, and of intervals that leave 0 out. `over_13`: of pairs on 13 suites, with any.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trainers.evaluation.compare import SIGNIFICANT, holm
from trainers.evaluation.significance import interval, paired_t, randomisation

KINDS, QUERIES = ("binary", "ndcg", "smooth"), (50, 200, 1000)
SUITES = (50, 100, 200, 250, 250, 250, 250, 250, 250, 250, 500, 1000, 1000)


def differences(random: np.random.Generator, kind: str, pairs: int, queries: int) -> np.ndarray:
    """(pairs, queries), of two models that are alike."""
    difficulty = random.normal(0, 1.5, (1, pairs, queries))
    scores = difficulty + random.logistic(size=(2, pairs, queries))
    if kind == "binary":
        scores = (scores > 0).astype(float)
    elif kind == "ndcg":
        rank = 1 + np.floor(np.exp(np.minimum(1.5 + scores, 20)))
        scores = np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0)
    else:
        scores = 1 / (1 + np.exp(-scores))
    return scores[0] - scores[1]


def measured(pairs: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.Generator(np.random.Philox(seed))
    found: dict[str, Any] = {"single": {}, "over_13": {}}
    for kind in KINDS:
        for queries in QUERIES:
            drawn = differences(random, kind, pairs, queries)
            ends = interval(drawn)
            found["single"][f"{kind}, {queries}"] = {
                "t": float((paired_t(drawn) <= SIGNIFICANT).mean()),
                "randomisation": float((randomisation(drawn) <= SIGNIFICANT).mean()),
                "bootstrap": float(((ends[:, 0] > 0) | (ends[:, 1] < 0)).mean()),
            }
        p = np.stack([randomisation(differences(random, kind, pairs, queries)) for queries in SUITES], axis=1)
        holms = np.array([min(holm(list(row))) for row in p])
        found["over_13"][kind] = {"holm": float((holms <= SIGNIFICANT).mean()),
                                  "uncorrected": float((p.min(axis=1) <= SIGNIFICANT).mean())}  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    pairs = parser.parse_args().pairs
    result = measured(pairs) | {
        "pairs": pairs, "command": f"python benchmarks/false_alarms_evaluate.py --pairs {pairs}",
        "hardware": f"1 of {os.cpu_count()} cores, {platform.machine()}", "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }  # fmt: skip
    out = Path(__file__).parent / "results" / "false_alarms_evaluate.json"
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

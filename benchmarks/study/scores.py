"""Scores of models of several seeds, compared. Legend: a model's scores are suite -> query -> nDCG@10."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import trainers
from mixture import Store
from mixture.suites.families import family
from trainers.evaluation.compare import compare
from trainers.settings import resolve

Scores = dict[str, dict[str, float]]


def read(training: Path) -> Scores:
    """What a trained model scored, from its folder."""
    record = json.loads((training / "training.json").read_text("utf-8"))
    return {row["suite"]: row["values"]["ndcg@10"] for row in record["query_scores"]}


def of_static(store: Store, mixture: str, seed: int, *, steps: int, suites: Sequence[Path], work: Path) -> Scores:
    """Of the student `static` on the report halves after a training; kept in `work`, without the model."""
    name = f"{mixture.replace(':', '-')}-{steps}-{seed}"
    file, out = work / "scores" / f"{name}.json", work / "models" / name
    if not file.is_file():
        print(f"training {name}", file=sys.stderr, flush=True)
        settings = resolve(trainers.FinetuneSettings, "static", {"steps": steps, "seed": seed, "tracker": "none"})
        trainers.train(store, mixture, "static", out=out, settings=settings, suites=suites, half="report")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(read(out)))
        shutil.rmtree(out)
        gc.collect()
    found: Scores = json.loads(file.read_text())
    return found


def compared(
    ours: Sequence[Scores], theirs: Sequence[Scores], chosen: Callable[[str], bool] = lambda suite: True, *,
    paired: bool = False,
) -> dict[str, Any] | None:  # fmt: skip
    """nDCG@10 × 100 over the chosen suites, each of one say, and how far from theirs; None for no suite.

    mean, sd:              of ours; over seeds
    difference, error, p:  with the 95 % interval `low` to `high`, by the test of `mixture verdict`
    """
    columns = [(suite, query) for suite in sorted(ours[0]) if chosen(suite) for query in sorted(ours[0][suite])]
    if not columns:
        return None
    sides = [np.array([[one[s][q] for s, q in columns] for one in side]) for side in (ours, theirs)]
    suites = [s for s, _ in columns]
    found = compare(sides[0], sides[1], suites, [f"{family(s)} {q}" for s, q in columns], paired=paired)
    means = [mean({s: one[s] for s in dict.fromkeys(suites)}) for one in ours]
    return {
        "mean": round(100 * found.ours, 2), "sd": round(100 * float(np.std(means, ddof=1)), 2) if len(means) > 1 else 0,
        "difference": round(100 * found.difference, 2), "error": round(100 * found.error, 2),
        "low": round(100 * found.low, 2), "high": round(100 * found.high, 2), "p": float(f"{found.p:.2g}"),
    }  # fmt: skip


def mean(scores: Scores) -> float:
    """Over suites, of the mean over queries."""
    return float(np.mean([np.mean(list(queries.values())) for queries in scores.values()]))


def mean_over_families(models: Sequence[Scores]) -> float:
    """× 100: suites of one family, as xquad's languages, count as one."""
    names = sorted({family(suite) for suite in models[0]})
    return round(100 * float(np.mean([mean({s: q for s, q in one.items() if family(s) == name})
                                      for one in models for name in names])), 2)  # fmt: skip


def stitched(first: Sequence[Scores], second: Sequence[Scores], of_first: Collection[str]) -> list[Scores]:
    """Of two models of each seed, the scores of the first on these suites and those of the second on the others: every
    suite is scored by the model whose weights were learned on the others, or on it."""
    return [{suite: (one if suite in of_first else other)[suite] for suite in one}
            for one, other in zip(first, second, strict=True)]  # fmt: skip

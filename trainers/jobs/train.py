"""The model side's jobs: store and registry around the training loops. What the command line calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mixture.registry import SavedMixture
from mixture.store import Store
from mixture.store.write import append
from mixture.suites.layout import find_suites
from mixture.suites.suite import load_suite
from trainers.evaluation.evaluate import SuiteResult, document_prompt_for, evaluate_suite, prompt_for
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import identity
from trainers.finetune.output import finished, record_of
from trainers.finetune.scores import load_suites
from trainers.jobs.learn import LearnedMixtures, Stage, learn, materialised, silent
from trainers.jobs.runs import finished_config, query_rows, record_training, recorded
from trainers.loop.steps import Progress
from trainers.loop.trackers import chosen as tracker_name
from trainers.model.encoder import load_encoder
from trainers.model.names import known_model, resolve_model
from trainers.parallel import ranks

__all__ = ["LearnedMixtures", "evaluate", "is_main", "known_model", "learn", "silent", "train"]
is_main = ranks.is_main


def train(
    store: Store, mixture: SavedMixture, model: str, settings: FinetuneSettings, out: Path, *,
    suites: Sequence[Path] = (), stage: Stage = silent,
) -> str:  # fmt: skip
    """Fine-tune `model` on a mixture into the folder `out`, evaluating on `suites` as the settings say; the run, what
    it drew and what it scored are in the store. Returns the run's id.

    A run that is finished is not run again; where a kill came between its end and the store's record, that is made up.
    """
    tracker_name(settings.tracker)
    loaded = load_suites(suites, settings)
    data = materialised(store, mixture.spec)
    base = resolve_model(store.root, data, model, seed=settings.seed)
    run = identity(data, base, settings, loaded)
    if finished_config(store, run) is not None and ranks.on_main(lambda: finished(out, run)):
        return run
    with recorded(store, run, "finetune", mixture.spec.id, settings, model=base, out=str(out.resolve())) as row:
        finetune(data, base, settings, out, suites=loaded, progress=stage("training"))
        record_training(store, run, record_of(out), out)
        row["result"] = str(out.resolve())
    return run


def evaluate(
    store: Store, model: str, suites: Sequence[Path], *, prompt: str | None = None, batch_size: int = 64,
    stage: Stage = silent,
) -> list[SuiteResult]:  # fmt: skip
    """Score a model on suites (folders in BEIR layout, or folders of such) and keep the numbers in the store.

    Queries get `prompt`, or else the model's own prompt for the suite (`evaluation.prompt_for`).
    """
    folders = find_suites(suites)
    known_model(model)
    encoder = load_encoder(model)
    results = []
    for folder in folders:
        suite = load_suite(folder)
        show = stage(suite.name)
        results.append(
            evaluate_suite(
                encoder,
                suite,
                prompt=prompt_for(encoder, suite.name)[1] if prompt is None else prompt,
                document_prompt=document_prompt_for(encoder)[1],
                batch_size=batch_size,
                progress=None if show is None else partial(_counts, show),
            )
        )
        _record_evaluation(store, model, results[-1:])
    return results


def _counts(show: Progress, done: int, total: int) -> None:
    show(done, total, "")


def _record_evaluation(store: Store, model: str, results: Sequence[SuiteResult]) -> None:
    """Write results to the store, with the mixture that the model was trained on, if it is ours."""
    record = Path(model) / "training.json"
    trained = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    common = {"model": str(Path(model).resolve()) if Path(model).is_dir() else model,
              "mixture": trained.get("mixture", {}).get("id"), "evaluated_at": datetime.now(UTC)}  # fmt: skip
    means = [{**common, "run_id": trained.get("run_id"), **row} for result in results for row in result.rows]
    queries = [
        row
        for result in results
        for row in query_rows(result.by_metric, **common, suite=result.suite, corpus=result.corpus)
    ]

    def work(connection: Any) -> None:
        append(connection, "evaluations", means)
        append(connection, "evaluation_queries", queries)

    store.transaction(work)

"""Scoring a model on suites; the numbers go to the store."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mixture.arguments import Name, Names
from mixture.progress import Progress, Stage, quiet
from mixture.store import Store
from mixture.store.write import append
from mixture.suites.layout import find_suites
from mixture.suites.suite import load_suite
from trainers.evaluation.evaluate import SuiteResult, document_prompt_for, evaluate_suite, prompt_for
from trainers.finetune.output import record_if_any
from trainers.jobs.runs import query_rows
from trainers.model.encoder import load_encoder
from trainers.model.names import known_model


def evaluate(
    store: Store, model: Name, suites: Names, *, prompt: str | None = None, batch_size: int = 64, stage: Stage = quiet
) -> list[SuiteResult]:
    """Score a model on suites (folders in BEIR layout, or folders of such) and keep the numbers in the store.

    Queries get `prompt`, or else the model's own prompt for the suite (`evaluation.evaluate.prompt_for`).
    `batch_size` texts are encoded at once.
    """
    folders = find_suites(suites)
    name = known_model(model)
    encoder = load_encoder(name)
    results = []
    for folder in folders:
        suite = load_suite(folder)
        result = evaluate_suite(
            encoder,
            suite,
            prompt=prompt_for(encoder, suite.name)[1] if prompt is None else prompt,
            document_prompt=document_prompt_for(encoder)[1],
            batch_size=batch_size,
            progress=partial(_counts, stage(suite.name)),
        )
        _record_evaluation(store, name, result)
        results.append(result)
    return results


def _counts(show: Progress, done: int, total: int) -> None:
    show(done, total, "")


def _record_evaluation(store: Store, model: str, result: SuiteResult) -> None:
    """Write a result to the store, with the mixture that the model was trained on, if it is ours."""
    trained = record_if_any(Path(model))
    common = {"model": str(Path(model).resolve()) if Path(model).is_dir() else model,
              "mixture": trained.get("mixture", {}).get("id"), "evaluated_at": datetime.now(UTC)}  # fmt: skip
    means = [{**common, "run_id": trained.get("run_id"), **row} for row in result.rows]
    queries = query_rows(result.by_metric, **common, suite=result.suite, corpus=result.corpus)

    def work(connection: Any) -> None:
        append(connection, "evaluations", means)
        append(connection, "evaluation_queries", queries)

    store.transaction(work)

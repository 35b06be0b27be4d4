"""Scoring a model on suites; the numbers go to the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixture.arguments import Name, Names
from mixture.errors import UsageError
from mixture.progress import Progress, Stage, quiet
from mixture.store import Store
from mixture.store.write import append
from mixture.suites.families import is_own
from mixture.suites.given import suites_of
from mixture.suites.halves import halved
from mixture.suites.suite import Suite
from trainers.finetune.output import record_if_any
from trainers.jobs.runs import query_rows
from trainers.model.identity import STATIC
from trainers.model.names import known_model, shown

if TYPE_CHECKING:
    from trainers.evaluation.evaluate import SuiteResult

logger = logging.getLogger(__name__)
# Of the query that is shown when an evaluation starts.
SHOWN_WORDS = 12


def evaluate(
    store: Store, model: Name, suites: Names, *, prompt: str | None = None, half: str | None = None,
    batch_size: int = 64, stage: Stage = quiet,
) -> list[SuiteResult]:  # fmt: skip
    """Score a model on suites (folders in BEIR layout, folders of such, and names) and keep the numbers in the store.

    Queries get `prompt`, or else the model's own prompt for the suite (`evaluation.evaluate.prompt_for`).
    `half` (learn or report) takes the queries of one half of each suite (`mixture.suites.halves`); its scores are kept
    as those of SUITE/HALF. `batch_size` texts are encoded at once.
    """
    if batch_size < 1:
        raise UsageError(f"`batch_size` is {batch_size}; allowed: 1 or more")
    asked = suites_of(suites)
    name = known_model(model)
    starting = stage("starting")
    starting(0, 0, f"loading PyTorch and {shown(name)}")
    from trainers.evaluation.evaluate import document_prompt_for, evaluate_suite, prompt_for
    from trainers.model.encoder import load_encoder

    encoder = load_encoder(name)
    starting(1, 1, "done")
    document_prompt = document_prompt_for(encoder)[1]
    record = record_if_any(Path(name))
    trained_on = [part["collection"] for part in (record.get("mixture") or {}).get("components", ())]
    trained_on += [collection for part in record.get("soup", ()) for collection in part["collections"]]
    results: list[SuiteResult] = []
    for given in asked:
        suite = halved(given.load(), half)
        before = prompt_for(encoder, suite.name)[1] if prompt is None else prompt
        if (before or None) not in [result.prompt for result in results]:
            _say_texts(suite, before or "", document_prompt, given=prompt is not None)
        result = evaluate_suite(
            encoder,
            suite,
            prompt=before,
            document_prompt=document_prompt,
            batch_size=batch_size,
            progress=partial(_counts, stage(suite.title)),
        )
        result = replace(result, own=is_own(suite.name, trained_on))
        _record_evaluation(store, name, record, result)
        results.append(result)
    return results


def _say_texts(suite: Suite, prompt: str, document_prompt: str | None, *, given: bool) -> None:
    """A line to the log: a query as the model sees it, and whose prompt that is."""
    whose = "as `prompt` says" if given else "the model's own prompt" if prompt else "the model has none for it"
    query = prompt + " ".join(suite.queries[0].split()[:SHOWN_WORDS])
    passages = f"passages after {document_prompt!r}" if document_prompt else "passages alone"
    logger.info("queries go in as %r (%s; %s), %s", query, suite.name, whose, passages)


def _counts(show: Progress, done: int, total: int) -> None:
    show(done, total, "")


def _record_evaluation(store: Store, model: str, trained: Mapping[str, Any], result: SuiteResult) -> None:
    """Write a result to the store, with the mixture that the model was `trained` on (its record), if it is ours."""
    common = {"model": str(Path(model).resolve()) if Path(model).is_dir() and model != STATIC else model,
              "mixture": (trained.get("mixture") or {}).get("id"), "evaluated_at": datetime.now(UTC)}  # fmt: skip
    means = [{**common, "run_id": trained.get("run_id"), **row} for row in result.rows]
    queries = query_rows(result.by_metric, **common, suite=result.suite, corpus=result.corpus)

    def work(connection: Any) -> None:
        append(connection, "evaluations", means)
        append(connection, "evaluation_queries", queries)

    store.transaction(work)

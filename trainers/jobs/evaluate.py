"""Scoring models on suites; the numbers go to the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixture.arguments import Names, listed
from mixture.cards.card import load_cards
from mixture.embeddings.space import check_precision
from mixture.engine import LOCAL, Engine, engine_of
from mixture.errors import UsageError
from mixture.progress import Progress, Stage, quiet
from mixture.store import Store, layout
from mixture.store.write import append
from mixture.suites.families import family, is_own
from mixture.suites.given import suites_of
from mixture.suites.halves import halved
from mixture.suites.suite import Suite
from trainers.evaluation.metrics import accuracy_depth, checked_metrics
from trainers.jobs.runs import query_rows
from trainers.model.names import BM25, ModelName

if TYPE_CHECKING:
    from trainers.evaluation.evaluate import SuiteResult
    from trainers.evaluation.rankers import Ranker
    from trainers.evaluation.summary import Summary

logger = logging.getLogger(__name__)
# Of the query that is shown when an evaluation starts.
SHOWN_WORDS = 12


def evaluate(
    store: Store, model: Names, suites: Names, *, prompt: str | None = None, half: str | None = None,
    metrics: Sequence[str] = (), batch_size: int | None = None, processes: int = 1, keep_embeddings: bool = False,
    precision: str = "float32", engine: str | Engine = "local", stage: Stage = quiet,
) -> list[SuiteResult]:  # fmt: skip
    """Score one model or several on suites (folders in BEIR layout, folders of such, and names) and keep the numbers in
    the store. Returns the results of one model after the other.

    model:      folders or names of sentence-transformers models; `bm25`; or the fusion of some, as bm25+static
                (reciprocal ranks), unless a folder is called so
    prompt:     of queries; or else the model's own for the suite (`evaluation.evaluate.prompt_for`), or the suite's for
                a model that was trained here with prompts and has none of that name
    half:       (learn or report) takes the queries of one half of each suite (`mixture.suites.halves`); its scores are
                kept as those of SUITE/HALF
    metrics:    more than every suite is scored by: ndcg@K, recall@K, mrr@K, map@K, precision@K, success@K, and
                accuracy@K where a suite says answers
    batch_size: texts encoded at once, by sentence-transformers' own `encode`; None: as many as fit
    processes:  that encode (`encode_with`)
    keep_embeddings: in the store's folder, and take those that are there, as `mine` does; precision: that they are kept
                in
    engine:     what the processes that encode are on: a name of `ENGINES`, or an `Engine`
    """
    runs = engine_of(engine)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"`batch_size` is {batch_size}; allowed: 1 or more")
    if batch_size is not None and (processes > 1 or runs is not LOCAL):
        other = "processes" if processes > 1 else "engine"
        raise UsageError(f"`batch_size` is of one process here; leave it away, or `{other}`")
    if batch_size is not None and keep_embeddings:
        raise UsageError("`batch_size` keeps nothing; leave it away, or `keep_embeddings`")
    check_precision(precision)
    if precision != "float32" and not keep_embeddings:
        raise UsageError(f"`precision` is {precision!r}, of kept embeddings alone; give `keep_embeddings` too")
    metrics = checked_metrics(metrics)
    asked = suites_of(suites)
    names = [ModelName(given) for given in listed(model)]
    if not names:
        raise UsageError("`model` names no model")
    if doubled := [name.given for name in names if sum(name.kept == other.kept for other in names) > 1]:
        raise UsageError(f"`model` names {doubled[0]!r} twice")
    if sum(len(name.parts) for name in names) > 1:  # the last one's mistake is not to be said after the others' work
        for name in names:
            name.check()
    fetching = stage("suites")
    for number, one in enumerate(asked):  # before hours of work on the first ones
        fetching(number, len(asked), one.key)
        one.fetch()
    fetching(len(asked), len(asked), "done")
    starting, results = stage("starting"), []
    keep = partial(layout.space, store.work) if keep_embeddings else None
    for number, name in enumerate(names):
        starting(0, 0, f"loading {'PyTorch and ' * (not number)}{name.shown}")
        entrant = None  # what the last one holds, on GPUs perhaps, goes first
        entrant = _Entrant.load(name, prompt, keep, precision, batch_size, (processes, runs))
        starting(1, 1, "done")
        said: set[str | None] = set()
        for one in asked:
            suite = halved(one.load(), half)
            from trainers.evaluation.evaluate import score_suite

            entrant.say_texts(suite, said, given=prompt is not None)
            before = f"{name.shown} " if len(names) > 1 else ""
            result = score_suite(
                entrant.ranker, suite, metrics=metrics, progress=partial(_counts, stage(before + suite.title))
            )
            result = replace(result, own=is_own(suite.name, entrant.trained_on), model=name.given)
            _record_evaluation(store, name, entrant.record, result)
            results.append(result)
            del suite  # before the next one is read
    for metric in metrics:
        if not any(metric in result.metrics for result in results):
            what = "says answers" if accuracy_depth(metric) else "judges documents"
            logger.warning("nothing was scored by %s: none of the suites %s", metric, what)
    return results


def compare(results: Sequence[SuiteResult], *, baseline: str | None = None) -> Summary:
    """Hold the models of an evaluation against one of them, by default the first: which differences are sure, what got
    worse and on which queries, and the worst case over suites (`trainers.evaluation.summary`).

    A suite's category is that of the datacard of its name.
    """
    from trainers.evaluation.summary import summarise

    cards = {family(name): card.category for name, card in load_cards().items() if card.category}
    categories = {}
    for suite in dict.fromkeys(result.suite for result in results):
        parts = map(family, reversed(suite.split("/")))  # of beir/nq the collection is nq, of miracl/sw miracl
        if found := next((cards[name] for name in parts if name in cards), None):
            categories[suite] = found
    texts = {result.suite: result.queries for result in results}
    return summarise(results, baseline=baseline, categories=categories, texts=texts)


@dataclass
class _Entrant:
    """A model that is loaded. record: of its training here, empty for others and for a fusion."""

    ranker: Ranker
    record: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Sequence[str] = ()

    @classmethod
    def load(
        cls, name: ModelName, prompt: str | None, keep: Callable[[str], Path] | None, precision: str,
        batch_size: int | None, where: tuple[int, Engine],
    ) -> _Entrant:  # fmt: skip
        from trainers.evaluation.rankers import Fused

        parts = [cls._one(part, prompt, keep, precision, batch_size, where) for part in name.parts]
        if len(parts) == 1:
            return parts[0]
        trained_on = [collection for part in parts for collection in part.trained_on]
        return cls(Fused([part.ranker for part in parts]), {}, trained_on)

    @classmethod
    def _one(
        cls, name: str, prompt: str | None, keep: Callable[[str], Path] | None, precision: str,
        batch_size: int | None, where: tuple[int, Engine],
    ) -> _Entrant:  # fmt: skip
        if name == BM25:
            from trainers.evaluation.rankers import Lexical

            return cls(Lexical())
        from trainers.jobs.dense import DenseModel

        model = DenseModel.load(name, *where)
        ranker = model.ranker(prompt, keep=keep, precision=precision, batch_size=batch_size)
        return cls(ranker, model.record, model.trained_on)

    def say_texts(self, suite: Suite, said: set[str | None], *, given: bool) -> None:
        """A line to the log, for each new prompt: a query as the model sees it, and whose prompt that is."""
        facts = self.ranker.facts(suite)
        if facts.precision is None or facts.prompt in said:
            return
        said.add(facts.prompt)
        whose = "the model's own prompt" if facts.prompt else "the model has none for it"
        if given:
            whose = "as `prompt` says"
        elif facts.prompt and facts.prompt == suite.prompt:
            whose = "the suite's prompt"
        query = (facts.prompt or "") + " ".join(suite.queries[0].split()[:SHOWN_WORDS])
        passages = f"passages after {facts.document_prompt!r}" if facts.document_prompt else "passages alone"
        logger.info("queries go in as %r (%s; %s), %s", query, suite.name, whose, passages)


def _counts(show: Progress, done: int, total: int) -> None:
    show(done, total, "")


def _record_evaluation(store: Store, name: ModelName, trained: Mapping[str, Any], result: SuiteResult) -> None:
    """Write a result to the store, with the mixture that the model was `trained` on (its record), if it is ours."""
    mixture = (trained.get("mixture") or {}).get("id")
    common = {"model": name.kept, "mixture": mixture, "evaluated_at": datetime.now(UTC)}
    means = [{**common, "run_id": trained.get("run_id"), **row} for row in result.rows]
    queries = query_rows(result.by_metric, **common, suite=result.suite, corpus=result.corpus)

    def work(connection: Any) -> None:
        append(connection, "evaluations", means)
        append(connection, "evaluation_queries", queries)

    store.transaction(work)

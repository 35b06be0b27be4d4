"""Score a model on a suite: rank the whole corpus for each query, compute the metrics, and say what they depend on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.suites.answers import has_answer, token_run
from mixture.suites.suite import Suite
from trainers.evaluation.metrics import (
    METRICS,
    Metric,
    accuracy_depth,
    checked_metrics,
    deepest,
    mean_scores,
    metric_of,
    require_pytrec_eval,
    score_run,
)
from trainers.evaluation.rankers import Best, Corpus, Dense, Ranker
from trainers.model.template import DOCUMENT_PROMPTS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class SuiteResult:
    """What a model scored on a suite, with all that the number depends on.

    `metrics` are means over the judged queries, within 0 to 1. `corpus` says what was searched: scores on a corpus of
    judged passages only are far higher than on a full one, and must not be compared. A prompt of None means plain
    text. `missing_documents` is that of the suite. `own`: the model was trained on the suite's collection
    (`mixture.suites.families`); False where that is not known. `max_tokens`: where the model cuts texts off;
    `precision`: of the embeddings that were searched; both None for what is no model. `revision`: of the suite's data.
    `benchmark`: that the suite belongs to, as beir.
    `queries`: their texts by id.
    """

    suite: str
    metrics: dict[str, float]
    per_query: dict[str, dict[str, float]]
    num_queries: int
    num_documents: int
    prompt: str | None
    document_prompt: str | None
    similarity: str
    corpus: str
    missing_documents: int
    seconds: float
    own: bool = False
    model: str = ""
    language: str | None = None
    max_tokens: int | None = None
    precision: str | None = None
    revision: str | None = None
    benchmark: str | None = None
    queries: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def row(self) -> dict[str, Any]:
        """All of it but what is of single queries."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("per_query", "queries")}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The means as the table `evaluations` has them, a row for each metric."""
        names = ("num_queries", "num_documents", "corpus", "prompt", "document_prompt", "similarity", "max_tokens",
                 "precision", "revision")  # fmt: skip
        facts = {name: getattr(self, name) for name in names}
        return [{"suite": self.suite, "metric": name, "value": value, **facts} for name, value in self.metrics.items()]

    @property
    def by_metric(self) -> dict[str, dict[str, float]]:
        """`per_query` the other way around: metric -> query id -> value."""
        return {name: {query: found[name] for query, found in self.per_query.items()} for name in self.metrics}


def evaluate_suite(
    model: SentenceTransformer,
    suite: Suite,
    *,
    prompt: str | None,
    document_prompt: str | None = None,
    batch_size: int | None = None,
    top: int | None = None,
    metrics: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> SuiteResult:
    """Rank the suite's whole corpus for each of its queries and score the `top` best, by default as many as the
    metrics need.

    Queries are encoded with `prompt`, documents with `document_prompt`; None is plain text, also where the model has a
    default prompt. A document is its title and text joined by a space (one alone where the other is empty).
    Similarity is the model's own: cosine or inner product. `metrics`: more than every suite is scored by, as mrr@10.
    `progress(done, total)` is called with counts of texts.

    Documents that are not ranked for a query are left out (`Suite.unranked`).

    The model is left in evaluation mode, as sentence-transformers leaves it.

    Raises UsageError for `top` below that, another similarity, or a missing pytrec_eval; MixtureError where embeddings
    are not finite.
    """
    dense = Dense(model, lambda _: prompt, document_prompt, batch_size=batch_size)
    return score_suite(dense, suite, top=top, metrics=metrics, progress=progress)


def score_suite(
    ranker: Ranker,
    suite: Suite,
    *,
    top: int | None = None,
    metrics: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> SuiteResult:
    """`evaluate_suite` for any ranker."""
    wanted, accuracies = _wanted(suite, metrics)
    needed, metric = (
        deepest(wanted) if wanted else (max(accuracies.values()), max(accuracies, key=accuracies.__getitem__))
    )
    top = needed if top is None else top
    if top < needed:
        raise UsageError(f"top must be {needed} or more, because {metric} is reported; got {top}")
    if wanted:
        require_pytrec_eval()
    started = time.perf_counter()
    documents = Corpus(suite)
    # More than asked for: documents that are not ranked may take places.
    depth = top + max((len(suite.unranked(query)) for query in suite.query_ids), default=0)
    best = ranker(suite, documents, depth, progress or (lambda done, total: None))
    rankings = _ranked(suite, documents, best, top)
    if wanted:
        per_query = score_run(suite.qrels, {query: dict(zip(ids, scores, strict=True))
                                            for query, (ids, _, scores) in rankings.items()}, wanted)  # fmt: skip
    else:
        found = {query: numbers for query, (_, numbers, _) in rankings.items()}
        per_query = _accuracies(suite, documents, found, accuracies)
    facts = ranker.facts(suite)
    return SuiteResult(
        suite=suite.title,
        metrics=mean_scores(per_query),
        per_query=per_query,
        num_queries=len(suite.query_ids),
        num_documents=len(suite.corpus_ids),
        prompt=facts.prompt,
        document_prompt=facts.document_prompt,
        similarity=facts.similarity,
        corpus="full corpus of the suite",
        missing_documents=suite.missing_documents,
        seconds=time.perf_counter() - started,
        language=suite.language,
        max_tokens=facts.max_tokens,
        precision=facts.precision,
        revision=suite.revision,
        benchmark=suite.benchmark,
        queries=dict(zip(suite.query_ids, suite.queries, strict=True)),
    )


def _wanted(suite: Suite, asked: Sequence[str]) -> tuple[dict[str, Metric], dict[str, int]]:
    """The metrics of a suite with judged documents, or the accuracies (name -> depth) of one with answers."""
    names = [*suite.metrics, *checked_metrics(asked)]
    depths = {name: depth for name in names if (depth := accuracy_depth(name)) is not None}
    if suite.answers is not None:
        return {}, depths or {"accuracy@10": 10, "accuracy@100": 100}
    return METRICS | {name: metric_of(name) for name in names if name not in depths}, {}


def evaluate_as_is(model: SentenceTransformer, suite: Suite) -> SuiteResult:
    """`evaluate_suite` with the model's own prompts, for a model that is trained here."""
    prompt, document_prompt = prompt_of(model, suite, of_suite=True), document_prompt_for(model)[1]
    return evaluate_suite(model, suite, prompt=prompt, document_prompt=document_prompt)


def prompt_of(model: SentenceTransformer, suite: Suite, *, of_suite: bool) -> str | None:
    """The text of the prompt for the queries of a suite. of_suite: for a model that has prompts, and none for this
    suite by name, the suite's own comes before the model's general one."""
    named = prompt_for(model, suite.name, fallback=None)[1]
    if named is not None:
        return named
    if of_suite and suite.prompt and any(model.prompts.values()):
        return suite.prompt
    return prompt_for(model, suite.name)[1]


def prompt_for(
    model: SentenceTransformer, suite_name: str, fallback: str | None = "query"
) -> tuple[str | None, str | None]:
    """Name and text of the model's prompt for the queries of a suite; (None, None) for plain text.

    The first of `model.prompts` (a dict of name to text) that exists: the suite's exact name; the part of it before
    the first "-" (xquad-zh: xquad); the longest prompt name that the suite's name starts with; the prompt called
    `fallback`, unless it is empty, as it is in models without prompts. A name kept for documents never matches.
    """
    prompts = {name: text for name, text in model.prompts.items() if name and name not in DOCUMENT_PROMPTS}
    prefixes = sorted((name for name in prompts if suite_name.startswith(name)), key=len, reverse=True)
    for name in (suite_name, suite_name.split("-", 1)[0], *prefixes):
        if name in prompts:
            return name, prompts[name]
    if fallback is not None and prompts.get(fallback):
        return fallback, prompts[fallback]
    return None, None


def document_prompt_for(model: SentenceTransformer) -> tuple[str | None, str | None]:
    """Name and text of the model's prompt for documents (E5's "passage: "); (None, None) for plain text."""
    for name in DOCUMENT_PROMPTS:
        if model.prompts.get(name):
            return name, model.prompts[name]
    return None, None


def caption(results: Sequence[SuiteResult]) -> str:
    """What a reader must know to compare the numbers of the table."""
    searched = sorted({result.corpus for result in results})
    notes = [f"searched: {', '.join(searched)}"] if searched else []
    for name in dict.fromkeys(name for result in results for name in result.metrics):
        metric = None if accuracy_depth(name) is not None else metric_of(name)
        smallest = min(result.num_documents for result in results if name in result.metrics)
        if metric is not None and not metric.ordered and smallest <= metric.depth:
            notes.append(f"with {metric.depth} documents or fewer {name} says nothing")
    missing = sum(result.missing_documents for result in results)
    if missing:
        notes.append(f"{missing} judgements name documents that no corpus holds; they count as not found")
    return "; ".join(notes)


def _ranked(
    suite: Suite, documents: Corpus, best: Best, top: int
) -> dict[str, tuple[list[str], NDArray[np.int64], list[float]]]:
    """Query id -> ids, numbers and scores of at most `top` documents, without those that are not ranked."""
    found = {}
    for query_id, scores, numbers in zip(suite.query_ids, best.scores, best.numbers, strict=True):
        there = numbers >= 0
        ids, left_out = documents.ids(numbers[there]), suite.unranked(query_id)
        places = [place for place, document in enumerate(ids) if document not in left_out][:top]
        found[query_id] = [ids[place] for place in places], numbers[there][places], scores[there][places].tolist()
    return found


def _accuracies(
    suite: Suite, documents: Corpus, found: Mapping[str, NDArray[np.int64]], depths: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Of each query whether one of its first documents holds an answer."""
    assert suite.answers is not None
    used = np.unique(np.concatenate([np.empty(0, np.int64), *found.values()]))
    runs = dict(zip(used.tolist(), map(token_run, documents.texts_of(used)), strict=True))
    scores = {}
    for query, numbers in found.items():
        holding = has_answer(suite.answers[query], numbers.tolist(), runs.__getitem__)
        scores[query] = {name: float(holding[:depth].any()) for name, depth in depths.items()}
    return scores

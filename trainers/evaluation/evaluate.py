"""Score a model on a suite: embed, search the whole corpus exactly, compute the metrics, and show a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from mixture.suites.suite import Suite
from trainers.evaluation.metrics import METRICS, deepest, mean_scores, require_pytrec_eval, score_run
from trainers.evaluation.search import merge_top_k, top_k
from trainers.model.template import DOCUMENT_PROMPTS

# Documents embedded between two searches: bounds memory to one chunk of embeddings, whatever the corpus.
CHUNK_DOCUMENTS = 16_384


@dataclass(frozen=True)
class SuiteResult:
    """What a model scored on a suite, with all that the number depends on.

    `metrics` are means over the judged queries, within 0 to 1. `corpus` says what was searched: scores on a corpus of
    judged passages only are far higher than on a full one, and must not be compared. A prompt of None means plain
    text. `missing_documents` is that of the suite. `own`: the model was trained on the suite's collection
    (`mixture.suites.families`); False where that is not known.
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

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The means as the table `evaluations` has them, a row for each metric."""
        facts = {"num_queries": self.num_queries, "num_documents": self.num_documents, "corpus": self.corpus,
                 "prompt": self.prompt}  # fmt: skip
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
    batch_size: int = 64,
    top: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SuiteResult:
    """Rank the suite's whole corpus for each of its queries and score the `top` best, by default as many as the
    metrics need.

    Queries are encoded with `prompt`, documents with `document_prompt`; None is plain text, also where the model has a
    default prompt. A document is its title and text joined by a space (one alone where the other is empty).
    Similarity is the model's own: cosine or inner product. `progress(done, total)` is called with counts of texts.

    Documents that are not ranked for a query are left out (`Suite.unranked`).

    The model is left in evaluation mode, as sentence-transformers leaves it.

    Raises UsageError for `top` below that, another similarity, or a missing pytrec_eval; MixtureError where embeddings
    are not finite.
    """
    needed, metric = deepest()
    top = needed if top is None else top
    if top < needed:
        raise UsageError(f"top must be {needed} or more, because {metric} is reported; got {top}")
    check_similarity(model)
    require_pytrec_eval()
    started = time.perf_counter()
    per_query = score_run(suite.qrels, _rank(model, suite, prompt, document_prompt, batch_size, top, progress))
    return SuiteResult(
        suite=suite.title,
        metrics=mean_scores(per_query),
        per_query=per_query,
        num_queries=len(suite.query_ids),
        num_documents=len(suite.corpus_ids),
        prompt=prompt or None,
        document_prompt=document_prompt or None,
        similarity=model.similarity_fn_name,
        corpus="full corpus of the suite",
        missing_documents=suite.missing_documents,
        seconds=time.perf_counter() - started,
    )


def evaluate_as_is(model: SentenceTransformer, suite: Suite) -> SuiteResult:
    """`evaluate_suite` with the model's own prompts."""
    prompt, document_prompt = prompt_for(model, suite.name)[1], document_prompt_for(model)[1]
    return evaluate_suite(model, suite, prompt=prompt, document_prompt=document_prompt)


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


def check_similarity(model: SentenceTransformer) -> None:
    """Raise `UsageError` for a model whose embeddings are compared in a way that `search` cannot."""
    if model.similarity_fn_name not in ("cosine", "dot"):
        raise UsageError(f"the model compares by {model.similarity_fn_name!r}; cosine and dot can be searched")


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
    smallest = min((result.num_documents for result in results), default=0)
    notes += [f"with {metric.depth} documents or fewer {name} says nothing" for name, metric in METRICS.items()
              if results and not metric.ordered and smallest <= metric.depth]  # fmt: skip
    missing = sum(result.missing_documents for result in results)
    if missing:
        notes.append(f"{missing} judgements name documents that no corpus holds; they count as not found")
    return "; ".join(notes)


def _rank(
    model: SentenceTransformer,
    suite: Suite,
    prompt: str | None,
    document_prompt: str | None,
    batch_size: int,
    top: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, float]]:
    """The run: query id -> document id -> score, at most `top` documents a query, those not ranked left out."""
    total = len(suite.queries) + len(suite.corpus)
    report = progress or (lambda done, total: None)
    encoding: dict[str, Any] = {
        "batch_size": batch_size,
        "show_progress_bar": False,
        "convert_to_tensor": True,
        "normalize_embeddings": model.similarity_fn_name == "cosine",
    }
    # An empty prompt, not None: with None sentence-transformers looks for a default one. encode_query and
    # encode_document differ from encode only by the task, which models with two towers need.
    query_emb = model.encode_query(suite.queries, prompt=prompt or "", **encoding).float()
    report(len(suite.queries), total)
    # More than asked for: documents that are not ranked may take places.
    depth = top + max((len(suite.unranked(key)) for key in suite.query_ids), default=0)
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    for first, texts in _chunks(suite.corpus):
        corpus_emb = model.encode_document(texts, prompt=document_prompt or "", **encoding).float()
        scores, indices = top_k(query_emb, corpus_emb, depth)
        found = (scores, indices + first)
        best = found if best is None else merge_top_k(best, found, depth)
        report(len(suite.queries) + first + len(texts), total)
    if best is None:
        return {}
    return _as_run(suite, best[0].cpu().tolist(), best[1].cpu().tolist(), top)


def _chunks(corpus: Sequence[tuple[str, str]]) -> Iterator[tuple[int, list[str]]]:
    for first in range(0, len(corpus), CHUNK_DOCUMENTS):
        chunk = corpus[first : first + CHUNK_DOCUMENTS]
        yield first, [" ".join(filter(None, (title, text))) for title, text in chunk]


def _as_run(
    suite: Suite, scores: Sequence[Sequence[float]], indices: Sequence[Sequence[int]], top: int
) -> dict[str, dict[str, float]]:
    run = {}
    for query_id, row_scores, row_indices in zip(suite.query_ids, scores, indices, strict=True):
        ranked = [(suite.corpus_ids[index], score) for index, score in zip(row_indices, row_scores, strict=True)]
        left_out = suite.unranked(query_id)
        run[query_id] = dict([pair for pair in ranked if pair[0] not in left_out][:top])
    return run

"""The metrics that models are scored by, and their values for a run; trec_eval's through pytrec_eval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from mixture.errors import UsageError

# Of a query's grades (document id -> grade; 1 and more: relevant) and its ranking (document ids, the best first).
OfRanking = Callable[[Mapping[str, int], Sequence[str]], float]


@dataclass(frozen=True)
class Metric:
    """A metric, within 0 to 1.

    measure: trec_eval's name for it, or a function of a query's grades and its ranking
    depth:   how many documents of a ranking it is given
    ordered: whether their order counts; where not, it says nothing on a corpus of `depth` documents or fewer
    """

    measure: str | OfRanking
    depth: int
    ordered: bool = True


# Name -> metric: the columns of tables, the rows of `evaluations`. What this package's __init__ imports may add to it.
METRICS = {
    "ndcg@10": Metric("ndcg_cut_10", 10),
    "recall@100": Metric("recall_100", 100, ordered=False),
}
ACCURACY = "accuracy"
"""Whether one of the first k documents holds an answer, for suites that say answers and not documents."""
# Name before "@" -> trec_eval's name for the first k documents. Of a reciprocal rank it knows no cut; the ranking's is
# one.
_FAMILIES = {
    "ndcg": "ndcg_cut_{k}",
    "recall": "recall_{k}",
    "mrr": "recip_rank",
    "map": "map_cut_{k}",
    "precision": "P_{k}",
    "success": "success_{k}",
}
_UNORDERED = ("recall", "precision", "success")
DEEPEST = 10_000


def metric_of(name: str) -> Metric:
    """The metric of a name: one of `METRICS`, or a family with any cut-off, as mrr@10; else a `UsageError`.

    >>> metric_of("MAP@100").measure
    'map_cut_100'
    """
    name = name.lower()
    if name in METRICS:
        return METRICS[name]
    family, _, cut = name.partition("@")
    if family not in _FAMILIES or not _is_cut(cut):
        there = ", ".join(f"{family}@K" for family in (*_FAMILIES, ACCURACY))
        own = [name for name in METRICS if name.partition("@")[0] not in _FAMILIES]
        raise UsageError(f"`metrics` has {name!r}; allowed: {', '.join([there, *own])}, K from 1 to {DEEPEST:,}")
    return Metric(_FAMILIES[family].format(k=cut), int(cut), ordered=family not in _UNORDERED)


def accuracy_depth(name: str) -> int | None:
    """K of accuracy@K; None for another metric."""
    family, _, cut = name.partition("@")
    return int(cut) if family == ACCURACY and _is_cut(cut) else None


def _is_cut(text: str) -> bool:
    return text.isdecimal() and 1 <= int(text) <= DEEPEST and str(int(text)) == text


def checked_metrics(names: Sequence[str]) -> list[str]:
    """Names of metrics in small letters; one that is none is a `UsageError`."""
    found = [name.lower() for name in names]
    for name in found:
        if accuracy_depth(name) is None:
            metric_of(name)
    return found


def deepest(metrics: Mapping[str, Metric] | None = None) -> tuple[int, str]:
    """How many documents of a ranking the metrics need, and the first one that needs so many."""
    metrics = METRICS if metrics is None else metrics
    name = max(metrics, key=lambda name: metrics[name].depth)
    return metrics[name].depth, name


def score_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]],
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """The metrics of each judged query: `{query_id: {"ndcg@10": ..., "recall@100": ...}}`, all within 0 to 1.

    qrels: query id -> document id -> grade (1 and more: relevant). run: query id -> document id -> score, higher is
    better. metrics: by name; `METRICS` unless told otherwise.

    As in trec_eval, nDCG takes the grade itself as the gain and log2(rank + 1) as the discount, documents of equal
    score rank by id, the larger id first, and a query without a relevant document scores 0. Departs from trec_eval: a
    judged query with nothing retrieved, or absent from the run, scores 0 instead of being left out of the mean. Queries
    of the run that nobody judged are ignored.

    Raises UsageError where pytrec_eval is not installed.
    """
    package = _pytrec_eval()
    rankings = {query: _ranking(run[query]) for query in qrels if run.get(query)}
    scores: dict[str, dict[str, float]] = {query: {} for query in qrels}
    for name, metric in (METRICS if metrics is None else metrics).items():
        best = {query: ranking[: metric.depth] for query, ranking in rankings.items()}
        if isinstance(metric.measure, str):
            evaluator = package.RelevanceEvaluator({q: dict(grades) for q, grades in qrels.items()}, {metric.measure})
            measured = evaluator.evaluate({q: {d: run[q][d] for d in ranking} for q, ranking in best.items()})
            values = {query: of_query[metric.measure] for query, of_query in measured.items()}
        else:
            values = {query: metric.measure(qrels[query], ranking) for query, ranking in best.items()}
        for query, of_query in scores.items():
            of_query[name] = float(values.get(query, 0.0))
    return scores


def ndcg_at_10(grades: Sequence[Mapping[int, int]], rankings: Sequence[Sequence[int]]) -> float:
    """The mean nDCG@10 over queries whose documents are numbers: of each its grades and its ranking, the best first."""
    package = _pytrec_eval()
    qrels = {str(q): {str(d): int(g) for d, g in of_query.items()} for q, of_query in enumerate(grades)}
    run = {str(q): {str(d): float(-place) for place, d in enumerate(ranking)} for q, ranking in enumerate(rankings)}
    measured = package.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
    return float(sum(found["ndcg_cut_10"] for found in measured.values()) / max(1, len(grades)))


def _ranking(scores: Mapping[str, float]) -> list[str]:
    """Document ids as trec_eval ranks them: by score in single precision, of equal ones the larger id first."""
    return sorted(scores, key=lambda document: (np.float32(scores[document]), document), reverse=True)


def mean_scores(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the queries of `score_run`. Raises UsageError for no queries.

    >>> mean_scores({"q1": {"ndcg@10": 1.0, "recall@100": 1.0}, "q2": {"ndcg@10": 0.5, "recall@100": 0.0}})
    {'ndcg@10': 0.75, 'recall@100': 0.5}
    """
    if not per_query:
        raise UsageError("no judged query, so there is no mean")
    names = next(iter(per_query.values()))
    return {name: sum(scores[name] for scores in per_query.values()) / len(per_query) for name in names}


def require_pytrec_eval() -> None:
    """Raise the UsageError of `score_run` now, before the embedding of a corpus, where pytrec_eval is not installed."""
    _pytrec_eval()


def _pytrec_eval() -> ModuleType:
    try:
        import pytrec_eval
    except ImportError as error:
        raise UsageError("evaluation needs pytrec_eval; install it: pip install 'retrieval-mixture[eval]'") from error
    return pytrec_eval

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


def deepest() -> tuple[int, str]:
    """How many documents of a ranking the metrics need, and the first one that needs so many."""
    name = max(METRICS, key=lambda name: METRICS[name].depth)
    return METRICS[name].depth, name


def score_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """The metrics of each judged query: `{query_id: {"ndcg@10": ..., "recall@100": ...}}`, all within 0 to 1.

    qrels: query id -> document id -> grade (1 and more: relevant). run: query id -> document id -> score, higher is
    better. As in trec_eval, nDCG takes the grade itself as the gain and log2(rank + 1) as the discount, documents of
    equal score rank by id, the larger id first, and a query without a relevant document scores 0. Departs from
    trec_eval: a judged query with nothing retrieved, or absent from the run, scores 0 instead of being left out of the
    mean. Queries of the run that nobody judged are ignored.

    Raises UsageError where pytrec_eval is not installed.
    """
    package = _pytrec_eval()
    rankings = {query: _ranking(run[query]) for query in qrels if run.get(query)}
    scores: dict[str, dict[str, float]] = {query: {} for query in qrels}
    for name, metric in METRICS.items():
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
    return {name: sum(scores[name] for scores in per_query.values()) / len(per_query) for name in METRICS}


def require_pytrec_eval() -> None:
    """Raise the UsageError of `score_run` now, before the embedding of a corpus, where pytrec_eval is not installed."""
    _pytrec_eval()


def _pytrec_eval() -> ModuleType:
    try:
        import pytrec_eval
    except ImportError as error:
        raise UsageError("evaluation needs pytrec_eval; install it: pip install 'retrieval-mixture[eval]'") from error
    return pytrec_eval

"""nDCG@10 and Recall@100 as trec_eval computes them, through pytrec_eval."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from mixture.errors import UsageError

# Our name -> the name that trec_eval gives the same number.
TREC_NAMES = {"ndcg@10": "ndcg_cut_10", "recall@100": "recall_100"}

# A run shorter than this would report a recall at less than 100 under the name recall@100.
DEEPEST_CUT = 100


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
    evaluator = _pytrec_eval().RelevanceEvaluator(
        {query_id: dict(grades) for query_id, grades in qrels.items()}, set(TREC_NAMES.values())
    )
    scored = evaluator.evaluate({query_id: dict(run[query_id]) for query_id in qrels if run.get(query_id)})
    return {
        query_id: {ours: float(scored.get(query_id, {}).get(trec, 0.0)) for ours, trec in TREC_NAMES.items()}
        for query_id in qrels
    }


def mean_scores(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the queries of `score_run`. Raises UsageError for no queries.

    >>> mean_scores({"q1": {"ndcg@10": 1.0, "recall@100": 1.0}, "q2": {"ndcg@10": 0.5, "recall@100": 0.0}})
    {'ndcg@10': 0.75, 'recall@100': 0.5}
    """
    if not per_query:
        raise UsageError("no judged query, so there is no mean")
    return {name: sum(scores[name] for scores in per_query.values()) / len(per_query) for name in TREC_NAMES}


def require_pytrec_eval() -> None:
    """Raise the UsageError of `score_run` now, before the embedding of a corpus, where pytrec_eval is not installed."""
    _pytrec_eval()


def _pytrec_eval() -> ModuleType:
    try:
        import pytrec_eval
    except ImportError as error:
        raise UsageError("evaluation needs pytrec_eval; install it: pip install 'retrieval-mixture[eval]'") from error
    return pytrec_eval

from __future__ import annotations

import math
import sys

import pytest

from mixture.errors import UsageError
from trainers.evaluation.metrics import METRICS, Metric, deepest, mean_scores, score_run

pytest.importorskip("pytrec_eval")


def test_graded_ndcg_worked_by_hand():
    # Ranking: x (not judged), b (grade 1), a (grade 3). DCG = 1/log2(3) + 3/log2(4).
    # The best order is a, b, c (grade 2 was not found): 3/log2(2) + 2/log2(3) + 1/log2(4).
    scores = score_run({"q": {"a": 3, "b": 1, "c": 2}}, {"q": {"x": 0.9, "b": 0.8, "a": 0.7}})
    gained = 1 / math.log2(3) + 3 / 2
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert scores["q"]["ndcg@10"] == pytest.approx(gained / ideal)
    assert scores["q"]["recall@100"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("rank", "ndcg", "recall"), [(1, 1.0, 1), (3, 0.5, 1), (10, 1 / math.log2(11), 1)])
def test_one_relevant_document_scores_by_its_rank(rank, ndcg, recall):
    run = {"q": {("hit" if place == rank else f"miss{place}"): -float(place) for place in range(1, 120)}}
    assert score_run({"q": {"hit": 1}}, run)["q"] == pytest.approx({"ndcg@10": ndcg, "recall@100": recall})


@pytest.mark.parametrize(("rank", "recall"), [(11, 1.0), (100, 1.0), (101, 0.0)])
def test_the_cuts_are_at_10_and_100(rank, recall):
    run = {"q": {("hit" if place == rank else f"miss{place}"): -float(place) for place in range(1, 120)}}
    assert score_run({"q": {"hit": 1}}, run)["q"] == {"ndcg@10": 0.0, "recall@100": recall}


def test_judged_queries_without_results_count_zero_and_unjudged_ones_do_not_count():
    qrels = {"found": {"a": 1}, "empty": {"a": 1}, "absent": {"a": 1}, "nothing relevant": {"a": 0}}
    run = {"found": {"a": 1.0}, "empty": {}, "unjudged": {"a": 1.0}, "nothing relevant": {"a": 1.0}}
    scores = score_run(qrels, run)
    assert list(scores) == list(qrels)
    assert [scores[query]["ndcg@10"] for query in qrels] == [1.0, 0.0, 0.0, 0.0]
    assert mean_scores(scores) == {"ndcg@10": 0.25, "recall@100": 0.25}


@pytest.mark.parametrize(("rank", "value"), [(1, 1.0), (4, 0.25), (10, 0.1), (11, 0.0)])
def test_a_metric_of_trec_eval_without_a_cut_gets_one_by_its_depth(monkeypatch, rank, value):
    monkeypatch.setitem(METRICS, "mrr@10", Metric("recip_rank", 10))
    run = {"q": {("hit" if place == rank else f"miss{place}"): -float(place) for place in range(1, 120)}}
    scores = score_run({"q": {"hit": 1}}, run)
    assert scores["q"]["mrr@10"] == pytest.approx(value)
    assert list(mean_scores(scores)) == ["ndcg@10", "recall@100", "mrr@10"]


def test_documents_of_equal_score_are_cut_as_trec_eval_ranks_them(monkeypatch):
    """The larger id first, and scores that are equal in single precision are equal."""
    run = {"q": {"a": 1.0 + 1e-12, "b": 1.0, "c": 0.5}}
    for metric in (Metric("recip_rank", 1), Metric("recip_rank", 3)):
        monkeypatch.setitem(METRICS, "mrr", metric)
        assert score_run({"q": {"b": 1}}, run)["q"]["mrr"] == 1.0


def test_a_metric_of_our_own_sees_grades_and_ranking_to_its_depth(monkeypatch):
    seen = []

    def worst_grade(grades, ranking):
        seen.append((dict(grades), list(ranking)))
        return 0.5

    monkeypatch.setitem(METRICS, "own@2", Metric(worst_grade, 2))
    scores = score_run({"q": {"a": 3}, "empty": {"a": 1}}, {"q": {"b": 0.1, "a": 0.9, "c": 0.5}, "other": {"a": 1.0}})
    assert seen == [({"a": 3}, ["a", "c"])]
    assert [scores[query]["own@2"] for query in ("q", "empty")] == [0.5, 0.0]


def test_the_deepest_metric_says_how_far_to_search(monkeypatch):
    assert deepest() == (100, "recall@100")
    monkeypatch.setitem(METRICS, "map", Metric("map", 1000))
    assert deepest() == (1000, "map")


def test_no_retrieval_at_all_scores_zero():
    assert score_run({"q": {"a": 1}}, {}) == {"q": {"ndcg@10": 0.0, "recall@100": 0.0}}


def test_the_mean_of_no_queries_is_an_error():
    with pytest.raises(UsageError, match="no judged query"):
        mean_scores({})


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    with pytest.raises(UsageError, match=r"pip install 'retrieval-mixture\[eval\]'"):
        score_run({"q": {"a": 1}}, {"q": {"a": 1.0}})

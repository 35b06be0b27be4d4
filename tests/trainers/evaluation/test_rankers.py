"""Rankers beside the dense one, worked by hand; and evaluation on kept embeddings, of several models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mixture.embeddings import Block
from mixture.errors import UsageError
from mixture.suites.suite import Suite
from trainers.evaluation.evaluate import score_suite
from trainers.evaluation.metrics import accuracy_depth, checked_metrics, metric_of
from trainers.evaluation.rankers import Best, Corpus, Facts, Fused, Lexical
from trainers.evaluation.search import nearest, nearest_by_blocks

pytest.importorskip("pytrec_eval")


def made(documents: dict[str, str], queries: dict[str, str], relevant: dict[str, str]) -> Suite:
    qrels = {query: {document: 1} for query, document in relevant.items()}
    corpus = [("", text) for text in documents.values()]
    return Suite("made", list(documents), corpus, list(queries), list(queries.values()), qrels)


class Fixed:
    """Ranks documents as it was told, by id."""

    def __init__(self, *rankings: list[str]) -> None:
        self.rankings = rankings

    def facts(self, suite: Suite) -> Facts:
        return Facts(similarity="fixed")

    def __call__(self, suite: Suite, documents: Corpus, top: int, progress: Any) -> Best:
        number = {key: n for n, key in enumerate(documents.ids(np.arange(len(documents))))}
        k = max(map(len, self.rankings))
        numbers = np.full((len(self.rankings), k), -1)
        for row, ids in enumerate(self.rankings):
            numbers[row, : len(ids)] = [number[key] for key in ids]
        numbers = numbers[:, :top]
        return Best(np.where(numbers < 0, -np.inf, -np.arange(numbers.shape[1])).astype(np.float32), numbers)


def test_documents_are_numbered_by_id_the_largest_first() -> None:
    suite = made({"b": "two", "é": "four", "a": "one", "c": "three"}, {"q": "x"}, {"q": "a"})
    corpus = Corpus(suite)
    assert corpus.ids(np.arange(4)) == ["é", "c", "b", "a"]
    assert list(corpus.texts_of(np.array([0, 3]))) == ["four", "one"]
    assert corpus.numbers.tolist() == [2, 0, 3, 1]


def test_bm25_finds_what_shares_words_and_nothing_else() -> None:
    documents = {"d1": "green tea leaves", "d2": "black coffee beans", "d3": "tea tea tea", "d4": "green paint"}
    suite = made(documents, {"q1": "green tea", "q2": "submarine"}, {"q1": "d1", "q2": "d2"})
    result = score_suite(Lexical(), suite)
    assert result.per_query["q1"]["ndcg@10"] == 1.0
    assert result.per_query["q2"] == {"ndcg@10": 0.0, "recall@100": 0.0}
    assert (result.similarity, result.prompt, result.precision) == ("bm25", None, None)


def test_equal_scores_of_bm25_rank_as_in_trec_eval() -> None:
    suite = made({"d1": "tea", "d3": "tea", "d2": "tea"}, {"q": "tea"}, {"q": "d2"})
    assert score_suite(Lexical(), suite, metrics=["mrr@10"]).metrics["mrr@10"] == 0.5


def test_fusion_adds_reciprocal_ranks() -> None:
    """a: 1/61 + 1/63; b: 1/62 + 1/61; c: 1/63 alone; d: 1/62 alone. So b, a, d, c."""
    suite = made({name: name for name in "abcd"}, {"q": "x"}, {"q": "d"})
    fused = Fused([Fixed(["a", "b", "c"]), Fixed(["b", "d", "a"])])
    best = fused(suite, Corpus(suite), 10, lambda done, total: None)
    assert Corpus(suite).ids(best.numbers[0]) == ["b", "a", "d", "c"]
    np.testing.assert_allclose(best.scores[0], [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62, 1 / 63], rtol=1e-6)
    result = score_suite(fused, suite, metrics=["mrr@10"])
    assert (result.metrics["mrr@10"], result.similarity) == (pytest.approx(1 / 3), "rrf of fixed and fixed")


def test_fused_equals_rank_by_id() -> None:
    suite = made({name: name for name in "ab"}, {"q": "x"}, {"q": "a"})
    best = Fused([Fixed(["a", "b"]), Fixed(["b", "a"])])(suite, Corpus(suite), 2, lambda done, total: None)
    assert Corpus(suite).ids(best.numbers[0]) == ["b", "a"]


def test_a_fused_score_does_not_hang_on_what_else_is_measured() -> None:
    """The answer is 5th here and 150th there; what is 40th to 49th in both is behind it, however deep one looks."""
    names = [f"d{n:03}" for n in range(200)]
    answer, both, rest = names[0], names[1:11], names[11:]
    rankings = [*rest[:4], answer, *rest[4:39], *both, *rest[39:]], [*rest[::-1][:39], *both, *rest[::-1][39:]]
    rankings[1].insert(149, answer)
    suite = made({name: name for name in names}, {"q": "x"}, {"q": answer})
    fused = Fused([Fixed(ranking) for ranking in rankings])
    few, many = score_suite(fused, suite), score_suite(fused, suite, metrics=["recall@200"])
    assert 0 < few.metrics["ndcg@10"] == many.metrics["ndcg@10"]


def test_a_document_that_is_not_ranked_costs_the_others_no_rank_in_a_fusion() -> None:
    suite = made({name: name for name in "abq"}, {"q": "x"}, {"q": "a"})
    fused = Fused([Fixed(["q", "a", "b"]), Fixed(["b", "a", "q"])])
    best = fused(suite, Corpus(suite), 3, lambda done, total: None)
    assert Corpus(suite).ids(best.numbers[0][:2]) == ["b", "a"] and best.numbers[0][2] == -1
    np.testing.assert_allclose(best.scores[0][:2], [1 / 61 + 1 / 62] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["mrr", "mrr@0", "ndcg@010", "foo@3", "map@99999", "accuracy", "accuracy@x", "accuracy@010", "accuracy@10001"],
)
def test_a_metric_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"`metrics` has .*; allowed: ndcg@K, recall@K, mrr@K"):
        checked_metrics([name])


def test_names_of_metrics() -> None:
    assert checked_metrics(["MRR@10", "accuracy@20"]) == ["mrr@10", "accuracy@20"]
    assert (accuracy_depth("accuracy@20"), accuracy_depth("mrr@20")) == (20, None)
    assert (metric_of("recall@7").depth, metric_of("recall@7").ordered, metric_of("map@7").ordered) == (7, False, True)


class Shuffled:
    """Vectors in blocks of three in no order."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors.astype(np.float32)

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[Block]:
        order = np.random.default_rng(1).permutation(len(self))
        for start in range(0, len(order), 3):
            yield Block(order[start : start + 3], self.vectors[order[start : start + 3]])


@pytest.mark.parametrize("k", [1, 7, 60])
def test_a_gpu_s_way_finds_what_a_cpu_s_does(k: int) -> None:
    """Whole numbers, so that scores are exact and many are tied."""
    rng = np.random.default_rng(3)
    sides = [Shuffled(rng.integers(-2, 3, (count, 3))) for count in (9, 40)]
    own, other = ([search(*sides, k, device=torch.device("cpu"), progress=lambda done, total: None)]
                  for search in (nearest, nearest_by_blocks))  # fmt: skip
    for cpu, gpu in zip(own[0], other[0], strict=True):
        np.testing.assert_array_equal(cpu, gpu)


def test_accuracy_is_whether_one_of_the_first_passages_holds_an_answer() -> None:
    documents = {"d1": "Goethe wrote Faust", "d2": "Faust is a drama", "d3": "tea", "d4": "Faust again"}
    suite = Suite("asked", list(documents), [("", text) for text in documents.values()], ["q1", "q2", "q3"], ["x"] * 3,
                  {"q1": {}, "q2": {}, "q3": {}},
                  answers={"q1": ["goethe"], "q2": ["drama", "tea"], "q3": ["Schiller"]},
                  metrics=("accuracy@1", "accuracy@3"))  # fmt: skip
    told = Fixed(["d2", "d1", "d3", "d4"], ["d2", "d1", "d3", "d4"], ["d1", "d2", "d3", "d4"])
    result = score_suite(told, suite, metrics=["mrr@10"])  # which only judged documents have
    assert result.per_query == {
        "q1": {"accuracy@1": 0.0, "accuracy@3": 1.0},
        "q2": {"accuracy@1": 1.0, "accuracy@3": 1.0},
        "q3": {"accuracy@1": 0.0, "accuracy@3": 0.0},
    }
    assert result.metrics == pytest.approx({"accuracy@1": 1 / 3, "accuracy@3": 2 / 3})


def test_documents_that_are_not_ranked_cost_no_place() -> None:
    documents = {f"d{n}": "tea" for n in range(6)}
    suite = made(documents, {"q": "tea"}, {"q": "d0"})
    excluded = Suite(**{**vars(suite), "excluded": {"q": [f"d{n}" for n in range(1, 6)]}})
    assert score_suite(Lexical(), suite, metrics=["mrr@10"]).metrics["mrr@10"] == pytest.approx(1 / 6)
    assert score_suite(Lexical(), excluded, metrics=["mrr@10"]).metrics["mrr@10"] == 1.0

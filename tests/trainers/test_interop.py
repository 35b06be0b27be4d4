"""What is trained here scores the same wherever it is loaded: sentence-transformers, mteb, peft."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import Suite
from trainers.evaluation.evaluate import evaluate_suite, prompt_for
from trainers.evaluation.metrics import mean_scores, score_run
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


def mteb_score(folder: Path, suite: Suite) -> tuple[float, float]:
    """nDCG@10 as mteb has it (to five digits), and of the ranking that mteb made (to all)."""
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (extra dev)")
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import SentenceTransformerEncoderWrapper

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

    # `mteb.get_model` asks the hub; a folder goes straight to the class that it would choose.
    model = SentenceTransformerEncoderWrapper(str(folder))
    result = mteb.evaluate(
        model, Local(), cache=None, co2_tracker=False, show_progress_bar=False, prediction_folder=folder / "mteb"
    )
    ranking = json.loads((folder / "mteb" / "LocalSuite_predictions.json").read_text())["default"]["test"]
    run = {query: {document: found[document] for document in found} for query, found in ranking.items()}
    return result.task_results[0].scores["test"][0]["ndcg_at_10"], mean_scores(score_run(suite.qrels, run))["ndcg@10"]


@pytest.mark.filterwarnings("ignore:.*(prompt|Task name).*:UserWarning")
def test_a_trained_model_scores_the_same_in_mteb(trained: Path, suite: Suite, tiny_model: Path) -> None:
    own = score(SentenceTransformer(str(trained)), suite)
    assert abs(own - score(SentenceTransformer(str(tiny_model)), suite)) > 1e-3, "the training changed nothing"
    rounded, theirs = mteb_score(trained, suite)
    assert theirs == pytest.approx(own, abs=1e-6)
    assert rounded == pytest.approx(own, abs=5.1e-6)


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

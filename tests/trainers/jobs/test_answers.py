"""A suite of answers has no nDCG@10: it scores a training, and what compares by nDCG@10 says so before it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

import trainers
from mixture import Store, UsageError, jobs
from mixture.materialised import MaterialisedMixture
from mixture.suites import tables
from mixture.suites.benchmarks import mkqa
from tests.suites.hub_cache import cached
from trainers.finetune import FinetuneSettings
from trainers.learning.config import LearningSettings

pytest.importorskip("pytrec_eval", reason="the extra eval is not installed")

SETTINGS = FinetuneSettings(steps=4, batch_size=12, negatives=2, evaluate_every=2, max_query_tokens=32,
                            max_passage_tokens=32, tracker="none")  # fmt: skip
NAME = "mkqa/th"


@pytest.fixture(autouse=True)
def asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_store: Store, mixture_data: MaterialisedMixture
) -> None:  # fmt: skip
    """Questions of MKQA, in both halves, and two mixtures."""
    monkeypatch.setenv("MIXTURE_SUITES", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tables.documents.cache_clear()
    answers = [{"en": [{"type": "entity", "text": f"answer {n}"}]} for n in range(8)]
    rows = [{"example_id": n, "queries": {"th": f"question {n}"}, "answers": own} for n, own in enumerate(answers)]
    cached(tmp_path / "cache", mkqa.QUESTIONS, {"mkqa.jsonl.gz": rows})
    documents = [{"_id": f"d{n}", "text": f"This is answer {n}."} for n in range(8)]
    cached(tmp_path / "cache", mkqa.PASSAGES, {"corpus.jsonl": documents})
    jobs.create(small_store, "other", collections=["hard"])


def test_it_scores_a_training_beside_others(
    small_store: Store, static_model: Path, tmp_path: Path, suite: Path
) -> None:
    made = trainers.train(small_store, "mix", static_model, out=tmp_path / "out", settings=SETTINGS,
                          suites=[NAME, suite])  # fmt: skip
    asked, judged = made.scores
    assert asked["metrics"] == {"accuracy@10": 1.0, "accuracy@100": 1.0}
    rows = small_store.rows("SELECT step, metric FROM evaluations WHERE suite = 'mkqa-th' ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [(step, metric) for step in (2, 4, None)
                                                     for metric in asked["metrics"]]  # fmt: skip
    ndcg, recall = (f"{100 * judged['metrics'][name]:.2f}" for name in ("ndcg@10", "recall@100"))
    card = (made.model / "README.md").read_text()
    assert "| mkqa-th | 8 | 8 | 100.00 | 100.00 |  |  |" in card
    assert f"|  |  | {ndcg} | {recall} |" in card


def best(store: Store, model: Path, folder: Path) -> Any:
    settings = replace(SETTINGS, final="best")
    return trainers.train(store, "mix", model, out=folder / "out", settings=settings, suites=NAME)


def verdict(store: Store, model: Path, folder: Path) -> Any:
    return trainers.verdict(store, "mix", "other", model, NAME, settings=SETTINGS)


def ablate(store: Store, model: Path, folder: Path) -> Any:
    return trainers.ablate(store, "mix", model, NAME, settings=SETTINGS)


def soup(store: Store, model: Path, folder: Path) -> Any:
    return trainers.soup([model, model], out=folder / "out", weights="dev", suites=NAME)


@pytest.mark.parametrize("job", [best, verdict, ablate, soup])
def test_what_compares_by_ndcg_refuses_it(
    job: Callable[..., Any], small_store: Store, static_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"`suite` has mkqa-th\S*, which says answers and has no nDCG@10"):
        job(small_store, static_model, tmp_path)
    assert not (tmp_path / "out").exists()


def test_it_is_no_target(small_store: Store, static_model: Path) -> None:
    asked = LearningSettings(algorithm="kmm", steps=4)
    with pytest.raises(UsageError, match="no query has a relevant document"):
        trainers.learn_weights(small_store, "mix", proxy=static_model, settings=asked, target=NAME)

"""Evaluation during training: it disturbs nothing, the best step is kept, the store and the card have the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import trainers
from mixture import Store, registry
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.suites.suite import Suite, load_suite
from tests.trainers.conftest import write_suite
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.scores import METRIC, Scores
from trainers.model.card import model_card
from trainers.model.encoder import load_encoder

pytest.importorskip("pytrec_eval", reason="the extra eval is not installed")

SETTINGS = FinetuneSettings(
    steps=9, batch_size=16, learning_rate=5e-3, temperature=0.05, negatives=1, max_query_tokens=80,
    max_passage_tokens=24, lora_rank=4, lora_dropout=0.3, tracker="none",
)  # fmt: skip


@pytest.fixture
def suite(tmp_path: Path, mixture_data: MaterialisedMixture) -> Path:
    return write_suite(mixture_data, tmp_path / "own", 20)


def _record(out: Path) -> Any:
    return json.loads((out / "training.json").read_text())


def test_training_ends_with_the_same_bits_with_and_without_evaluation(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path
) -> None:
    finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "without")
    often = replace(SETTINGS, evaluate_every=2)
    finetune(mixture_data, str(tiny_model), often, tmp_path / "with", suites=[load_suite(suite)])
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("without", "with"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert _record(tmp_path / "without")["losses"] == _record(tmp_path / "with")["losses"]
    assert {row["step"] for row in _record(tmp_path / "with")["evaluations"]} == {2, 4, 6, 8, 9}


def test_a_score_leaves_mode_and_random_state(tiny_model: Path, suite: Path) -> None:
    encoder = load_encoder(str(tiny_model)).train()
    state = torch.get_rng_state()
    scores = Scores([load_suite(suite)], SETTINGS)
    assert scores.score(encoder, 3).keys() == {f"{METRIC}/own"}
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_best_step_is_kept_or_becomes_the_model(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best step is an early one here, by a rate that spoils the model later."""
    spoiled = replace(SETTINGS, steps=12, evaluate_every=3, learning_rate=0.03, warmup_steps=0, checkpoint_every=5)
    suites = [load_suite(suite)]
    finetune(mixture_data, str(tiny_model), replace(spoiled, keep_best=True), tmp_path / "last", suites=suites)
    finetune(mixture_data, str(tiny_model), replace(spoiled, final="best"), tmp_path / "best", suites=suites)
    last, best = _record(tmp_path / "last"), _record(tmp_path / "best")
    values = {row["step"]: row["value"] for row in last["evaluations"] if row["metric"] == METRIC}
    wanted = max(values, key=lambda step: (values[step], -step))
    assert wanted < 12
    assert (last["final_step"], best["final_step"]) == (12, wanted)
    kept, final, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("last/best", "best", "last")
    )  # fmt: skip
    assert all(torch.equal(kept[name], final[name]) for name in kept)
    assert any(not torch.equal(kept[name], other[name]) for name in kept)
    for record, step in ((last, 12), (best, wanted)):
        (of_queries,) = record["query_scores"]
        assert fmean(of_queries["values"][METRIC].values()) == pytest.approx(values[step], abs=1e-12)
    assert sum(row["batches"] for row in best["drawn"]) == wanted  # what came later, the model has not seen
    again = Scores(suites, spoiled).score(load_encoder(str(tmp_path / "best"), max_tokens=24), 1)
    assert again[f"{METRIC}/own"] == pytest.approx(values[wanted], abs=1e-6)


def test_equal_scores_the_earlier_step_is_the_best() -> None:
    suite = Suite("s", ["d"], [("", "x")], ["q"], ["x"], {"q": {"d": 1}})
    scores = Scores([suite], SETTINGS)
    for step, values in ((3, (0.2, 0.4)), (6, (0.5, 0.1)), (9, (0.1, 0.1))):
        scores.rows += [
            {"step": step, "suite": s, "metric": METRIC, "value": v} for s, v in zip("ab", values, strict=True)
        ]
        scores.rows.append({"step": step, "suite": "a", "metric": "recall@100", "value": float(step)})
    assert scores.means == {3: pytest.approx(0.3), 6: pytest.approx(0.3), 9: pytest.approx(0.1)}
    assert scores.best == 3
    often = Scores([suite], replace(SETTINGS, evaluate_every=4))
    assert [step for step in range(1, 10) if scores.due(step)] == [9]
    assert [step for step in range(1, 10) if often.due(step)] == [4, 8, 9]
    assert not Scores([], SETTINGS).due(9)


@pytest.mark.parametrize("setting", [{"evaluate_every": 3}, {"keep_best": True}, {"final": "best"}])
def test_what_needs_a_suite_says_so(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="evaluate on: `suite`"):
        Scores([], replace(SETTINGS, **setting))
    with pytest.raises(UsageError, match="final is first; allowed: last, best"):
        replace(SETTINGS, final="first")


def test_the_store_knows_what_a_run_drew_and_scored(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path
) -> None:
    mixture, out = registry.resolve(small_store, "mix"), tmp_path / "out"
    settings = replace(SETTINGS, steps=24, batch_size=8, evaluate_every=12)

    def train() -> str:
        return trainers.train(small_store, mixture, tiny_model, settings=settings, out=out, suites=suite).run

    run = train()
    plan = BatchPlan(mixture.spec.weights, mixture_data.sizes, 8, 42, positives=mixture_data.positives())
    batches = [plan.batch(step) for step in range(24)]
    for row in small_store.rows("SELECT * FROM run_draws WHERE run_id = ?", [run]):
        own = [rows for name, rows in batches if name == row["collection"]]
        assert (row["batches"], row["examples_drawn"]) == (len(own), sum(map(len, own)))
        assert (row["num_examples"], row["epochs"]) == (40, len(own) * 8 / 40)
    times: dict[tuple[str, str], int] = {}
    for name, rows in batches:
        for number in rows:
            key = (name, mixture_data.components[name].example(int(number)).example_id)
            times[key] = times.get(key, 0) + 1
    seen = small_store.sql("FROM seen_by(?)", [run]).to_pylist()
    drawn = {name for name, _ in batches}
    assert len(seen) == 40 * len(drawn)
    assert all(row["as_many_rows_as_then"] for row in seen)
    for row in seen:
        assert row["at_least"] <= times.get((row["collection"], row["example_id"]), 0) <= row["at_most"]
    assert any(row["at_least"] for row in seen)
    average = {row["collection"]: row["on_average"] for row in seen}
    assert sum(average.values()) * 40 == pytest.approx(sum(times.values()))
    with pytest.raises(UsageError, match="run 'nobody' drew no rows"):
        small_store.sql("FROM seen_by('nobody')")
    query = "SELECT step, value FROM evaluations WHERE metric = 'ndcg@10' AND run_id = ? ORDER BY step NULLS LAST"
    rows = small_store.rows(query, [run])
    assert [row["step"] for row in rows] == [12, 24, None]
    assert rows[1]["value"] == rows[2]["value"]
    assert small_store.sql("SELECT value FROM newest_evaluations WHERE metric = 'ndcg@10'").num_rows == 1
    of_queries = small_store.rows("SELECT query_id, value FROM evaluation_queries WHERE metric = 'ndcg@10'")
    assert len({row["query_id"] for row in of_queries}) == len(of_queries) == 20
    assert fmean(row["value"] for row in of_queries) == pytest.approx(rows[2]["value"], abs=1e-12)
    # A kill between the model's last file and the store's record is made up for by the same call.
    small_store.transaction(lambda c: c.execute("UPDATE runs SET status = 'running'"))
    small_store.transaction(lambda c: c.execute("DELETE FROM run_draws"))
    assert train() == run
    assert small_store.rows("SELECT status FROM runs") == [{"status": "finished"}]
    assert small_store.rows("SELECT count(*) AS n FROM run_draws") == [{"n": 3}]


def test_the_card_says_what_the_model_saw_and_scored(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, suite: Path
) -> None:
    finetune(mixture_data, str(tiny_model), SETTINGS, tmp_path / "out", suites=[load_suite(suite)])
    card, record = ModelCard.load(tmp_path / "out" / "README.md"), _record(tmp_path / "out")
    assert {"sentence-transformers", "feature-extraction"} <= set(card.data.tags or ())
    assert (card.data.library_name, card.data.base_model) == ("sentence-transformers", None)  # a folder is no hub id
    assert card.data.datasets == ["easy", "hard", "middle"]
    results = {result.metric_name: result for result in card.data.eval_results or ()}
    value = next(row["value"] for row in record["evaluations"] if row["metric"] == METRIC)
    assert results[METRIC].metric_value == pytest.approx(value, abs=1e-5)
    assert results[METRIC].dataset_name == "own"
    for component, row in zip(mixture_data.spec.components, record["drawn"], strict=True):
        line = f"| {component.name} | {component.weight:.4f} | 1 | 40 | {row['examples_drawn']} | {row['epochs']:.2f} |"
        assert line + f" `{component.digest[:16]}` |" in card.text
    assert f"| own | 20 | {mixture_data.components['middle'].num_passages} | {100 * value:.2f} |" in card.text
    assert "| `learning_rate` | `0.005` |" in card.text
    assert record["mixture"]["id"] in card.text
    hub = model_card(record | {"model": "Qwen/Qwen1.5-0.5B", "evaluations": []})
    assert ModelCard(hub).data.base_model == "Qwen/Qwen1.5-0.5B"
    assert "## Evaluation" not in hub
    assert "It was trained without the store. No test suite was looked for" in hub
    counts = {"queries": 3, "passages": 2, "removed": 4, "remaining": 1}
    suite_row = {"suite": "nq_dev", "num_queries": 9, "num_passages": 8, "distance": 16, "passage_overlap": 0.5,
                 "found": counts, "collections": {"easy": counts}}  # fmt: skip
    searched = {"suites": [suite_row], "unchecked": {"old": "no such file or folder"}, "unread": ["far"],
                "mteb": ["HotpotQA", "NQ"]}  # fmt: skip
    told = model_card(record | {"contamination": searched})
    assert r"| nq\_dev | 3 of 9 | 2 of 8 | 4 | 1 | easy 4 / 1 | 16, 0.5 |" in told
    assert "Not looked for: old: no such file or folder." in told
    assert "Not searched: far." in told
    assert 'training_datasets={"HotpotQA", "NQ"}' in told

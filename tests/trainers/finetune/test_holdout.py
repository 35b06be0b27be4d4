"""Rows held out of a training: no batch draws them, their loss is InfoNCE by hand, it can pick the step."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import trainers
from mixture import Store, jobs, registry
from mixture.errors import UsageError
from mixture.holdout import hold_out
from mixture.materialised import MaterialisedMixture
from mixture.suites.suite import load_suite
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.holdout import HeldOut
from trainers.finetune.scores import METRIC, Scores
from trainers.jobs.folder import train_on_folder
from trainers.learning.target import NEGATIVES, held_out_set
from trainers.model.encoder import load_encoder
from trainers.model.template import PLAIN

SETTINGS = FinetuneSettings(
    steps=9, batch_size=8, learning_rate=0.02, temperature=0.05, negatives=1, max_query_tokens=40,
    max_passage_tokens=24, tracker="none", holdout=0.4, evaluate_every=3, checkpoint_every=4,
)  # fmt: skip


class Stopped(Exception):
    pass


def _record(out: Path) -> Any:
    return json.loads((out / "training.json").read_text())


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors") if (out / "model.safetensors").is_file() else load_file(
        out / "0_StaticEmbedding" / "model.safetensors")  # fmt: skip


def _same(one: Path, two: Path) -> bool:
    a, b = _weights(one), _weights(two)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_no_batch_draws_a_row_that_is_held_out(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path, drawn: Counter[str]
) -> None:
    settings = replace(SETTINGS, steps=60, evaluate_every=0)
    finetune(mixture_data, str(static_model), settings, tmp_path / "out")
    kept, out = hold_out(mixture_data, 0.4)
    left = {name for part in kept.components.values() for name in part.example_ids().to_pylist()}
    assert {part.num_examples for part in kept.components.values()} < set(range(12, 33))
    assert set(drawn) == left
    record = _record(tmp_path / "out")
    assert {row["collection"]: row["num_examples"] for row in record["drawn"]} == kept.sizes
    assert [row["step"] for row in record["held_out"]] == [0] * 3 + [60] * 3
    assert {row["collection"]: row["num_held_out"] for row in record["held_out"]} == {
        name: part.num_examples for name, part in out.items()
    }
    assert record["mixture"]["id"] == mixture_data.spec.id
    assert record["settings"]["holdout"] == 0.4


def test_the_loss_is_info_nce_by_hand(mixture_data: MaterialisedMixture, static_model: Path) -> None:
    _, out = hold_out(mixture_data, 0.4)
    encoder = load_encoder(str(static_model))
    held = HeldOut(out, encoder, SETTINGS, PLAIN)
    rows = held.losses(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in a training with bf16: scores stay float32
        assert held.losses(encoder) == rows
    assert [row["collection"] for row in rows] == list(out)
    for row in rows:
        part = out[row["collection"]]
        examples = [part.example(number) for number in range(part.num_examples)]
        passages = {n for one in examples for n in (*one.positives, *one.negatives)}
        assert (row["num_examples"], row["num_documents"]) == (len(examples), len(passages))
        made = held_out_set(row["collection"], part, PLAIN, 0)
        losses = []
        for one, places in zip(examples, made.candidates, strict=True):
            found = [made.documents[place] for place in places]
            own = [part.passage(n) for n in (*one.positives[:1], *one.negatives)]
            assert found[: len(own)] == own  # the positive first, then the row's own negatives
            assert len(found) == 1 + NEGATIVES and set(found) <= {part.passage(n) for n in passages}
            vectors = encoder.encode([one.query, *found], normalize_embeddings=True).astype(np.float64)
            scores = vectors[1:] @ vectors[0] / SETTINGS.temperature
            losses.append(math.log(sum(math.exp(score - scores[0]) for score in scores)))
        assert row["loss"] == pytest.approx(fmean(losses), abs=1e-4)


def test_an_equal_querys_answers_are_no_negatives(write_collection: Callable[..., Path], tmp_path: Path) -> None:
    from mixture import jobs
    from mixture.store.materialise import materialise

    rows = [{"query": query, "pos": [f"answer {i} of {query}"], "neg": []}
            for i, query in enumerate(["who is it", "Who is it?"] + [f"what is {n}" for n in range(20)])]  # fmt: skip
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with Store.open(tmp_path / "new", create=True) as store:
        jobs.ingest(store, str(tmp_path / "twice.jsonl"))
        parts = registry.pin(store)
        data = materialise(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)))
    part = data.components["twice"]
    made = held_out_set("twice", part, PLAIN, 0)
    both = [row for row, query in enumerate(made.queries) if query.lower().startswith("who is it")]
    assert len(both) == 2
    answers = {place for row in both for place in made.positives[row]}
    for row in both:
        assert not answers & set(made.candidates[row, 1:].tolist())


def test_training_is_that_on_the_rows_that_are_left(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path
) -> None:
    """To measure changes nothing; without `holdout` everything is as it was."""
    finetune(mixture_data, str(static_model), SETTINGS, tmp_path / "held out")
    kept, _ = hold_out(mixture_data, 0.4)
    plain = replace(SETTINGS, holdout=0.0, evaluate_every=0)
    finetune(kept, str(static_model), plain, tmp_path / "kept")
    assert _same(tmp_path / "held out", tmp_path / "kept")
    assert _record(tmp_path / "held out")["losses"] == _record(tmp_path / "kept")["losses"]
    finetune(mixture_data, str(static_model), plain, tmp_path / "whole")
    assert not _same(tmp_path / "whole", tmp_path / "kept")
    assert _record(tmp_path / "whole")["held_out"] == []


def test_the_lowest_loss_picks_the_step(mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path) -> None:
    """A rate that spoils the model later: the best step is an early one."""
    spoiled = replace(SETTINGS, steps=15, learning_rate=0.3, warmup_steps=0, final="best", keep_best=True)
    finetune(mixture_data, str(static_model), spoiled, tmp_path / "out")
    record = _record(tmp_path / "out")
    means = {
        step: fmean(row["loss"] for row in record["held_out"] if row["step"] == step) for step in (0, 3, 6, 9, 12, 15)
    }
    wanted = min(set(means) - {0}, key=lambda step: means[step])
    assert (record["final_step"], wanted < 15) == (wanted, True)
    assert _same(tmp_path / "out", tmp_path / "out" / "best")
    encoder = load_encoder(str(tmp_path / "out"), max_tokens=40)
    again = HeldOut(hold_out(mixture_data, 0.4)[1], encoder, spoiled, PLAIN).losses(encoder)
    assert fmean(row["loss"] for row in again) == pytest.approx(means[wanted], abs=1e-5)


def test_suites_pick_the_step_unless_the_settings_say_otherwise(suite: Path) -> None:
    def best(suites: list[Any], **changed: Any) -> int:
        scores = Scores(suites, replace(SETTINGS, **changed))
        for step, loss, score in ((0, 0.1, None), (3, 0.5, 0.6), (6, 0.4, 0.2), (9, 0.4, 0.3)):
            scores.losses += [{"step": step, "collection": name, "loss": loss + more}
                              for name, more in (("a", 0.1), ("b", -0.1))]  # fmt: skip
            if score is not None and suites:
                scores.rows.append({"step": step, "suite": "own", "metric": METRIC, "value": score})
        return scores.best

    loaded = [load_suite(suite)]
    assert best(loaded) == 3
    assert best(loaded, best_by="holdout") == 6
    assert best([]) == 6  # the earlier of equal ones, and never the model before training


def test_killed_and_called_again_it_ends_with_the_same_bits_and_losses(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, drawn: Counter[str]
) -> None:
    settings = replace(SETTINGS, lora_rank=4, lora_dropout=0.3, max_query_tokens=80, learning_rate=5e-3, final="best")
    finetune(mixture_data, str(tiny_model), settings, tmp_path / "whole")
    drawn.clear()

    def stop(done: int, total: int, line: str) -> None:
        if done == 7:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(mixture_data, str(tiny_model), settings, tmp_path / "parts", progress=stop)
    finetune(mixture_data, str(tiny_model), settings, tmp_path / "parts")
    whole, parts = (_record(tmp_path / name) for name in ("whole", "parts"))
    assert _same(tmp_path / "whole", tmp_path / "parts")
    assert whole["held_out"] == parts["held_out"]
    assert (whole["losses"], whole["final_step"]) == (parts["losses"], parts["final_step"])
    out = hold_out(mixture_data, 0.4)[1].values()
    assert not set(drawn) & {name for part in out for name in part.example_ids().to_pylist()}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"holdout": 0.9}, "holdout is 0.9; allowed: 0 to 0.5"),
        ({"holdout": 1.0}, "holdout is 1.0; allowed: 0 to 0.5"),
        ({"holdout": -1.0}, "holdout is -1.0; allowed: 0 to 0.5"),
        ({"holdout": math.nan}, "holdout is nan; allowed: 0 to 0.5"),
        ({"best_by": "loss"}, "best_by is loss; allowed: suites, holdout"),
        ({"best_by": "holdout", "holdout": 0.0}, "best_by is holdout; allowed: suites without holdout"),
    ],
)
def test_wrong_values_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SETTINGS, **changed)


def test_too_small_a_share_does_not_claim_the_folder(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no collection has 8 rows to hold out"):
        finetune(mixture_data, str(static_model), replace(SETTINGS, holdout=0.01), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_store_card_and_result_have_the_losses(
    small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path, suite: Path
) -> None:
    made = trainers.train(small_store, "mix", static_model, settings=SETTINGS, out=tmp_path / "out", suites=suite)
    record = _record(tmp_path / "out")
    values = {(row["collection"], row["step"]): row["loss"] for row in record["held_out"]}
    kept, out = hold_out(mixture_data, 0.4)
    assert [(row["collection"], row["first"], row["last"]) for row in made.held_out] == [
        (name, values[name, 0], values[name, 9]) for name in out
    ]
    assert {score["suite"] for score in made.scores} == {"suite"}
    query = "SELECT suite, step, value FROM evaluations WHERE metric = 'holdout_loss' AND run_id = ?"
    stored = small_store.rows(query, [made.run])
    assert {(row["suite"].removesuffix("/held out"), row["step"]): row["value"] for row in stored} == values
    newest = small_store.sql("SELECT DISTINCT suite FROM newest_evaluations").to_pylist()
    assert newest == [{"suite": "suite"}]  # a loss is no score
    assert jobs.contamination_statement(small_store, "mix").unchecked.keys() == {"suite"}
    seen = small_store.sql("FROM seen_by(?)", [made.run]).to_pylist()
    assert {row["example_id"] for row in seen} <= {
        name for part in kept.components.values() for name in part.example_ids().to_pylist()
    }
    assert seen and all(row["as_many_rows_as_then"] for row in seen)
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    for name, part in out.items():
        assert f"| {name} | {part.num_examples} | {part.num_examples} | {values[name, 0]:.4f} |" in card
    assert "--batches\nN --holdout 0.4`" in card
    assert "| `holdout` | `0.4` |" in card
    again = train_on_folder(mixture_data, static_model, out=tmp_path / "folder", settings=SETTINGS, suites=suite)
    assert (again.run, again.held_out) == (made.run, made.held_out)

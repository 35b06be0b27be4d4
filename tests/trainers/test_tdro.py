"""Learning weights: it does what the equations say, twice the same, and goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from mixture import MixtureError, Store, UsageError, jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers import jobs as trainer_jobs
from trainers.data import BatchSource
from trainers.encoder import load_encoder
from trainers.loop import TrainingLoop
from trainers.tdro.config import TdroSettings
from trainers.tdro.loop import _losses

SETTINGS = TdroSettings(
    steps=10, batch_size=12, learning_rate=5e-4, temperature=0.05, negatives=2, max_query_tokens=32,
    max_passage_tokens=32, checkpoint_every=4, weights_learning_rate=0.1,
)  # fmt: skip


def _history(store: Store) -> list[dict[str, object]]:
    return store.sql("SELECT * EXCLUDE run_id FROM weight_history ORDER BY step, collection").to_pylist()


def test_weights_follow_the_equations_and_the_history_has_every_step(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path
) -> None:
    mixture = registry.resolve(small_store, "mix")
    learned = trainer_jobs.learn(small_store, mixture, "tdro", str(tiny_model), str(tiny_model), SETTINGS)
    rows = _history(small_store)
    assert len(rows) == 10 * 3
    by_step = [[r for r in rows if r["step"] == s] for s in range(1, 11)]
    previous = dict.fromkeys(("easy", "hard", "middle"), 1 / 3)
    for step in by_step:
        assert sum(r["num_examples"] for r in step) == 12  # type: ignore[misc]
        assert sum(r["weight"] for r in step) == pytest.approx(1.0, abs=1e-12)  # type: ignore[misc]
        # Equation 4 on the measurements that the history tells.
        gradient = np.array([r["measurement"] or 0.0 for r in step])
        gradient = gradient / max(1.0, np.linalg.norm(gradient))
        raised = np.array(list(previous.values())) * np.exp(0.1 * gradient)
        assert [r["weight"] for r in step] == pytest.approx((raised / raised.sum()).tolist(), abs=1e-7)
        previous = {r["collection"]: r["weight"] for r in step}  # type: ignore[misc]
    assert learned.spec.weights == pytest.approx(previous, abs=1e-12)
    assert learned.parents == (mixture.spec.id,)
    # The first step's losses are of equal models: proxy and reference agree.
    for row in by_step[0]:
        if row["num_examples"]:
            assert row["proxy_loss"] == pytest.approx(row["reference_loss"], abs=1e-5)
    runs = small_store.sql("SELECT kind, status, result, config FROM runs").to_pylist()
    assert [(r["kind"], r["status"], r["result"]) for r in runs] == [("tdro", "finished", "tdro:1")]
    assert json.loads(runs[0]["config"])["weights_learning_rate"] == 0.1


def test_two_stores_learn_the_same_bits_with_a_reference_of_their_own(
    tmp_path: Path, write_collection: Callable[..., Path], tiny_model: Path
) -> None:
    found = []
    for name in ("one", "two"):
        with Store.open(tmp_path / name, create=True) as store:
            for collection in ("p", "q"):
                jobs.ingest(store, [str(write_collection(tmp_path / "raw", collection))])
            parts = registry.pin(store)
            mixture = registry.save(store, registry.weighted(parts, {"p": 1, "q": 1}), "mix")
            learned = trainer_jobs.learn(store, mixture, "tdro", str(tiny_model), None, SETTINGS)
            found.append((learned.spec.weights, _history(store)))
            references = list((store.root / "runs").glob("reference-*/model.safetensors"))
            assert len(references) == 1
    assert found[0] == found[1]


def test_a_finished_run_is_found_again(small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path) -> None:
    mixture = registry.resolve(small_store, "mix")
    first = trainer_jobs.learn(small_store, mixture, "tdro", str(tiny_model), str(tiny_model), SETTINGS)
    snapshot = small_store.snapshot()
    assert trainer_jobs.learn(small_store, mixture, "tdro", str(tiny_model), str(tiny_model), SETTINGS) == first
    assert small_store.snapshot() == snapshot
    other = trainer_jobs.learn(small_store, mixture, "other", str(tiny_model), str(tiny_model), SETTINGS)
    assert (other.spec, other.reference) == (first.spec, "other:1")


@pytest.mark.parametrize("average", ["mean", "ema"])
def test_other_averages_become_the_mixture(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, average: str
) -> None:
    mixture = registry.resolve(small_store, "mix")
    settings = replace(SETTINGS, average=average)
    learned = trainer_jobs.learn(small_store, mixture, average, str(tiny_model), str(tiny_model), settings)
    last = {r["collection"]: r[f"{average}_weight"] for r in _history(small_store) if r["step"] == 10}
    assert learned.spec.weights == pytest.approx(last, abs=1e-9)


SCRIPT = """
import sys, time
from mixture import Store, registry
from trainers import jobs
from trainers.data import BatchSource
from trainers.encoder import load_encoder
from trainers.loop import TrainingLoop
from trainers.tdro.config import TdroSettings
from trainers.tdro.loop import _losses
settings = eval(sys.argv[2])
def stage(name):
    def progress(done, total, line):
        print(name, done, flush=True)
        time.sleep(float(sys.argv[4]))
    return progress
with Store.open(sys.argv[1]) as store:
    jobs.learn(store, registry.resolve(store, "mix"), "tdro", sys.argv[3], None, settings, stage=stage)
"""


@pytest.mark.parametrize("kill_in", ["reference model 6", "tDRO 7"])
def test_killed_half_way_it_goes_on_and_ends_with_the_same_bits(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, kill_in: str
) -> None:
    small_store.close()
    shutil.copytree(small_store.root, tmp_path / "other")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "other"), repr(SETTINGS), str(tiny_model)]
    first = subprocess.Popen([*command, "0.2"], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for line in first.stdout:
        if line.strip() == kill_in:
            os.kill(first.pid, signal.SIGKILL)
            break
    first.wait()
    assert first.returncode == -signal.SIGKILL
    again = subprocess.run([*command, "0"], stdout=subprocess.PIPE, text=True, check=True)
    assert again.stdout.splitlines()[0] == kill_in[:-1] + "5"  # from the checkpoint of step 4
    whole = registry.resolve(small_store, "mix")
    learned = trainer_jobs.learn(small_store, whole, "tdro", str(tiny_model), None, SETTINGS)
    with Store.open(tmp_path / "other") as other:
        assert registry.resolve(other, "tdro").spec == learned.spec
        assert _history(other) == _history(small_store)
        assert other.sql("SELECT status FROM runs").to_pylist() == [{"status": "finished"}]


def test_collections_without_negatives_are_named(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "bare.jsonl").write_text('{"query": "a question", "pos": ["an answer"]}\n')
    with Store.open(tmp_path / "s", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "bare.jsonl")])
        mixture = registry.save(store, registry.weighted(registry.pin(store), {"bare": 1.0}), "mix")
        with pytest.raises(UsageError, match="no hard negatives in: bare; run `mixture mine`"):
            trainer_jobs.learn(store, mixture, "tdro", str(tiny_model), str(tiny_model), SETTINGS)


def test_wrong_values_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="average is nonsense; allowed: current, mean or ema"):
        replace(SETTINGS, average="nonsense")
    with pytest.raises(UsageError, match="measurement is excess; allowed: relative"):
        replace(SETTINGS, measurement="excess")


@pytest.mark.parametrize("bf16", [False, True])
def test_losses_are_float32_whatever_the_model_computes_in(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, bf16: bool
) -> None:
    """At the paper's temperature a loss in bf16 is off by a nat."""
    AcceleratorState._reset_state(True)  # one process keeps one precision
    settings = replace(SETTINGS, bf16=bf16, temperature=0.002)
    loop = TrainingLoop(load_encoder(str(tiny_model)), settings, tmp_path)
    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 12, 1)
    losses = _losses(loop, loop.encoder, BatchSource(mixture_data, plan, negatives=2).mixed(0))
    AcceleratorState._reset_state(True)
    assert losses.dtype == torch.float32
    assert losses.max() > 1  # there is something to lose precision on


def test_history_lost_between_checkpoint_and_store_is_written_on_the_next_call(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = registry.resolve(small_store, "mix")
    arguments = (small_store, mixture, "tdro", str(tiny_model), str(tiny_model), SETTINGS)

    def broken(*_: object) -> None:
        raise MixtureError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(MixtureError, match="disk is full"):
        patch.setattr(trainer_jobs, "_record_history", broken)
        trainer_jobs.learn(*arguments)
    assert small_store.sql("SELECT status FROM runs").to_pylist() == [{"status": "failed"}]
    trainer_jobs.learn(*arguments)
    assert len(_history(small_store)) == 10 * 3
    assert small_store.sql("SELECT status FROM runs").to_pylist() == [{"status": "finished"}]

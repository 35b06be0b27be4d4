"""Learning weights: it does what the equations say, twice the same, and goes on after a kill."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from rich.console import Console

import trainers
from mixture import MixtureError, Store, UsageError, jobs, registry
from mixture.console.learning import watching
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from tests.trainers.conftest import kill_at
from trainers.batch import embedding
from trainers.batch.texts import BatchSource
from trainers.jobs import learn
from trainers.learning.averages import drift, hard_for_both
from trainers.learning.config import LearningSettings
from trainers.learning.loop import Reference, run_learner
from trainers.loop.steps import TrainingLoop
from trainers.losses import info_nce
from trainers.model.encoder import load_encoder, load_for_training
from trainers.model.tiny import build_tiny

SETTINGS = LearningSettings(
    steps=10, batch_size=12, learning_rate=5e-4, temperature=0.05, negatives=2, max_query_tokens=32,
    max_passage_tokens=32, checkpoint_every=4, weights_learning_rate=0.1,
)  # fmt: skip


def _history(store: Store) -> list[dict[str, object]]:
    return store.sql("SELECT * EXCLUDE run_id FROM weight_history ORDER BY step, collection").to_pylist()


@pytest.mark.parametrize("alike", [True, False])
def test_a_reference_that_spells_alike_takes_the_tokens_of_the_proxy(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, alike: bool
) -> None:
    model = tiny_model
    if not alike:  # other pieces of words
        model = tmp_path / "model"
        build_tiny(mixture_data.components["easy"].texts(), model, seed=1, vocabulary=300, hidden=64)
    loop = TrainingLoop(load_for_training(str(tiny_model), SETTINGS), SETTINGS, tmp_path / "run")
    uniform = dict.fromkeys(mixture_data.sizes, 1 / 3)
    source = BatchSource(mixture_data, BatchPlan(uniform, mixture_data.sizes, 12, 42), negatives=2)
    reference = Reference(loop, str(model), tmp_path / "embeddings")
    plain = source.mixed(0)
    ready = loop.prepared(plain)
    made: list[str] = []
    whole = embedding.token_ids

    def noted(tokenizer: Any, limited: Any) -> Any:
        made.extend(text for text, _ in limited)
        return whole(tokenizer, limited)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "token_ids", noted)
        got = reference.losses(ready)
    assert bool(made) != alike
    again = Reference(loop, str(model), tmp_path / "others")
    assert torch.equal(got, again.losses(plain))


def test_weights_follow_the_equations_and_the_history_has_every_step(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path
) -> None:
    mixture = registry.resolve(small_store, "mix")
    learned = trainers.learn_weights(
        small_store, mixture, name="tdro", proxy=str(tiny_model), reference=str(tiny_model), settings=SETTINGS
    ).first
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
            learned = trainers.learn_weights(
                store, mixture, name="tdro", proxy=str(tiny_model), settings=SETTINGS
            ).first
            found.append((learned.spec.weights, _history(store)))
            references = list((store.work / "runs").glob("reference-*/model.safetensors"))
            assert len(references) == 1
    assert found[0] == found[1]


def test_a_finished_run_is_found_again(small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path) -> None:
    mixture = registry.resolve(small_store, "mix")
    first = trainers.learn_weights(
        small_store, mixture, name="tdro", proxy=str(tiny_model), reference=str(tiny_model), settings=SETTINGS
    )
    snapshot = small_store.snapshot()
    assert (
        trainers.learn_weights(
            small_store, mixture, name="tdro", proxy=str(tiny_model), reference=str(tiny_model), settings=SETTINGS
        )
        == first
    )
    assert small_store.snapshot() == snapshot
    other = trainers.learn_weights(
        small_store, mixture, name="other", proxy=str(tiny_model), reference=str(tiny_model), settings=SETTINGS
    ).first
    assert (other.spec, other.reference) == (first.first.spec, "other:1")
    assert len(small_store.rows("SELECT * FROM runs")) == 1


LEARN = """
import time
from mixture import Store, registry
import trainers
def stage(name):
    def progress(done, total, line):
        pipe.send((name, done))
        time.sleep(0.05)
    return progress
with Store.open(root) as store:
    trainers.learn_weights(store, "mix", proxy=model, reference=reference, settings=settings, stage=stage)
"""


@pytest.mark.parametrize(
    "kill_in", [pytest.param(("reference model", 6), marks=pytest.mark.slow), ("tDRO", 7)], ids=str
)
def test_killed_half_way_it_goes_on_and_ends_with_the_same_bits(
    start: Callable[..., Any], small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path,
    kill_in: tuple[str, int],
) -> None:  # fmt: skip
    small_store.close()
    shutil.copytree(small_store.work, tmp_path / "other")
    # Where the kill comes later, a given reference saves its training.
    reference = str(tiny_model) if kill_in[0] == "tDRO" else None
    names = {"root": tmp_path / "other", "model": str(tiny_model), "reference": reference, "settings": SETTINGS}
    kill_at(start, LEARN, names, kill_in)
    seen: list[tuple[str, int]] = []

    def stage(name: str) -> Callable[..., None]:
        return lambda done, total, line: seen.append((name, done))

    with Store.open(tmp_path / "other") as other:
        trainers.learn_weights(
            other,
            registry.resolve(other, "mix"),
            name="tdro",
            proxy=str(tiny_model),
            reference=reference,
            settings=SETTINGS,
            stage=stage,
        )
    begun = [place for place in seen if place[0] != "starting"]
    assert begun[0] == (kill_in[0], 5)  # from the checkpoint of step 4
    whole = registry.resolve(small_store, "mix")
    learned = trainers.learn_weights(
        small_store, whole, name="tdro", proxy=str(tiny_model), reference=reference, settings=SETTINGS
    ).first
    with Store.open(tmp_path / "other") as other:
        assert registry.resolve(other, "tdro").spec == learned.spec
        assert _history(other) == _history(small_store)
        kinds = ("tdro",) if reference else ("reference", "tdro")
        assert other.sql("SELECT kind, status FROM runs ORDER BY kind").to_pylist() == [
            {"kind": kind, "status": "finished"} for kind in kinds
        ]


def test_wrong_values_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="average is nonsense; allowed: current, mean, ema or all"):
        replace(SETTINGS, average="nonsense")
    with pytest.raises(UsageError, match="measurement is excces; allowed: relative"):
        replace(SETTINGS, measurement="excces")
    for worst_case in ({"algorithm": "chi2"}, {"algorithm": "cvar", "unit": "example"}):
        with pytest.raises(UsageError, match=r"average is current; allowed: mean, ema or all with (chi2|cvar), whose"):
            LearningSettings(average="current", **worst_case)
    assert LearningSettings(average="current", algorithm="cvar", unit="collection").averages == ("current",)


def test_the_floor_is_the_releases_share_of_the_mean_at_any_batch_size() -> None:
    """1e-4 of the 512 examples that the release gathers at a time."""
    assert LearningSettings(batch_size=2048).reference_floor == pytest.approx(2.5e-5)
    assert LearningSettings(batch_size=64).reference_floor == pytest.approx(8e-4)
    assert LearningSettings(batch_size=64, reference_floor=1e-4).reference_floor == 1e-4


@pytest.mark.parametrize("bf16", [False, True])
def test_losses_are_float32_whatever_the_model_computes_in(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, bf16: bool
) -> None:
    """At the paper's temperature a loss in bf16 is off by a nat."""
    AcceleratorState._reset_state(True)  # one process keeps one precision
    settings = replace(SETTINGS, bf16=bf16, temperature=0.002)
    loop = TrainingLoop(load_encoder(str(tiny_model)), settings, tmp_path)
    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 12, 1)
    batch = BatchSource(mixture_data, plan, negatives=2).mixed(0)
    losses = info_nce(*loop.embed_batch(loop.encoder, batch), temperature=settings.temperature)
    AcceleratorState._reset_state(True)
    assert losses.dtype == torch.float32
    assert losses.max() > 1  # there is something to lose precision on


def test_history_lost_between_checkpoint_and_store_is_written_on_the_next_call(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = registry.resolve(small_store, "mix")
    model = str(tiny_model)
    arguments = {"proxy": model, "reference": model, "settings": SETTINGS}

    def broken(*_: object) -> None:
        raise MixtureError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(MixtureError, match="disk is full"):
        patch.setattr(learn, "record_history", broken)
        trainers.learn_weights(small_store, mixture, **arguments)
    assert small_store.sql("SELECT status FROM runs").to_pylist() == [{"status": "failed"}]
    trainers.learn_weights(small_store, mixture, **arguments)
    assert len(_history(small_store)) == 10 * 3
    assert small_store.sql("SELECT status FROM runs").to_pylist() == [{"status": "finished"}]


def test_all_averages_become_mixtures_of_one_run(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path
) -> None:
    mixture, model = registry.resolve(small_store, "mix"), str(tiny_model)
    one = trainers.learn_weights(small_store, mixture, name="tdro", proxy=model, reference=model, settings=SETTINGS)
    # Another choice of average, or a smaller cache, finds the run and trains nothing.
    settings = replace(SETTINGS, average="all", reference_cache_mb=1)
    made = trainers.learn_weights(small_store, mixture, name="three", proxy=model, reference=model, settings=settings)
    assert [m.reference for m in made.mixtures] == ["three:1", "three-mean:1", "three-ema:1"]
    last = [r for r in _history(small_store) if r["step"] == 10]
    for saved, column in zip(made.mixtures, ("weight", "mean_weight", "ema_weight"), strict=True):
        assert saved.spec.weights == pytest.approx({r["collection"]: r[column] for r in last}, abs=1e-12)
    assert made.first.spec == one.first.spec
    ema = trainers.learn_weights(
        small_store, mixture, name="ema", proxy=model, reference=model, settings=replace(SETTINGS, average="ema")
    )
    assert [m.spec for m in ema.mixtures] == [made.mixtures[2].spec]
    assert small_store.rows("SELECT count(*) AS n FROM runs")[0]["n"] == 1


def test_seeds_share_the_reference_and_their_spread_is_stored(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path
) -> None:
    mixture = registry.resolve(small_store, "mix")
    made = trainers.learn_weights(
        small_store, mixture, name="s", proxy=str(tiny_model), settings=replace(SETTINGS, seeds=3)
    )
    rows = small_store.rows("SELECT run_id, kind, result, config FROM runs")
    assert sorted(r["kind"] for r in rows) == ["reference", "tdro", "tdro", "tdro", "tdro-seeds"]
    summary = next(r for r in rows if r["kind"] == "tdro-seeds")
    config = json.loads(summary["config"])
    assert (summary["result"], made.first.run_id) == ("s:1", summary["run_id"])
    seeds = {json.loads(r["config"])["seed"] for r in rows if r["run_id"] in config["runs"]}
    assert seeds == {42, 43, 44}
    found = small_store.sql(
        "SELECT collection, avg(weight) AS mean, stddev(weight) AS std FROM weight_history WHERE step = 10 GROUP BY ALL"
    ).to_pylist()
    for row in found:
        spread = config["spread"][row["collection"]]
        assert (spread["mean"], spread["std"]) == pytest.approx((row["mean"], row["std"]), abs=1e-12)
        assert made.first.spec.weights[row["collection"]] == pytest.approx(row["mean"], abs=1e-12)
        assert spread["std"] > 0
    assert made.first.note is not None
    assert "mean of 3 seeds, standard deviation up to 0." in made.first.note
    # One folder of the reference's embeddings, which the later seeds found filled.
    caches = list((small_store.work / "runs" / "reference-embeddings").iterdir())
    assert len(caches) == 1
    assert (
        trainers.learn_weights(
            small_store, mixture, name="s", proxy=str(tiny_model), settings=replace(SETTINGS, seeds=3)
        )
        == made
    )


@pytest.mark.parametrize(
    ("algorithm", "steps", "base"),
    [
        ("groupdro", 6, None), ("doremi", 6, None), ("cgd", 6, None), ("cvar", 6, None), ("chi2", 6, None),
        ("rb", 6, None), ("kl", 6, None), ("drpruning", 24, None),
        ("drpruning", 24, {"easy": 6.0, "hard": 1.0, "middle": 1.0}),
        ("forecast", 24, None),
    ],
)  # fmt: skip
def test_other_algorithms_learn_and_resume(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, algorithm: str,
    steps: int, base: dict[str, float] | None,
) -> None:  # fmt: skip
    kind = {"measurement": "forecast"} if algorithm == "forecast" else {"algorithm": algorithm}
    settings = replace(
        SETTINGS,
        weights_learning_rate=None,
        reference_floor=None,
        average=None,
        steps=steps,
        checkpoint_every=2,
        **kind,
        **({"refresh": 3} if algorithm == "rb" else {}),
    )
    model = str(tiny_model)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, line: str) -> None:
        if done == steps - 1:
            raise Stopped

    reference = model if algorithm == "doremi" else None
    rows: list[dict[str, object]] = []
    whole = run_learner(mixture_data, model, reference, settings, tmp_path / "a" / "run", base=base, record=rows.extend)
    with pytest.raises(Stopped):
        run_learner(mixture_data, model, reference, settings, tmp_path / "b" / "run", base=base, progress=stop)
    assert run_learner(mixture_data, model, reference, settings, tmp_path / "b" / "run", base=base) == whole
    assert sum(whole.weights["mean"].values()) == pytest.approx(1.0)
    assert max(whole.weights["mean"].values()) > 1 / 3 + 1e-4
    assert (rows[0]["reference_loss"] is None) == (reference is None)
    # What is forecast stands in the place of the reference's loss, once there is a curve.
    assert (rows[-1]["reference_loss"] is None) == (reference is None and not settings.forecasts)
    if base is not None:
        assert [row["weight"] for row in rows[:3]] == [0.75, 0.125, 0.125]
        assert whole.weights["mean"]["easy"] == pytest.approx(0.75, abs=0.1)
        assert whole.weights["mean"]["easy"] != 0.75


def test_floor_and_epoch_cap_hold_in_every_step_and_are_reported(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path
) -> None:
    # 40 examples each: 60 draws at most 0.5 times makes a cap of 1/3 + a bit; the floor is just under 1/3.
    settings = replace(SETTINGS, min_weight=0.32, max_epochs=0.505, epoch_budget=60)
    mixture = registry.resolve(small_store, "mix")
    made = trainers.learn_weights(
        small_store, mixture, name="bound", proxy=str(tiny_model), reference=str(tiny_model), settings=settings
    )
    rows = _history(small_store)
    assert all(0.32 - 1e-12 <= r["weight"] <= 0.505 * 40 / 60 + 1e-12 for r in rows)  # type: ignore[operator]
    facts = next(iter(made.facts["runs"].values()))
    assert facts["at_floor"] or facts["at_cap"]
    assert any("floor held up" in line or "epoch cap held down" in line for line in made.lines())
    with pytest.raises(UsageError, match="the caps sum to"):
        trainers.learn_weights(
            small_store,
            mixture,
            name="b",
            proxy=str(tiny_model),
            reference=str(tiny_model),
            settings=replace(settings, max_epochs=0.1),
        )
    with pytest.raises(UsageError, match="epoch_budget is 0"):
        replace(SETTINGS, max_epochs=2.0)


def _row(step: int, collection: str, weight: float, proxy: float, reference: float | None) -> dict[str, object]:
    return {"step": step, "collection": collection, "weight": weight, "proxy_loss": proxy,
            "reference_loss": reference, "num_examples": 4}  # fmt: skip


def test_weight_that_may_have_gone_to_noise_is_named(
    small_store: Store, mixture_data: MaterialisedMixture, tiny_model: Path
) -> None:
    start = dict.fromkeys(("easy", "hard", "noise"), 1 / 3)

    def rows(noise_weight: float, proxy: float = 1.4, reference: float | None = 1.0) -> list[dict[str, object]]:
        losses = {"easy": (0.3, 0.01), "hard": (1.2, 0.2), "noise": (proxy, reference)}
        weights = {"easy": 0.1, "hard": 0.9 - noise_weight, "noise": noise_weight}
        early = [_row(1, name, 1 / 3, 9.0, 9.0) for name in losses]  # before the reference's lead shows
        return early + [_row(4, n, weights[n], p, None if reference is None else r) for n, (p, r) in losses.items()]

    assert hard_for_both(rows(0.5), start) == {"noise": pytest.approx(1.4)}
    assert hard_for_both(rows(0.3), start) == {}  # it gained nothing
    assert hard_for_both(rows(0.5, reference=0.2), start) == {}  # the reference learned it
    assert hard_for_both(rows(0.5, reference=None), start) == {}

    mixture = registry.resolve(small_store, "mix")
    settings = replace(SETTINGS, algorithm="groupdro", weights_learning_rate=None, reference_floor=None, average=None)
    made = trainers.learn_weights(small_store, mixture, name="worst", proxy=str(tiny_model), settings=settings)
    assert "no reference was used" in made.lines()[-1]
    facts = made.facts | {"reference": True, "runs": {"r": {
        "drift": (0.0, 0.0), "at_floor": {}, "at_cap": {}, "hard_for_both": {"noise": 1.4}}}}  # fmt: skip
    assert "noise gained weight" in replace(made, facts=facts).lines()[-1]


def test_drift_compares_the_last_two_tenths() -> None:
    steady = [[0.5, 0.5]] * 60 + [[0.9, 0.1]] * 40
    assert drift(steady) == (0.0, 0.0)
    moving = [[0.5 + s / 400, 0.5 - s / 400] for s in range(100)]
    assert drift(moving) == pytest.approx((10 / 400, 10 / 400))
    assert drift([[0.5, 0.5]]) == (0.0, 0.0)


def test_the_live_table_shows_the_heaviest_on_a_terminal_only() -> None:
    rows = [
        {"step": 7, "collection": f"c{n:02}", "weight": n / 66, "mean_weight": 0.1, "proxy_loss": 1.5,
         "reference_loss": None, "num_examples": 1}
        for n in range(12)
    ]  # fmt: skip
    shown = io.StringIO()
    with watching(Console(file=shown, force_terminal=True, width=90)) as (stage, watch):
        progress = stage("tDRO")
        assert progress is not None
        assert watch is not None
        progress(7, 10, "")
        watch(rows)
    text = shown.getvalue()
    assert "step 7" in text
    assert "7/10" in text
    assert text.index("c11") < text.index("c10") < text.index("c02")
    assert "c01" not in text
    shown = io.StringIO()
    with watching(Console(file=shown, force_terminal=True, width=90)) as (stage, watch):
        stage("reference model")(7, 10, "")
    assert "reference model" in shown.getvalue()
    assert "uniform" not in shown.getvalue()  # no table before there are weights
    lines = io.StringIO()
    with watching(Console(file=lines)) as (stage, watch):
        stage("tDRO")(0, 0, "loading")
        stage("tDRO")(7, 10, "")
        assert watch is None
    assert lines.getvalue() == "tDRO: loading\n"

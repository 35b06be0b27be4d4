"""Learning weights over a store: what is asked before, which reference, which mixtures, what users are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import trainers
from mixture import MixtureError, Store, UsageError, jobs, registry, transfers
from mixture.materialised import MaterialisedMixture
from mixture.progress import silent
from mixture.registry import SavedMixture
from mixture.registry.gc import gc
from mixture.store import layout
from trainers.jobs import learn
from trainers.learning.config import LearningSettings
from trainers.learning.loop import Reference, run_learner
from trainers.loop.steps import TrainingLoop
from trainers.loop.stopping import Stopped
from trainers.model.encoder import load_encoder
from trainers.model.identity import model_identity
from trainers.model.template import DEFAULT_PROMPT, Template
from trainers.model.tiny import build_tiny

SHORT: dict[str, Any] = {"batch_size": 12, "temperature": 0.05, "negatives": 2, "max_query_tokens": 32,
                         "max_passage_tokens": 32}  # fmt: skip
SETTINGS = LearningSettings(**SHORT, steps=6, learning_rate=5e-4, checkpoint_every=2, weights_learning_rate=0.5)


@pytest.fixture
def mix(small_store: Store, mixture_data: MaterialisedMixture) -> SavedMixture:
    return registry.resolve(small_store, "mix")


def _runs(store: Store, kind: str) -> list[dict[str, Any]]:
    return store.rows(f"SELECT * FROM runs WHERE kind = '{kind}' ORDER BY started_at")


def _reference(store: Store) -> Path:
    (record,) = (store.work / "runs").glob("reference-*/training.json")
    return record.parent


def test_the_proxy_descends_with_the_weights_just_updated(
    small_store: Store, mix: SavedMixture, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equation 6 as the release has it: an example weighs its collection's new α over the batch's sum of these."""
    descended = []
    whole = TrainingLoop.descend

    def noted(loop: TrainingLoop, loss: torch.Tensor, batch: Any) -> None:
        descended.append(float(loss.detach()))
        whole(loop, loss, batch)

    monkeypatch.setattr(TrainingLoop, "descend", noted)
    trainers.learn_weights(
        small_store, mix, name="t", proxy=str(tiny_model), reference=str(tiny_model), settings=SETTINGS
    )
    history = small_store.sql("SELECT * FROM weight_history ORDER BY step").to_pylist()
    plain = []
    for step, loss in enumerate(descended, 1):
        rows = [r for r in history if r["step"] == step and r["num_examples"]]
        mass = [r["num_examples"] * r["weight"] for r in rows]
        assert loss == pytest.approx(sum(m * r["proxy_loss"] for m, r in zip(mass, rows, strict=True)) / sum(mass))
        plain.append(sum(r["num_examples"] * r["proxy_loss"] for r in rows) / 12)
    assert len(descended) == 6
    assert max(abs(a - b) for a, b in zip(descended, plain, strict=True)) > 1e-3


def test_the_reference_is_frozen_and_each_has_its_own_embeddings(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    loop = TrainingLoop(load_encoder(str(tiny_model)), SETTINGS, tmp_path / "loop")
    reference = Reference(loop, str(tiny_model), tmp_path / "cache").encoder
    assert not reference.training
    assert not any(parameter.requires_grad for parameter in reference.parameters())

    other = tmp_path / "other"
    build_tiny([f"the word{n} of the word{n + 1}" for n in range(200)], other, seed=5, vocabulary=500, hidden=64)

    def losses(model: Path, folder: Path) -> list[float]:
        rows: list[dict[str, Any]] = []
        run_learner(mixture_data, str(tiny_model), str(model), SETTINGS, folder, watch=rows.extend)
        return [row["reference_loss"] or 0.0 for row in rows]

    first = losses(tiny_model, tmp_path / "shared" / "one")
    second = losses(other, tmp_path / "shared" / "two")  # beside the embeddings of the first
    assert second == pytest.approx(losses(other, tmp_path / "alone" / "two"), abs=1e-5)
    assert second != pytest.approx(first, abs=1e-2)


def test_a_proxy_that_changed_gets_a_reference_of_its_own(
    small_store: Store, mix: SavedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    proxy = tmp_path / "proxy"
    shutil.copytree(tiny_model, proxy)
    trainers.learn_weights(small_store, mix, name="a", proxy=str(proxy), settings=SETTINGS)
    trainers.learn_weights(
        small_store, mix, name="b", proxy=str(tiny_model), settings=SETTINGS
    )  # the same model, elsewhere
    assert len(_runs(small_store, "reference")) == 1
    shutil.rmtree(proxy)
    build_tiny([Template().before_query(DEFAULT_PROMPT), "the capital of the north"] * 50, proxy, seed=9, hidden=64)
    trainers.learn_weights(small_store, mix, name="c", proxy=str(proxy), settings=SETTINGS)
    assert len(_runs(small_store, "reference")) == 2


def test_a_reference_that_the_store_did_not_record_is_recorded_on_the_next_call(
    small_store: Store, mix: SavedMixture, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MixtureError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(MixtureError, match="disk is full"):
        patch.setattr(learn, "record_training", broken)
        trainers.learn_weights(small_store, mix, name="t", proxy=str(tiny_model), settings=SETTINGS)
    trainers.learn_weights(small_store, mix, name="t", proxy=str(tiny_model), settings=SETTINGS)
    (run,) = _runs(small_store, "reference")
    assert run["status"] == "finished"
    assert len(small_store.rows(f"SELECT * FROM run_draws WHERE run_id = '{run['run_id']}'")) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t", {"min_weight": 0.4}, "the floor is 0.4"),
        ("t", {"max_epochs": 0.1, "epoch_budget": 60}, "the caps sum to"),
        ("a b", {}, "mixture name 'a b'"),
    ],
)
def test_what_cannot_work_is_said_before_the_reference_is_trained(
    small_store: Store, mix: SavedMixture, tiny_model: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        trainers.learn_weights(
            small_store, mix, name=name, proxy=str(tiny_model), settings=replace(SETTINGS, **options)
        )
    assert small_store.rows("SELECT * FROM runs") == []


def test_collections_without_negatives_are_named(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "bare.jsonl").write_text('{"query": "a question", "pos": ["an answer"]}\n')
    with Store.open(tmp_path / "s", create=True) as store:
        jobs.ingest(store, [str(tmp_path / "bare.jsonl")])
        mixture = registry.save(store, registry.weighted(registry.pin(store), {"bare": 1.0}), "mix")
        with pytest.raises(UsageError, match="no hard negatives in: bare; run `mixture mine`"):
            trainers.learn_weights(store, mixture, name="tdro", proxy=str(tiny_model), settings=SETTINGS)
        assert store.rows("SELECT * FROM runs") == []


def test_a_reference_that_nothing_uses_is_refused(small_store: Store, mix: SavedMixture, tiny_model: Path) -> None:
    model = str(tiny_model)
    for options, said in (({"algorithm": "groupdro"}, "groupdro uses"), ({"measurement": "loss"}, "tdro with measure")):
        with pytest.raises(UsageError, match=f"{said}.*leave `reference` out"):
            trainers.learn_weights(
                small_store, mix, name="t", proxy=model, reference=model, settings=LearningSettings(**SHORT, **options)
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "groupdro", "measurement": "excess"}, "measurement is excess; allowed: relative with groupdro"),
        (
            {"algorithm": "cvar", "weights_learning_rate": 0.1},
            "weights_learning_rate is 0.1; allowed: nothing with cvar",
        ),
        ({"algorithm": "doremi", "reference_floor": 0.1}, "reference_floor is 0.1; allowed: nothing with doremi"),
        ({"measurement": "loss", "reference_floor": 0.1}, "nothing with tdro and measurement=loss, which does not"),
        ({"smoothing": 0.5}, r"smoothing is 0.5; allowed: 0.001 with tdro, which does not read it \(doremi does\)"),
        (
            {"algorithm": "chi2", "weights_learning_rate": 0.1},
            r"nothing with chi2, which does not read it \(cgd, doremi, groupdro, tdro do\)",
        ),
        ({"algorithm": "cvar", "unit": "example", "newest": 0.5}, "newest is 0.5; allowed: 0.1 with cvar"),
        ({"epoch_budget": 100}, "epoch_budget is 100; allowed: 0 without max_epochs"),
        ({"weights_learning_rate": float("inf")}, "weights_learning_rate is inf; allowed: above 0"),
        ({"reference_floor": 0.0}, "reference_floor is 0.0; allowed: above 0 to below 1"),
    ],
)
def test_settings_that_nothing_reads_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LearningSettings(**options)


@pytest.mark.parametrize("measurement", ["relative_group", "excess", "loss"])
def test_every_measurement_drives_the_weights(
    small_store: Store, mix: SavedMixture, tiny_model: Path, measurement: str
) -> None:
    settings = LearningSettings(**SHORT, steps=4, measurement=measurement, weights_learning_rate=0.5)
    reference = None if measurement == "loss" else str(tiny_model)
    made = trainers.learn_weights(
        small_store, mix, name="t", proxy=str(tiny_model), reference=reference, settings=settings
    )
    assert len(_runs(small_store, "reference")) == 0
    history = small_store.sql("SELECT * FROM weight_history ORDER BY step, collection").to_pylist()
    first = [r for r in history if r["step"] == 1]
    by_measurement = sorted(first, key=lambda r: r["measurement"] or 0.0)
    assert by_measurement == sorted(first, key=lambda r: r["weight"])
    assert made.facts["reference"] == (reference is not None)


def test_weights_in_the_loss_are_left_behind(small_store: Store, mix: SavedMixture, tiny_model: Path) -> None:
    lossy = registry.save(small_store, transfers.loss_reweight(mix.spec), "lossy")
    plain = trainers.learn_weights(small_store, mix, name="a", proxy=str(tiny_model), settings=SETTINGS).first.spec
    made = trainers.learn_weights(small_store, lossy, name="b", proxy=str(tiny_model), settings=SETTINGS).first.spec
    assert {c.loss_weight for c in made.components} == {1.0}
    assert made == plain
    assert len(_runs(small_store, "reference")) == 1  # the same one


def test_all_averages_have_the_algorithms_own_first_and_each_its_spread(
    small_store: Store, mix: SavedMixture, tiny_model: Path
) -> None:
    settings = LearningSettings(**SHORT, steps=6, algorithm="chi2", average="all", seeds=2)
    made = trainers.learn_weights(small_store, mix, name="x", proxy=str(tiny_model), settings=settings)
    assert [m.reference for m in made.mixtures] == ["x:1", "x-ema:1"]  # the current weights are one batch's
    for average, saved in zip(("mean", "ema"), made.mixtures, strict=True):
        alone = trainers.learn_weights(
            small_store, mix, name=f"y{average}", proxy=str(tiny_model), settings=replace(settings, average=average)
        )
        assert saved.spec == alone.first.spec
        assert saved.note == alone.first.note
    assert made.mixtures[0].note != made.mixtures[1].note
    # What moves is looked at in the mean, too: a batch's own weights jump in every step.
    drifts = [facts["drift"][0] for facts in made.facts["runs"].values()]
    jumps = small_store.rows(
        "SELECT run_id, sum(abs(a.weight - b.weight)) / 2 AS moved FROM weight_history a JOIN weight_history b"
        " USING (run_id, collection) WHERE a.step = 6 AND b.step = 5 GROUP BY run_id"
    )
    assert max(drifts) < min(row["moved"] for row in jumps)


def test_a_small_collection_is_bound_by_its_cap_and_named_where_the_reference_repeats_it(
    tmp_path: Path, write_collection: Callable[..., Path], tiny_model: Path
) -> None:
    with Store.open(tmp_path / "s", create=True) as store:
        for name, rows in (("small", 10), ("large", 120)):
            jobs.ingest(store, [str(write_collection(tmp_path / "raw", name, rows))])
        mixture = registry.save(store, registry.weighted(registry.pin(store), {"small": 1, "large": 1}), "mix")
        settings = replace(SETTINGS, steps=20, max_epochs=1.0, epoch_budget=45, average="all")
        made = trainers.learn_weights(store, mixture, name="x", proxy=str(tiny_model), settings=settings)
        given = trainers.learn_weights(
            store, mixture, name="y", proxy=str(tiny_model), reference=str(tiny_model), settings=settings
        )
        configs = [json.loads(run["config"]) for run in _runs(store, "tdro")]
    # Equal weights, where the averages start from, are over the cap of the small one.
    assert len(made.mixtures) == 3
    for saved in made.mixtures:
        assert saved.spec.weights["small"] <= 10 / 45 + 1e-12
    # The reference took 20 batches of 12 rows, about half of them of each.
    assert list(made.facts["repeated"]) == ["small"]
    assert 4 < made.facts["repeated"]["small"] < 17
    assert configs[0]["repeated"] == made.facts["repeated"]
    assert any("went through small" in line and "by heart" in line for line in made.lines())
    assert given.facts["repeated"] == configs[1]["repeated"] == {}
    assert not any("by heart" in line for line in given.lines())


def test_a_run_with_an_adapter_as_reference_resumes_with_the_same_bits(
    small_store: Store, mix: SavedMixture, mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    """Loading an adapter draws random numbers; the proxy's dropout must not notice."""
    lora = replace(SETTINGS, lora_rank=4, lora_merge=False, lora_dropout=0.3)
    trainers.learn_weights(small_store, mix, name="t", proxy=str(tiny_model), settings=replace(lora, steps=2))
    reference = _reference(small_store)
    assert (reference / "adapter_config.json").is_file()

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, line: str) -> None:
        if done == 5:
            raise Stopped

    proxy = str(tiny_model)
    whole = run_learner(mixture_data, proxy, str(reference), lora, tmp_path / "a" / "run")
    with pytest.raises(Stopped):
        run_learner(mixture_data, proxy, str(reference), lora, tmp_path / "b" / "run", progress=stop)
    assert run_learner(mixture_data, proxy, str(reference), lora, tmp_path / "b" / "run") == whole


def test_transfers_from_weights_in_the_loss_are_refused(mix: SavedMixture) -> None:
    lossy = transfers.loss_reweight(mix.spec)
    acts: list[Callable[[], Any]] = [
        lambda: transfers.select_top(lossy, 70), lambda: transfers.temper(lossy, 2.0),
        lambda: transfers.with_floor(lossy, 0.1),
        lambda: transfers.reweight(mix.spec, lossy), lambda: transfers.reweight(lossy, mix.spec),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(UsageError, match=f"mixture {lossy.id} weighs the loss of 3 collections"):
            act()


def test_biases_and_norms_do_not_decay(tiny_model: Path, tmp_path: Path) -> None:
    loop = TrainingLoop(load_encoder(str(tiny_model)), SETTINGS, tmp_path)
    decay = {id(p): group["weight_decay"] for group in loop.optimizer.param_groups for p in group["params"]}
    named = [(n, p) for n, p in loop.encoder.named_parameters() if p.requires_grad]
    assert {decay[id(p)] for n, p in named if "norm" in n or n.endswith("bias")} == {0.0}
    assert {decay[id(p)] for n, p in named if "norm" not in n and n.endswith("weight")} == {0.1}
    assert len(decay) == len(named)


def test_an_adapter_is_known_by_its_base_too(
    small_store: Store, mix: SavedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    base, lora = tmp_path / "base", replace(SETTINGS, lora_rank=4, lora_merge=False, steps=2)
    shutil.copytree(tiny_model, base)
    trainers.learn_weights(small_store, mix, name="t", proxy=str(base), settings=lora)
    reference = _reference(small_store)
    before = model_identity(str(reference))
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}), "utf-8")
    assert model_identity(str(reference)) != before


def test_gc_leaves_what_an_unfinished_run_resumes_from_and_frees_the_embeddings_of_finished_ones(
    small_store: Store, mix: SavedMixture
) -> None:
    def stop(done: int, total: int, line: str) -> None:
        if done == 3:
            raise Stopped(done, 15)

    def stage(title: str) -> Any:
        return stop if title == "tDRO" else silent

    runs, settings = small_store.work / "runs", replace(SETTINGS, max_query_tokens=150)
    trainers.learn_weights(small_store, mix, name="other", proxy="tiny-qwen2", settings=replace(settings, steps=2))
    (finished,) = (runs / "reference-embeddings").iterdir()
    with pytest.raises(Stopped):
        trainers.learn_weights(small_store, mix, name="t", proxy="tiny-qwen2", settings=settings, stage=stage)
    (using,) = set((runs / "reference-embeddings").iterdir()) - {finished}
    assert _freed(small_store, "runs") == [finished]
    assert len(list(runs.glob("reference-*/model.safetensors"))) == 2
    trainers.learn_weights(small_store, mix, name="t", proxy="tiny-qwen2", settings=settings)
    assert _freed(small_store, "runs") == [using]
    # The tiny model is of a saved mixture's texts; of any others it would go.
    (tiny,) = layout.tiny_models(small_store.work)
    small_store.connection.execute("DELETE FROM mixtures")
    assert _freed(small_store, "models") == [tiny]


def _freed(store: Store, folder: str) -> list[Path]:
    paths = [store.work / thing.path for thing in gc(store)]
    return [path for path in paths if store.work / folder in path.parents]


def test_weights_stay_near_the_base_that_was_given(small_store: Store, mix: SavedMixture, tiny_model: Path) -> None:
    settings = LearningSettings(**SHORT, steps=24, algorithm="drpruning", learning_rate=5e-4, ball=0.01)
    trusted = registry.save(small_store, mix.spec.with_weights({"easy": 0.8, "hard": 0.1, "middle": 0.1}), "trusted")
    plain = trainers.learn_weights(small_store, mix, name="p", proxy=str(tiny_model), settings=settings)
    near = trainers.learn_weights(small_store, mix, name="n", proxy=str(tiny_model), base="trusted", settings=settings)
    assert plain.first.run_id != near.first.run_id
    for made, base in ((plain, dict.fromkeys(mix.spec.weights, 1 / 3)), (near, trusted.spec.weights)):
        found = made.first.spec.weights
        assert sum((found[c] - p) ** 2 / p for c, p in base.items()) / 2 <= 0.01
        assert found != pytest.approx(base, abs=1e-6)
    again = trainers.learn_weights(small_store, mix, name="n", proxy=str(tiny_model), base=trusted, settings=settings)
    assert again == near
    (config,) = (json.loads(r["config"]) for r in _runs(small_store, "tdro") if r["run_id"] == near.first.run_id)
    assert (config["base"], config["forecast"], config["reference"]) == ("trusted:1", True, None)
    # No reference was used, but what cannot be learned was not taken for hard; rows known by heart are said.
    assert near.facts["repeated"] == dict.fromkeys(("easy", "hard", "middle"), pytest.approx(24 * 12 / 3 / 40))
    assert "the proxy went through easy 2.4 times" in near.lines()[-1]


def test_a_base_of_other_collections_or_for_another_algorithm_is_refused(
    small_store: Store, mix: SavedMixture, tiny_model: Path
) -> None:
    model = str(tiny_model)
    with pytest.raises(UsageError, match="tdro stays near no mixture; leave `base` out, or take another `algorithm`"):
        trainers.learn_weights(small_store, mix, proxy=model, base=mix, settings=SETTINGS)
    chi2 = LearningSettings(**SHORT, steps=6, algorithm="chi2")
    parts = registry.pin(small_store, ["hard", "middle"])
    fewer = registry.save(small_store, registry.weighted(parts, dict.fromkeys(parts, 0.5)), "fewer")
    with pytest.raises(UsageError, match="`base` is fewer:1, of other collections than mix:1: it lacks easy"):
        trainers.learn_weights(small_store, mix, proxy=model, base="fewer", settings=chi2)
    with pytest.raises(UsageError, match="`base` is mix:1, of other collections than fewer:1: it has easy besides"):
        trainers.learn_weights(small_store, fewer, proxy=model, base=mix, settings=chi2)

"""Phases: streams of rows go on, one schedule, killed in either phase the same bits, all records say both mixtures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import trainers
from mixture import Store, jobs, registry
from mixture.errors import MixtureError, UsageError
from mixture.holdout import hold_out, hold_out_of_all
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.specs import MixtureSpec
from mixture.store.materialise import materialise
from tests.trainers.conftest import kill_at
from trainers.__main__ import app
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.identity import identity
from trainers.finetune.phases import Phases
from trainers.loop.steps import TrainingLoop

SETTINGS = FinetuneSettings(
    steps=10, batch_size=8, learning_rate=0.02, temperature=0.05, negatives=1, max_query_tokens=40,
    max_passage_tokens=24, tracker="none", checkpoint_every=4,
)  # fmt: skip
SEED = 7
# In a process of its own.
TRAIN = """
from pathlib import Path
from mixture.materialised import MaterialisedMixture
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.phases import Phases
phases = Phases.of([(MaterialisedMixture.open(Path(folder), mixture), steps) for mixture, steps in parts])
finetune(phases, model, FinetuneSettings(**settings), Path(out), progress=lambda n, _, __: pipe.send(n))
"""
Batches = list[tuple[str, list[int]]]


@pytest.fixture
def flat(small_store: Store, mixture_data: MaterialisedMixture) -> MaterialisedMixture:
    """Beside `mix` a mixture without `hard`, saved as `flat`, whose losses count three times."""
    parts = registry.pin(small_store, ["easy", "middle"])
    spec = registry.weighted(parts, {"easy": 0.5, "middle": 0.5})
    spec = MixtureSpec(tuple(replace(c, loss_weight=3.0) for c in spec.components))
    registry.save(small_store, spec, "flat")
    return materialise(small_store, spec)


def _batches(phases: Phases, batch_size: int = 8) -> Batches:
    plans = phases.plans(FinetuneSettings(batch_size=batch_size, seed=SEED))
    drawn = (plans[phases.at(step)].batch(step) for step in range(phases.steps))
    return [(name, rows.tolist()) for name, rows in drawn]


def _rows(batches: Batches) -> dict[str, list[list[int]]]:
    """The batches of each collection, in order."""
    found: dict[str, list[list[int]]] = {}
    for name, rows in batches:
        found.setdefault(name, []).append(rows)
    return found


def _record(out: Path) -> Any:
    return json.loads((out / "training.json").read_text())


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next(out.rglob("model.safetensors")))


def _same(one: Path, two: Path) -> bool:
    a, b = _weights(one), _weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("batch_size", [3, 8, 50])
def test_one_mixture_in_two_phases_draws_what_it_draws_in_one(
    mixture_data: MaterialisedMixture, batch_size: int
) -> None:
    parts = Phases.of([(mixture_data, 33), (mixture_data, 1), (mixture_data, 66)])
    whole = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, batch_size, SEED,
                      positives=mixture_data.positives())  # fmt: skip
    alone = [whole.batch(step) for step in range(100)]
    assert _batches(parts, batch_size) == [(name, rows.tolist()) for name, rows in alone]
    _, second, third = parts.plans(FinetuneSettings(batch_size=batch_size, seed=SEED))
    assert np.array_equal(third.batch(99)[1], alone[99][1])  # whatever was asked for before
    with pytest.raises(UsageError, match="step is 32; allowed: 33 or more"):
        second.batch(32)


def test_mixed_batches_go_on_where_the_phase_before_left_them(mixture_data: MaterialisedMixture) -> None:
    settings = FinetuneSettings(batch_size=10, seed=SEED, batching="mixed")
    parts = Phases.of([(mixture_data, 7), (mixture_data, 9)])
    first, second = parts.plans(settings)
    (whole,) = Phases.of([(mixture_data, 16)]).plans(settings)
    for step in (*range(16), 8, 7):
        plan = first if step < 7 else second
        for part, wanted in zip(plan.shared(step), whole.shared(step), strict=True):
            assert np.array_equal(part, wanted)
    with pytest.raises(UsageError, match="step is 6; allowed: 7 or more"):
        second.shared(6)


def test_a_collection_goes_on_where_the_phase_before_left_it(
    mixture_data: MaterialisedMixture, flat: MaterialisedMixture
) -> None:
    batches = _batches(Phases.of([(mixture_data, 40), (flat, 30), (mixture_data, 50)]))
    found = _rows(batches)
    for name, own in found.items():
        alone = BatchPlan({name: 1.0}, {name: 40}, 8, SEED,
                          positives={name: mixture_data.components[name].positives()})  # fmt: skip
        assert own == [alone.batch(step)[1].tolist() for step in range(len(own))]
        epochs = np.concatenate(own)[: 40 * (len(own) // 5)].reshape(-1, 40)
        assert all(sorted(epoch) == list(range(40)) for epoch in epochs.tolist())
    # The collections of a phase's steps are those that its mixture draws at these steps alone.
    for mixture, steps in ((mixture_data, range(40)), (flat, range(40, 70)), (mixture_data, range(70, 120))):
        plan = BatchPlan(mixture.spec.weights, mixture.sizes, 8, SEED)
        assert [batches[step][0] for step in steps] == [plan.batch(step)[0] for step in steps]


def test_rows_are_the_same_with_other_negatives_and_others_begin_anew(
    small_store: Store, mixture_data: MaterialisedMixture, write_collection: Callable[..., Path], tmp_path: Path,
    static_model: Path,
) -> None:  # fmt: skip
    def today() -> MaterialisedMixture:
        parts = registry.pin(small_store)
        return materialise(small_store, registry.weighted(parts, dict.fromkeys(parts, 1.0)))

    jobs.mine(small_store, ["easy", "middle"], per_query=1)
    mined = today()
    jobs.ingest(small_store, str(write_collection(tmp_path / "more", "middle", rows=9, seed=1)))
    grown = today()
    digests = [{c.name: c.digest for c in data.spec.components} for data in (mixture_data, mined, grown)]
    assert [len({one[name] for one in digests}) for name in ("easy", "middle", "hard")] == [2, 3, 1]
    phases = Phases.of([(mixture_data, 30), (mined, 30), (grown, 30)])
    assert phases.streams == ({"easy": 0, "middle": 0, "hard": 0},) * 2 + ({"easy": 0, "middle": 2, "hard": 0},)
    batches = _batches(phases)
    before, after = _rows(batches[:60]), _rows(batches[60:])
    for name in ("easy", "hard", "middle"):
        own = before[name] + (after[name] if name != "middle" else [])
        alone = BatchPlan({name: 1.0}, {name: 40}, 8, SEED,
                          positives={name: mixture_data.components[name].positives()})  # fmt: skip
        assert own == [alone.batch(step)[1].tolist() for step in range(len(own))]
    anew = BatchPlan({"middle": 1.0}, {"middle": 49}, 8, SEED,
                     positives={"middle": grown.components["middle"].positives()})  # fmt: skip
    assert after["middle"] == [anew.batch(step)[1].tolist() for step in range(len(after["middle"]))]

    saved = [registry.save(small_store, data.spec, f"phase{n}") for n, data in enumerate((mixture_data, mined, grown))]
    settings = replace(SETTINGS, seed=SEED)
    made = trainers.train(small_store, [(one, 30) for one in saved], static_model, settings=settings,
                          out=tmp_path / "out")  # fmt: skip
    rows = [(row["collection"], row["phases"], row["num_examples"], row["batches"], row["digest"])
            for row in _record(tmp_path / "out")["drawn"]]  # fmt: skip
    counts = [{name: len(own) for name, own in part.items()} for part in (before, after)]
    assert rows == [
        ("easy", [1, 2, 3], 40, counts[0]["easy"] + counts[1]["easy"], digests[2]["easy"]),
        ("hard", [1, 2, 3], 40, counts[0]["hard"] + counts[1]["hard"], digests[2]["hard"]),
        ("middle", [1, 2], 40, counts[0]["middle"], digests[1]["middle"]),
        ("middle", [3], 49, counts[1]["middle"], digests[2]["middle"]),
    ]
    seen = small_store.rows("SELECT * FROM run_draws WHERE run_id = ?", [made.run])
    assert sorted(row["batches"] for row in seen) == sorted(row[3] for row in rows)
    seen = small_store.sql("FROM seen_by(?) WHERE collection = 'middle'", [made.run]).to_pylist()
    assert len({row["example_id"] for row in seen}) == len(seen) == 49
    old = set(mixture_data.components["middle"].example_ids().to_pylist())
    drawn = Counter[str]()
    for part, own in ((mined, before["middle"]), (grown, after["middle"])):
        drawn.update(part.components["middle"].example(row).example_id for own_rows in own for row in own_rows)
    for row in seen:
        if row["example_id"] in old:
            assert row["at_least"] <= drawn[row["example_id"]] <= row["at_most"]
    assert not any(row["as_many_rows_as_then"] for row in seen)  # 40 of then are not to be told from 49 of today


def test_two_phases_of_one_mixture_train_to_the_bits_of_one(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the extra track is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings, said = replace(SETTINGS, tracker="tensorboard"), []
    finetune(mixture_data, str(static_model), settings, tmp_path / "one")
    phases = Phases.of([(mixture_data, 6), (mixture_data, 4)])
    finetune(phases, str(static_model), replace(settings, steps=99), tmp_path / "two",
             progress=lambda n, total, text: said.append((n, total, text.split(",")[0])))  # fmt: skip
    assert _same(tmp_path / "one", tmp_path / "two")
    one, two = _record(tmp_path / "one"), _record(tmp_path / "two")
    assert [phase["steps"] for phase in two.pop("phases")] == [6, 4]
    assert {row.pop("phases") == [1, 2] for row in two["drawn"]} == {True}
    assert one.pop("run_id") != two.pop("run_id")
    assert one == two
    assert said == [(n, 10, f"phase {1 + (n > 6)} of 2") for n in range(1, 11)]
    curves = []
    for name in ("one", "two"):
        (folder,) = (tmp_path / name / "logs").iterdir()
        curves.append(EventAccumulator(str(folder)))
        curves[-1].Reload()
    rates = [[event.value for event in one.Scalars("learning rate")] for one in curves]
    assert rates[0] == rates[1] and rates[1][6] < rates[1][5]
    assert [event.value for event in curves[1].Scalars("phase")] == [1] * 6 + [2] * 4
    assert "phase" not in curves[0].Tags()["scalars"]


def test_one_phase_is_the_plain_run(mixture_data: MaterialisedMixture, static_model: Path) -> None:
    plain = identity(mixture_data, str(static_model), SETTINGS)
    assert identity(Phases.of([(mixture_data, 10)]), str(static_model), replace(SETTINGS, steps=3)) == plain


def test_each_order_and_length_of_phases_is_another_run(
    mixture_data: MaterialisedMixture, flat: MaterialisedMixture, static_model: Path
) -> None:
    runs = [
        identity(Phases.of(parts), str(static_model), SETTINGS)
        for parts in (
            [(mixture_data, 6), (flat, 4)], [(flat, 4), (mixture_data, 6)], [(mixture_data, 5), (flat, 5)],
            [(mixture_data, 10)], [(mixture_data, 5), (mixture_data, 5)], [(flat, 10)],
        )
    ]  # fmt: skip
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("model", ["static_model", "tiny_model"])
def test_killed_in_either_phase_it_ends_with_the_same_bits(
    start: Callable[..., Any], mixture_data: MaterialisedMixture, flat: MaterialisedMixture, tmp_path: Path,
    model: str, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    # Moments: within phase 1, where it has ended and its checkpoint is the newest, within phase 2.
    settings = replace(SETTINGS, checkpoint_every=3, learning_rate=2e-3 if model == "tiny_model" else 0.02)
    base = str(request.getfixturevalue(model))
    parts = [(mixture_data.spec.id, 6), (flat.spec.id, 8)]
    names = {"folder": str(mixture_data.folder), "parts": parts, "model": base, "settings": asdict(settings),
             "out": str(tmp_path / "parts")}  # fmt: skip
    for moment in (5, 6, 11):
        kill_at(start, TRAIN, names, moment)
        assert (tmp_path / "parts" / "checkpoints").is_dir()
    phases = Phases.of([(mixture_data, 6), (flat, 8)])
    seen: list[int] = []
    finetune(phases, base, settings, tmp_path / "parts", progress=lambda n, _, __: seen.append(n))
    assert seen[0] > 6 and seen[-1] == 14
    finetune(phases, base, settings, tmp_path / "whole")
    assert _same(tmp_path / "whole", tmp_path / "parts")
    assert _record(tmp_path / "whole") == _record(tmp_path / "parts")
    assert {row["collection"] for row in _record(tmp_path / "whole")["losses"][6:]} == {"easy", "middle"}


def test_a_loss_weight_is_that_of_its_phase_and_is_no_explosion(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = next(c for c in mixture_data.spec.components if c.name == "easy")
    quiet, loud = (
        replace(mixture_data, spec=MixtureSpec((replace(part, weight=1.0, loss_weight=weight),)),
                components={"easy": mixture_data.components["easy"]})
        for weight in (1.0, 300.0)
    )  # fmt: skip
    settings = replace(SETTINGS, learning_rate=1e-6)
    finetune(Phases.of([(quiet, 12), (loud, 12)]), str(static_model), settings, tmp_path / "out")
    losses = [row["loss"] for row in _record(tmp_path / "out")["losses"]]
    finetune(quiet, str(static_model), replace(settings, steps=24), tmp_path / "plain")
    plain = [row["loss"] for row in _record(tmp_path / "plain")["losses"]]
    assert losses[:12] == plain[:12]
    assert losses[12:] == pytest.approx([300 * loss for loss in plain[12:]], rel=1e-3)
    monkeypatch.setattr(TrainingLoop, "begin_phase", lambda self: None)
    with pytest.raises(MixtureError, match="the loss exploded"):
        finetune(Phases.of([(quiet, 12), (loud, 12)]), str(static_model), settings, tmp_path / "watched")


def test_rows_held_out_are_so_in_all_phases(
    small_store: Store, mixture_data: MaterialisedMixture, flat: MaterialisedMixture, static_model: Path,
    tmp_path: Path, drawn: Counter[str],
) -> None:  # fmt: skip
    settings = replace(SETTINGS, holdout=0.4)
    made = trainers.train(small_store, [("flat", 20), ("mix", 40)], static_model, settings=settings,
                          out=tmp_path / "out")  # fmt: skip
    kept, out = hold_out(mixture_data, 0.4)
    assert set(drawn) == {name for part in kept.components.values() for name in part.example_ids().to_pylist()}
    assert {row["collection"]: row["held_out"] for row in made.held_out} == {
        name: part.num_examples for name, part in out.items()
    }
    record = _record(tmp_path / "out")
    assert {row["collection"]: row["num_examples"] for row in record["drawn"]} == kept.sizes
    seen = small_store.sql("FROM seen_by(?)", [made.run]).to_pylist()
    assert {row["example_id"] for row in seen} == set(drawn)
    assert all(row["at_least"] <= drawn[row["example_id"]] <= row["at_most"] for row in seen)
    values = small_store.rows("SELECT DISTINCT mixture FROM evaluations WHERE metric = 'holdout_loss'")
    assert values == [{"mixture": None}]


def test_a_component_with_few_rows_to_hold_out_does_so_where_it_holds_some_out_in_another_phase(
    mixture_data: MaterialisedMixture,
) -> None:
    part = mixture_data.components["easy"]
    few = replace(
        mixture_data, components=mixture_data.components | {"easy": part.only(np.arange(40) < 15)}
    )  # fmt: skip
    alone, out = hold_out(few, 0.4)
    assert "easy" not in out and alone.sizes["easy"] == 15
    (_, both), _ = hold_out_of_all([mixture_data, few], 0.4)
    left = set(both.components["easy"].example_ids().to_pylist())
    assert left == set(few.components["easy"].example_ids().to_pylist()) - set(
        hold_out(mixture_data, 0.4)[1]["easy"].example_ids().to_pylist()
    )
    assert len(left) < 15


def test_store_card_and_result_say_both_mixtures(
    small_store: Store, mixture_data: MaterialisedMixture, flat: MaterialisedMixture, static_model: Path,
    tmp_path: Path, suite: Path,
) -> None:  # fmt: skip
    ids = mixture_data.spec.id, flat.spec.id
    given = {"settings": replace(SETTINGS, steps=1), "suites": suite, "out": tmp_path / "out"}
    made = trainers.train(small_store, [("mix", 6), ("flat", 4)], static_model, **given)
    by_id = [{"mixture": ids[0], "steps": 6}, {"mixture": ids[1], "steps": 4}]
    assert (made.mixture, made.steps, list(made.phases)) == (None, 10, by_id)
    (run,) = small_store.rows("SELECT * FROM runs")
    config = json.loads(run["config"])
    assert (run["run_id"], run["status"], run["mixture"]) == (made.run, "finished", None)
    assert (config["steps"], config["phases"]) == (10, by_id)
    assert small_store.rows("SELECT DISTINCT mixture, run_id FROM evaluations") == [
        {"mixture": None, "run_id": made.run}
    ]
    record = _record(tmp_path / "out")
    assert record["mixture"] is None
    assert [(one["mixture"]["id"], one["steps"]) for one in record["phases"]] == [(ids[0], 6), (ids[1], 4)]
    batches = Counter(row["collection"] for row in record["losses"])
    draws = small_store.rows("SELECT collection, batches FROM run_draws")
    assert {row["collection"]: row["batches"] for row in draws} == {
        name: batches[name] for name in ("easy", "middle", "hard")
    }
    statement = record["contamination"]
    assert statement["mixture"] == ", ".join(ids)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert f"on the mixture `{ids[0]}` for 6 steps, then on the mixture `{ids[1]}` for 4 steps (run" in card.text
    assert "| collection | weight, phase 1 | weight, phase 2 | loss weight |" in card.text
    assert "| hard | 0.2000 | 0 | 1 | 40 |" in card.text
    assert "| easy | 0.5000 | 0.5000 | 1, 3 | 40 |" in card.text
    assert sorted(card.data.datasets) == ["easy", "hard", "middle"]
    again = trainers.train(small_store, [("mix", 6), ("flat", 4)], static_model, **given)
    assert again.finished_at is not None and again.phases == made.phases
    with pytest.raises(UsageError, match="another finished model"):
        trainers.train(small_store, [("mix", 5), ("flat", 5)], static_model, **given)
    (scored,) = trainers.evaluate(small_store, tmp_path / "out", suite)
    assert scored.row["suite"] == "suite"
    assert small_store.rows("SELECT DISTINCT mixture FROM evaluations") == [{"mixture": None}]
    halves = trainers.soup([tmp_path / "out", tmp_path / "out"], out=tmp_path / "soup")
    assert halves.mixture is None
    assert f"`{ids[0]}` for 6 steps, then `{ids[1]}` for 4 steps" in (tmp_path / "soup" / "README.md").read_text()


def test_the_best_step_may_lie_in_the_first_phase_and_the_card_says_so(
    mixture_data: MaterialisedMixture, flat: MaterialisedMixture, static_model: Path, tmp_path: Path
) -> None:
    loud = MixtureSpec(tuple(replace(c, loss_weight=1e6) for c in flat.spec.components))
    settings = replace(SETTINGS, holdout=0.4, evaluate_every=3, final="best", learning_rate=0.5, warmup_steps=0)
    spoiling = replace(flat, spec=loud)
    finetune(Phases.of([(mixture_data, 6), (spoiling, 6)]), str(static_model), settings, tmp_path / "out")
    record = _record(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    step = record["final_step"]
    assert sum(row["batches"] for row in record["drawn"]) == step
    told = card.split("fine-tuned ")[1].split(" (run")[0]
    first = f"on the mixture `{mixture_data.spec.id}`"
    assert told == (
        first if step <= 6 else f"{first} for 6 steps, then on the mixture `{loud.id}` for {step - 6} steps"
    )


def test_a_folder_trains_in_phases_to_the_same_run(
    small_store: Store, mixture_data: MaterialisedMixture, flat: MaterialisedMixture, static_model: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    phases, folder = [(mixture_data, 3), (flat, 2)], str(mixture_data.folder)
    made = trainers.train_on_folder(phases, static_model, out=tmp_path / "out", settings=SETTINGS)
    again = trainers.train(small_store, [("mix", 3), ("flat", 2)], static_model, out=tmp_path / "again",
                           settings=SETTINGS)  # fmt: skip
    assert (made.run, made.phases) == (again.run, again.phases)
    assert _same(tmp_path / "out", tmp_path / "again")
    asked = [folder, "--model", str(static_model), "--out", str(tmp_path / "out"), "--json"]
    for name, value in asdict(SETTINGS).items():
        if value != getattr(FinetuneSettings(), name) and name != "steps":
            asked += ["--set", f"{name}={value}"]
    asked += ["--phase", f"{mixture_data.spec.id}:3", "--phase", f"{flat.spec.id[:6]}:2"]
    app(asked, standalone_mode=False)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["finished_at"] is not None) == (made.run, True)
    with pytest.raises(UsageError, match="leave `steps` out"):
        app([*asked, "--steps", "5"], standalone_mode=False)


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([], "there is no phase"),
        (["mix"], "a phase is 'mix'; it must be (mixture, steps)"),
        ([("mix", 0)], "with 1 step or more"),
        ([("mix", 3.0)], "with 1 step or more"),
        ([("mix", 3), ("flatt", 3)], "did you mean 'flat'"),
    ],
)
def test_mistakes(
    small_store: Store, flat: MaterialisedMixture, static_model: Path, tmp_path: Path, phases: Any, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        trainers.train(small_store, phases, static_model, out=tmp_path / "out", settings=SETTINGS)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_hard_only_may_name_a_collection_of_one_phase(
    mixture_data: MaterialisedMixture, flat: MaterialisedMixture, static_model: Path, tmp_path: Path
) -> None:
    phases = Phases.of([(flat, 2), (mixture_data, 2)])
    finetune(phases, str(static_model), replace(SETTINGS, hard_only=("hard",)), tmp_path / "out")
    with pytest.raises(UsageError, match="did you mean 'hard'"):
        finetune(phases, str(static_model), replace(SETTINGS, hard_only=("hadr",)), tmp_path / "other")

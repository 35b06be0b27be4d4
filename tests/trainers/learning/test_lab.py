"""The lab: branches and their sums are what they say, what was done is found again, a kill changes no bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from tests.trainers.conftest import kill_at
from trainers.finetune.config import FinetuneSettings
from trainers.learning import kept
from trainers.learning.lab import Branching, BranchPlan, Lab
from trainers.learning.target import Target, held_out_set
from trainers.model.adapters import merge_lora
from trainers.model.template import template_of

SETTINGS = FinetuneSettings(steps=9, batch_size=8, learning_rate=1e-2, temperature=0.05, negatives=2,
                            max_query_tokens=32, max_passage_tokens=32)  # fmt: skip
BRANCHING = Branching(steps=4)
TRANSFORMER = replace(SETTINGS, learning_rate=1e-3, tokens_kept=4096)


@pytest.fixture
def make(mixture_data: MaterialisedMixture, tmp_path: Path) -> Callable[..., Lab]:
    """`make(model, settings=…, folder=…, shared=…)`: a lab over easy, hard and middle; its target is rows of middle."""

    def made(model: Path, settings: FinetuneSettings = SETTINGS, **given: Any) -> Lab:
        template = template_of(str(model), settings)
        part = mixture_data.components["middle"]
        base = given.pop("base", {"easy": 0.5, "middle": 0.3, "hard": 0.2})
        return Lab(
            mixture_data, str(model), settings, base,
            lambda encoder: Target([held_out_set("middle", part, template, 1)], encoder, settings),
            given.pop("folder", tmp_path / "run"), given.pop("shared", tmp_path / "branches"), **given,
        )  # fmt: skip

    return made


def _equal(one: kept.Weights, other: kept.Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _one(place: int) -> np.ndarray:
    return np.eye(3)[place]


def test_a_merge_of_one_branch_alone_is_the_trunk_with_that_branch(
    make: Callable[..., Lab], static_model: Path
) -> None:
    lab = make(static_model)
    trunk, branches = lab.trunk(BRANCHING), [lab.branch(BRANCHING, name) for name in lab.names]
    assert all(any(bool(change.any()) for change in branch.values()) for branch in branches)
    assert not _equal(branches[0], branches[1])
    for place, branch in enumerate(branches):
        whole = {name: trunk[name] + branch[name] for name in trunk}
        alone, merged = lab.measure(whole), lab.merged(BRANCHING, _one(place))
        assert alone.loss.tolist() == merged.loss.tolist()
        assert alone.ndcg.tolist() == merged.ndcg.tolist()
    half = lab.merged(BRANCHING, np.array([0.5, 0.5, 0.0]))
    by_hand = {n: trunk[n] + 0.5 * branches[0][n] + 0.5 * branches[1][n] for n in trunk}
    assert half.loss == pytest.approx(lab.measure(by_hand).loss, abs=1e-6)
    assert half.loss.tolist() != lab.merged(BRANCHING, _one(0)).loss.tolist()


def test_where_branches_are_alike_every_mixture_scores_the_same(
    make: Callable[..., Lab], static_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make(static_model)
    same = lab.branch(BRANCHING, "easy")
    monkeypatch.setattr(lab, "branch", lambda *_: same)
    scores = {lab.merged(BRANCHING, shares).loss.round(5).tolist()[0] for shares in (*np.eye(3), np.full(3, 1 / 3))}
    assert len(scores) == 1


def test_a_branch_is_what_its_batches_teach_from_the_trunk(make: Callable[..., Lab], static_model: Path) -> None:
    """Without common batches, and of one step, the sum of branches is a step on the weighted loss, but for AdamW: of
    plain gradients it would be exact. Here: the trunk is the base's own training, a branch goes on from it."""
    lab = make(static_model)
    count = round(SETTINGS.steps / 3)
    trunk = lab.trunk(BRANCHING)
    again = lab.steps(lab.start, lab.base_weights, count, 1.0, number=-1)  # on the rows of the training itself
    assert _equal(trunk, again)
    own = lab.branch(replace(BRANCHING, common=0.0), "hard")
    after = lab.steps(trunk, _one(1), BRANCHING.steps, BRANCHING.rate, number=1)
    assert _equal(own, kept.difference(after, trunk))
    assert not _equal(own, lab.branch(replace(BRANCHING, common=0.0), "hard", number=1))
    assert not _equal(own, lab.branch(BRANCHING, "hard"))


def test_common_batches_are_the_same_in_all_branches_and_no_batch_comes_twice(
    mixture_data: MaterialisedMixture
) -> None:  # fmt: skip
    def plan(weights: dict[str, float], seed: int) -> BatchPlan:
        return BatchPlan(weights, mixture_data.sizes, 4, seed, positives=mixture_data.positives())

    equal = dict.fromkeys(mixture_data.sizes, 1 / 3)
    common = plan(equal, 7)
    taken = []
    for name in ("easy", "hard"):
        own = plan(dict.fromkeys(equal, 0.0) | {name: 1.0}, 8)
        taken.append([BranchPlan(own, common, 0.5).batch(step) for step in range(40)])
    pairs = list(zip(*taken, strict=True))
    shared = [(n, a) for n, ((name, a), (other, b)) in enumerate(pairs) if (name, a.tolist()) == (other, b.tolist())]
    assert 10 < len(shared) < 30
    assert [rows.tolist() for _, rows in shared] == [common.batch(n)[1].tolist() for n in range(len(shared))]
    rest = [pair for n, pair in enumerate(pairs) if n not in {n for n, _ in shared}]
    assert {(one[0], other[0]) for one, other in rest} == {("easy", "hard")}


def test_what_was_done_is_found_again_and_another_target_is_measured(
    make: Callable[..., Lab], static_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make(static_model)
    merged, trained = lab.merged(BRANCHING, _one(0)), lab.train(lab.base_weights)
    other = make(static_model, folder=tmp_path / "other")

    def fail(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(Lab, "_run", fail)
        assert [x.tolist() for x in other.merged(BRANCHING, _one(0))] == [x.tolist() for x in merged]
        assert [x.tolist() for x in other.train(lab.base_weights)] == [x.tolist() for x in trained]
        with pytest.raises(AssertionError):
            other.branch(replace(BRANCHING, steps=5), "easy")
        another = make(static_model, replace(SETTINGS, seed=1), folder=tmp_path / "another")
        with pytest.raises(AssertionError):
            another.train(lab.base_weights)
    assert not list((tmp_path / "run").glob("b*/"))  # checkpoints of finished branches are gone


def test_a_half_removed_checkpoint_is_not_taken_for_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "branch"
    (folder / "step-4").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed before anything is deleted
    kept.remove(folder)
    assert not folder.exists()


KILLED = """
import time
import numpy as np
from mixture.materialised import MaterialisedMixture
from trainers.learning.lab import Lab
from trainers.learning.target import Target, held_out_set
from trainers.loop.steps import TrainingLoop
from trainers.model.template import template_of
saves = TrainingLoop.save_if_due
def slowly(loop):
    done = saves(loop)
    pipe.send((loop.folder.name.split("-")[0], loop.step))
    time.sleep(0.05)
    return done
TrainingLoop.save_if_due = slowly
data = MaterialisedMixture.open(folder, mixture)
template = template_of(model, settings)
part = data.components["middle"]
lab = Lab(data, model, settings, {"easy": 0.5, "middle": 0.3, "hard": 0.2},
          lambda e: Target([held_out_set("middle", part, template, 1)], e, settings), run, shared)
lab.merged(branching, np.full(3, 1 / 3))
"""


@pytest.mark.parametrize(("kind", "settings"), [
    ("static_model", SETTINGS),
    pytest.param("tiny_model", replace(TRANSFORMER, lora_rank=2), marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.parametrize("kill_in", [("trunk", 2), ("branch", 3)], ids=str)
def test_killed_it_goes_on_and_ends_with_the_same_bits(
    start: Callable[..., Any], make: Callable[..., Lab], mixture_data: MaterialisedMixture, tmp_path: Path,
    request: pytest.FixtureRequest, kind: str, settings: FinetuneSettings, kill_in: tuple[str, int],
) -> None:  # fmt: skip
    model, settings = request.getfixturevalue(kind), replace(settings, checkpoint_every=2)
    names = {"folder": mixture_data.folder, "mixture": mixture_data.spec.id, "model": str(model), "settings": settings,
             "run": tmp_path / "killed", "shared": tmp_path / "shared", "branching": BRANCHING}  # fmt: skip
    kill_at(start, KILLED, names, kill_in)
    assert list((tmp_path / "killed").glob("*/step-2"))
    killed = make(model, settings, folder=tmp_path / "killed", shared=tmp_path / "shared")
    whole = make(model, settings)
    shares = np.full(3, 1 / 3)
    assert killed.merged(BRANCHING, shares).loss.tolist() == whole.merged(BRANCHING, shares).loss.tolist()
    for name in whole.names:
        assert _equal(killed.branch(BRANCHING, name), whole.branch(BRANCHING, name))


def test_adapters_are_merged_as_whole_matrices(make: Callable[..., Lab], tiny_model: Path) -> None:
    lab = make(tiny_model, replace(TRANSFORMER, lora_rank=2, lora_dropout=0.0, steps=3))
    branching = Branching(steps=2)
    trunk, branches = lab.trunk(branching), [lab.branch(branching, name) for name in lab.names]
    # What a branch changes is a product of adapters: of low rank. A sum of three is of more.
    name = next(n for n, w in branches[0].items() if w.ndim == 2 and bool(w.any()))
    assert [int(torch.linalg.matrix_rank(branch[name], rtol=1e-3)) for branch in branches] == [2, 2, 2]
    shares = np.full(3, 1 / 3)
    mean = {n: trunk[n] + sum(branch[n] for branch in branches) / 3 for n in trunk}
    assert int(torch.linalg.matrix_rank(mean[name] - trunk[name], rtol=1e-3)) > 2
    assert lab.merged(branching, shares).loss == pytest.approx(lab.measure(mean).loss, abs=1e-5)
    # A model with the trunk's matrices and no adapters is the model that has adapters on them.
    lab._put(trunk)
    plain = lab._plain
    kept.write_into(plain, trunk)
    merge_lora(lab.encoder)
    there = dict(lab.encoder.named_parameters())
    assert all(torch.equal(there[n], p) for n, p in plain.named_parameters())


def test_the_token_budget_of_a_runs_first_training_holds_for_all(
    make: Callable[..., Lab], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.loop import steps

    numbers = iter([3072, 5120, 7168])
    whole = steps.token_budget
    monkeypatch.setattr("trainers.batch.memory.num_fitting", lambda *_: next(numbers))
    seen = []

    def noted(*arguments: Any) -> Any:
        seen.append(whole(*arguments))
        return seen[-1]

    monkeypatch.setattr(steps, "token_budget", noted)
    settings = replace(TRANSFORMER, steps=2, tokens_kept=0)
    lab = make(tiny_model, settings)
    for number in range(2):
        lab.steps(lab.start, _one(0), 1, 1.0, number=number)
    later = make(tiny_model, settings)  # as after a kill
    later.steps(later.start, _one(0), 1, 1.0, number=0)
    assert [budget.kept for budget in seen] == [3072] * 3
    assert json.loads((tmp_path / "run" / "budget.json").read_text())["tokens_kept"] == 3072


def test_an_aim_lowers_the_targets_loss_and_is_found_again(make: Callable[..., Lab], static_model: Path) -> None:
    lab = make(static_model)
    trunk, aim = lab.trunk(BRANCHING), lab.aim(BRANCHING)
    before, after = (lab.measure(kept.added(trunk, [(share, aim)])).loss[0] for share in (0.0, 1.0))
    assert after < before - 0.01
    assert _equal(lab.aim(BRANCHING), aim)


def test_inner_products_are_those_of_all_numbers_in_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "AT_ONCE", 7)
    random = torch.Generator().manual_seed(1)
    changes = [{"a": torch.randn(5, 4, generator=random), "b": torch.randn(3, generator=random)} for _ in range(4)]
    rows = torch.stack([torch.cat([w.flatten() for w in change.values()]) for change in changes]).double()
    np.testing.assert_allclose(kept.inner_products(changes), (rows @ rows.T).numpy(), rtol=1e-12)

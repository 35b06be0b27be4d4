"""Influence: a round by hand, whom it raises, whom it lowers, and that a kill changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from trainers.finetune.config import FinetuneSettings
from trainers.learning import kept
from trainers.learning.config import LearningSettings
from trainers.learning.lab import Lab
from trainers.learning.learners.influence import Influence, rate_at, rewards, weights_of
from trainers.learning.learners.learner import Round, mean_of_later_half
from trainers.learning.target import Measured, Target, held_out_set
from trainers.model.template import template_of

SETTINGS = FinetuneSettings(steps=24, batch_size=8, learning_rate=1e-2, temperature=0.05, negatives=2,
                            max_query_tokens=32, max_passage_tokens=32, min_learning_rate_ratio=0.1)  # fmt: skip
OPTIONS = Influence.Options(round_steps=8, probe_steps=3)


@pytest.fixture
def make(mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path) -> Callable[..., Lab]:
    """`make(of)`: a lab over easy, hard and middle, whose target is the rows of `of`."""
    template = template_of(str(static_model), SETTINGS)

    def made(of: str = "easy", **given: Any) -> Lab:
        part = mixture_data.components[of]
        return Lab(
            mixture_data, str(static_model), SETTINGS, dict.fromkeys(mixture_data.sizes, 1 / 3),
            lambda encoder: Target([held_out_set(of, part, template, 1)], encoder, SETTINGS),
            given.pop("folder", tmp_path / "run"), tmp_path / "branches", **given,
        )  # fmt: skip

    return made


class Quadratic:
    """A lab of one number each for three collections: a step on g moves the model to g's optimum by the rate, and the
    target's loss is the squared distance to `best`."""

    names = ("a", "b", "c")
    optima = (torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]), torch.tensor([0.0, 0.0]))
    base_weights = np.full(3, 1 / 3)
    min_weight, caps = 0.0, None
    settings = replace(SETTINGS, steps=8, warmup_steps=0)

    def __init__(self, folder: Path, best: tuple[float, float]) -> None:
        self.folder, self.best = folder, torch.tensor(best)
        self.start = {"w": torch.zeros(2)}
        self.target = type("T", (), {"weights": np.ones(1)})()

    def plan(self, count: int) -> None: ...

    def say(self, what: str, work: Callable[[], Any]) -> Any:
        return work()

    def measure(self, weights: kept.Weights) -> Measured:
        return Measured(np.array([float(((weights["w"] - self.best) ** 2).sum())]), np.zeros(1))

    def losses(self, weights: kept.Weights) -> np.ndarray:
        return self.measure(weights).loss

    def steps(self, start: kept.Weights, shares: np.ndarray, count: int, rate: float, *, number: int) -> kept.Weights:
        goal = torch.stack([float(s) * o for s, o in zip(shares, self.optima, strict=True)]).sum(0)
        w = start["w"]
        for _ in range(count):
            w = w + 0.1 * rate * (goal - w)
        return {"w": w}


def test_a_round_by_hand(tmp_path: Path) -> None:
    lab = Quadratic(tmp_path, best=(1.0, 0.0))
    found = Influence(3, OPTIONS).find(lab)  # type: ignore[arg-type]
    rate = 0.1 * rate_at(4, lab.settings)
    reached = 1 - (1 - rate) ** 3  # of the way to a's or b's optimum; the start is c's
    gains = np.array([1 - (1 - reached) ** 2, 1 - (1 + reached) ** 2, 0.0])
    scaled = gains / gains.std()
    smoothed = 0.3 * (scaled - scaled.mean())
    weights = np.exp(smoothed) / np.exp(smoothed).sum()
    (made,) = found.history
    assert found.weights == pytest.approx(weights, abs=1e-6)
    assert (made.step, made.num_examples) == (8, 24)
    assert made.measured == pytest.approx(smoothed, abs=1e-6)
    assert found.weights[0] > 1 / 3 > found.weights[1]
    # The proxy: the probes' weighted mean, then five steps towards the weighted optimum.
    proxy = kept.load(tmp_path / "influence.safetensors")["w"]
    x = (weights[0] - weights[1]) * reached
    for _ in range(5):
        x += rate * (weights[0] - weights[1] - x)
    assert proxy.tolist() == pytest.approx([x, 0.0], abs=1e-6)


def test_rewards_are_compared_set_by_set_and_weighed_by_their_say() -> None:
    before = np.array([1.0, 100.0])
    after = np.array([[0.8, 100.0], [1.0, 90.0], [1.2, 110.0]])
    expected = np.array([0.2, 0.0, -0.2]) / np.std([0.2, 0.0, -0.2]) * 0.75
    expected += np.array([0.0, 10.0, -10.0]) / np.std([0.0, 10.0, -10.0]) * 0.25
    assert rewards(before, after, np.array([0.75, 0.25])) == pytest.approx(expected)
    assert rewards(before, np.tile(before, (3, 1)), np.array([0.5, 0.5])).tolist() == [0.0] * 3


def test_weights_stay_near_the_base_and_within_the_ratio() -> None:
    base = np.array([0.5, 0.3, 0.2, 0.0])
    assert weights_of(np.zeros(4), base, 10.0).tolist() == pytest.approx(base.tolist())
    little = weights_of(np.array([0.1, 0.0, 0.0, 5.0]), base, 10.0) / np.array([0.5, 0.3, 0.2, 1.0])
    assert little[3] == 0.0
    wide = weights_of(np.array([30.0, 0.0, -30.0]), np.full(3, 1 / 3), 10.0)
    assert wide[0] / wide[2] == pytest.approx(10.0)
    small = weights_of(np.array([0.1, 0.0, 0.0]), np.full(3, 1 / 3), 10.0)
    assert small[0] / small[1] == pytest.approx(np.exp(0.1))  # not blown up to the ratio


def test_the_rate_is_that_of_the_training(tmp_path: Path) -> None:
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    settings = replace(SETTINGS, steps=50)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, settings.num_warmup_steps, settings.steps, min_lr_rate=settings.min_learning_rate_ratio
    )
    for step in range(50):
        if step >= settings.num_warmup_steps:
            assert rate_at(step, settings) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert 0 < rate_at(0, settings) < 1


@pytest.mark.parametrize("of", ["easy", "middle"])
def test_the_collection_that_the_target_is_of_weighs_most_after_three_rounds(make: Callable[..., Lab], of: str) -> None:
    lab = make(of)
    found = Influence(3, OPTIONS).find(lab)
    assert len(found.history) == 3
    last = dict(zip(lab.names, found.history[-1].weights, strict=True))
    assert max(last, key=lambda name: last[name]) == of
    assert last["hard"] < 1 / 3  # its positives have no word of their queries: its steps are no help
    assert found.weights == pytest.approx(mean_of_later_half(found.history))
    assert found.weights.tolist() != found.history[-1].weights.tolist()
    losses = [float(one.loss[0]) for one in found.tried if one.loss is not None]
    assert losses[-1] < losses[0]  # the proxy moved towards the target


def test_bounds_hold_in_every_round(make: Callable[..., Lab]) -> None:
    found = Influence(3, OPTIONS).find(make(min_weight=0.31, caps=np.array([0.35, 1.0, 1.0])))
    for one in found.history:
        assert one.weights.min() >= 0.31 - 1e-12
        assert one.weights[0] <= 0.35 + 1e-12


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [2, 5, 7])
def test_killed_it_goes_on_with_the_same_bits(
    make: Callable[..., Lab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = Influence(3, OPTIONS).find(make())
    calls = 0
    steps = Lab.steps

    def dying(lab: Lab, *arguments: Any, **more: Any) -> kept.Weights:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return steps(lab, *arguments, **more)

    monkeypatch.setattr(Lab, "steps", dying)
    with pytest.raises(Killed):
        Influence(3, OPTIONS).find(make(folder=tmp_path / "killed"))
    calls = -100
    again = Influence(3, OPTIONS).find(make(folder=tmp_path / "killed"))
    assert calls + 100 == 12 - after  # a probe that was done is not done again
    assert again.weights.tolist() == whole.weights.tolist()
    for one, other in zip(again.history, whole.history, strict=True):
        assert one.weights.tolist() == other.weights.tolist()
        assert one.measured.tolist() == other.measured.tolist()
    proxies = [kept.load(tmp_path / name / "influence.safetensors") for name in ("run", "killed")]
    assert all(torch.equal(proxies[0][name], proxies[1][name]) for name in proxies[0])
    assert not (tmp_path / "run" / "probes").exists()


def test_the_later_half() -> None:
    rounds = [Round(n, np.array([float(n)]), np.zeros(1), 1) for n in range(1, 6)]
    assert mean_of_later_half(rounds).tolist() == [4.0]
    assert mean_of_later_half(rounds[:1]).tolist() == [1.0]


@pytest.mark.parametrize(("option", "value", "rule"), [
    ("probe_steps", 25, "1 to below round_steps"), ("round_steps", 1, "2 or more"), ("most_ratio", 1.0, "above 1"),
    ("reward_memory", 1.0, "0 to below 1"),
])  # fmt: skip
def test_options_out_of_range(option: str, value: float, rule: str) -> None:
    with pytest.raises(UsageError, match=f"{option} is {value}; allowed: {rule}"):
        LearningSettings(algorithm="influence", **{option: value})

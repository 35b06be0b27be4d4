"""Weights by what a few steps on a collection bring the target, round by round while the proxy trains.

After Inf-DDS (arXiv 2601.21759: the exact influence of a collection, a proxy moved by the weighted mean of the probes
after Reptile) with the refresh of R&B (2505.00358): weights follow from the rewards afresh each round, so that they
cannot drift to one collection. Neither has code for this; where their texts are silent it is ours: rewards are compared
among the collections of a round and smoothed over rounds, and no weight is more than `most_ratio` times another, each
over its base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixture.weights import bounded
from trainers.learning.learners.learner import (
    LEARNERS,
    Found,
    LearnerOptions,
    Round,
    TargetLearner,
    Tried,
    mean_of_later_half,
)
from trainers.parallel import ranks
from trainers.settings import TrainingSettings, setting

if TYPE_CHECKING:
    from trainers.learning.kept import Weights
    from trainers.learning.lab import Lab
    from trainers.learning.target import Measured

SMALLEST = 1e-12


class Influence(TargetLearner):
    """Each round a probe of every collection from the proxy, then weights from what they brought; the proxy moves by
    the probes' weighted mean, then trains by the weights. The result is the mean over the later half of the rounds.

    Each training begins with a fresh optimiser: what a round leaves is the proxy's weights and the rewards alone.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        round_steps: int = setting(25, "steps of a round")
        probe_steps: int = setting(4, "steps of a round that are taken on each collection alone")
        reward_memory: float = setting(0.7, "how much of the smoothed reward stays each round")
        most_ratio: float = setting(10.0, "no weight is raised more than this over another")

        def violations(self) -> list[tuple[str, str]]:
            return (
                [("round_steps", "2 or more")] * (self.round_steps < 2)
                + [("probe_steps", "1 to below round_steps")] * (not 0 < self.probe_steps < max(2, self.round_steps))
                + [("reward_memory", "0 to below 1")] * (not 0 <= self.reward_memory < 1)
                + [("most_ratio", "above 1")] * (not 1 < self.most_ratio < math.inf)
            )

    name = "influence"
    average = "mean"
    options: Options

    def find(self, lab: Lab) -> Found:
        from trainers.learning import kept

        file, rounds = lab.folder / "influence.safetensors", round(lab.settings.steps / self.options.round_steps)
        rounds, groups = max(1, rounds), len(lab.names)
        proxy, smoothed, history, tried = lab.start, np.zeros(groups), [], []
        if ranks.on_main(file.is_file):
            proxy, facts = kept.load(file), kept.facts_of(file)
            smoothed = np.array(facts["smoothed"])
            history = [Round(step, np.array(w), np.array(m), n) for step, w, m, n in facts["history"]]
            tried = [Tried("round", np.array(w), np.array(loss), np.array(ndcg)) for w, loss, ndcg in facts["tried"]]
        lab.plan((rounds - len(history)) * (groups + 1))
        for number in range(len(history), rounds):
            proxy, smoothed, before, made = self._round(lab, proxy, smoothed, number)
            history.append(made)
            tried.append(Tried("round", made.weights, before.loss, before.ndcg))
            facts = {
                "smoothed": smoothed.tolist(),
                "history": [[r.step, r.weights.tolist(), r.measured.tolist(), r.num_examples] for r in history],
                "tried": [[t.weights.tolist(), t.loss.tolist(), t.ndcg.tolist()] for t in tried],  # type: ignore[union-attr]
            }
            ranks.on_main(partial(kept.keep, file, proxy, **facts))
            ranks.on_main(partial(kept.remove, _probes(lab)))
        return Found(mean_of_later_half(history), tuple(history), tuple(tried), lines=_lines(history),
                     facts={"rounds": rounds})  # fmt: skip

    def _round(
        self, lab: Lab, proxy: Weights, smoothed: np.ndarray, number: int
    ) -> tuple[Weights, np.ndarray, Measured, Round]:
        """The proxy and the smoothed rewards after a round, what the proxy scored before it, and its weights."""
        from trainers.learning import kept

        options = self.options
        first = number * options.round_steps
        rate = rate_at(first + options.round_steps // 2, lab.settings)
        before = lab.measure(proxy)
        losses = []
        for place, name in enumerate(lab.names):
            file = _probes(lab) / f"{number}-{place}.safetensors"

            def probe(file: Path = file, place: int = place) -> list[float]:
                if not ranks.on_main(file.is_file):
                    shares = np.zeros(len(lab.names))
                    shares[place] = 1.0
                    after = lab.steps(proxy, shares, options.probe_steps, rate, number=2 * number)
                    found = lab.losses(after).tolist()
                    change = kept.difference(after, proxy)
                    ranks.on_main(lambda: kept.keep(file, change, loss=found))
                return list(kept.facts_of(file)["loss"])

            losses.append(lab.say(f"round {number + 1}, {name}", probe))
        reward = rewards(before.loss, np.array(losses), lab.target.weights)
        keep = options.reward_memory
        smoothed = keep * smoothed + (1 - keep) * (reward - reward.mean())
        weights = weights_of(smoothed, lab.base_weights, options.most_ratio)
        weights = bounded(weights, lab.min_weight, lab.caps)[0]
        moved = kept.added(proxy, ((float(share), kept.load(_probes(lab) / f"{number}-{place}.safetensors"))
                                   for place, share in enumerate(weights)))  # fmt: skip
        rest = options.round_steps - options.probe_steps
        after = lab.say(f"round {number + 1}", lambda: lab.steps(moved, weights, rest, rate, number=2 * number + 1))
        made = Round(first + options.round_steps, weights, smoothed, options.probe_steps * lab.settings.batch_size)
        return after, smoothed, before, made


def rewards(before: np.ndarray, after: np.ndarray, say: np.ndarray) -> np.ndarray:
    """What a probe of each collection brought, (G,): Σ_t say_t (before_t − after_gt) / sd_t.

    before: (T,) losses of the proxy on each set of the target
    after:  (G, T) those after each collection's probe
    say:    (T,) sum 1

    sd_t is the standard deviation of the gains on t over the collections, so that no set decides by its scale.
    """
    gains = np.asarray(before) - np.asarray(after)
    spread = gains.std(axis=0)
    return np.asarray((gains / np.where(spread > 0, spread, 1.0)) @ say)


def weights_of(smoothed: np.ndarray, base: np.ndarray, most_ratio: float) -> np.ndarray:
    """softmax(log base + smoothed / τ), (G,). τ is 1, a standard deviation, or what keeps each two collections within
    `most_ratio` of each other: small differences, which may be noise, are not blown up to that ratio."""
    heat = max(1.0, float(np.ptp(smoothed)) / math.log(most_ratio))
    raised = np.log(np.maximum(base, SMALLEST)) + smoothed / heat
    found = np.where(base > 0, np.exp(raised - raised.max()), 0.0)
    return np.asarray(found / found.sum())


def rate_at(step: int, settings: TrainingSettings) -> float:
    """The learning rate at a step of a whole training, as a share of its peak: a rise, then a cosine."""
    rise, steps = settings.num_warmup_steps, settings.steps
    if step < rise:
        return (step + 1) / rise
    done = min(1.0, (step - rise) / max(1, steps - rise))
    least = settings.min_learning_rate_ratio
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))


def _probes(lab: Lab) -> Path:
    return lab.folder / "probes"


def _lines(history: Sequence[Round]) -> tuple[str, ...]:
    """How far the weights of the last rounds differ from their mean: noise, or weights that still move."""
    mean = mean_of_later_half(history)
    later = history[len(history) // 2 :]
    moved = float(np.mean([np.abs(one.weights - mean).sum() / 2 for one in later]))
    return (f"over the later {len(later)} of {len(history)} rounds the weights lay {moved:.3f} (total variation) from"
            " their mean",)  # fmt: skip


LEARNERS[Influence.name] = Influence

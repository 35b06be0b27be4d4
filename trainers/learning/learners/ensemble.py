"""The mean of several mixtures that do best on a target: what several learners found, held against each other.

Each one and the base mixture train the proxy for equal steps from the same start; of those within one standard error of
the best, the mean is taken with equal weights. A softmax of the scores would ask for a temperature, in nats, that
nobody knows; the rule counts alike what cannot be told apart. EmbeddingGemma (arXiv 2509.20354) takes the equal mean of
the models of several mixtures; here the mixtures themselves are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from trainers.learning.learners.learner import LEARNERS, Found, LearnerOptions, TargetLearner, Tried
from trainers.settings import setting

if TYPE_CHECKING:
    from trainers.learning.lab import Lab

BASE = "the base mixture"


class Ensemble(TargetLearner):
    """Trains the proxy on the base mixture and on each member, and averages the best."""

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        members: tuple[str, ...] = setting((), 'mixtures of the same collections, as ["tdro", "search:1"]')

        def violations(self) -> list[tuple[str, str]]:
            return [("members", 'one mixture or more, each once, as ["tdro", "search:1"]')] * (
                not self.members or len(set(self.members)) < len(self.members)
            )

    name = "ensemble"
    options: Options

    def find(self, lab: Lab) -> Found:
        from trainers.learning.law import within_error

        mixtures = {BASE: lab.base_weights, **lab.members}
        lab.plan(len(mixtures))
        found = {n: lab.say(f"training on {n}", partial(lab.train, w)) for n, w in mixtures.items()}
        losses = np.stack([measured.loss for measured in found.values()])
        chosen = within_error(lab.target.by_group(losses))
        names = list(mixtures)
        scores = dict(zip(names, (losses @ lab.target.weights).tolist(), strict=True))
        weights = np.mean([mixtures[names[i]] for i in chosen], axis=0)
        tried = tuple(Tried("trained", mixtures[n], m.loss, m.ndcg) for n, m in found.items())
        best = min(scores, key=lambda name: scores[name])
        others = [names[i] for i in chosen if names[i] != best]
        line = f"the best of {len(names)} is {best}, with a loss of {scores[best]:.4f}"
        if others:
            line += f"; the mean is taken of it and of {', '.join(others)}, within one standard error of it"
        lines = [line]
        if BASE in (best, *others):
            lines.append(
                "no member is told apart from the base mixture" if best != BASE else "no member is ahead of it"
            )
        return Found(weights, tried=tried, lines=tuple(lines), facts={"losses": scores})


LEARNERS[Ensemble.name] = Ensemble

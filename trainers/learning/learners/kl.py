"""The worst case in a Kullback-Leibler ball around a base mixture, over collections (Hu and Hong 2013)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.learning.learners.cvar import running_losses
from trainers.learning.learners.drpruning import BALL
from trainers.learning.learners.learner import LEARNERS, LearnerOptions, Losses, WeightLearner
from trainers.settings import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

NEWEST = 0.1  # share of the newest loss in a running loss, as in cvar


class Kl(WeightLearner):
    """The worst case over running losses; a collection not seen yet has loss 0, as in cvar."""

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        ball: float = later(0.1, BALL)

        def violations(self) -> list[tuple[str, str]]:
            return [("ball", "0 or more")] * (not 0 <= self.ball < math.inf)

    name = "kl"
    average = "mean"
    reads_base = True
    options: Options

    def __init__(self, num_groups: int, options: LearnerOptions | None = None, lr: float | None = None) -> None:
        super().__init__(num_groups, options, lr)
        self._losses = torch.zeros(num_groups, dtype=torch.float64)
        self._seen = torch.zeros(num_groups, dtype=torch.bool)

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        self._losses = running_losses(self._losses, self._seen, batch.means, batch.present, newest=NEWEST)
        self._seen = self._seen | batch.present
        self.measured = self._losses
        return kl_weights(self._losses, self.around, radius=self.options.ball)

    def state(self) -> dict[str, Tensor | float]:
        return {"losses": self._losses, "seen": self._seen}


LEARNERS[Kl.name] = Kl


def kl_weights(losses: Tensor, base: Tensor, *, radius: float) -> Tensor:
    """The worst case in a KL ball: maximise q · ℓ over Σ q = 1, q ≥ 0, Σ q_i log(q_i / p_i) ≤ ρ; (N,).

    q ∝ p · exp(ℓ / λ) (Hu and Hong 2013, "Kullback-Leibler divergence constrained distributionally robust
    optimization"), 1 / λ by bisection, as KL rises with it. Where the ball holds all mass on the greatest loss
    (−log p of it ≤ ρ), that is the answer; equal losses share it in proportion to p.

    losses: (N,)
    base:   (N,) p, 0 or more, sums to 1

    >>> [round(x, 4) for x in kl_weights(torch.tensor([1.0, 2.0]).double(), torch.ones(2).double() / 2, radius=0.0)]
    [0.5, 0.5]
    """
    if not 0 <= radius < float("inf"):
        raise UsageError(f"the KL radius is {radius}; allowed: 0 or more")
    inside = base > 0
    gaps = losses - losses[inside].max()  # 0 for the greatest
    top = base * (inside & (gaps == 0))
    if radius == 0 or not bool((gaps[inside] < 0).any()):
        return base.clone()
    if -math.log(float(top.sum())) <= radius:
        return top / top.sum()

    def tilted(inverse: float) -> tuple[Tensor, float]:
        raised = base * torch.exp((inverse * gaps).clamp(max=0))
        q = raised / raised.sum()
        return q, float(inverse * (q * gaps).sum() - raised.sum().log())

    low, high = 0.0, 1.0 / float(-gaps[inside].min())
    while tilted(high)[1] < radius:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if tilted(middle)[1] <= radius else (low, middle)
    return tilted(low)[0]

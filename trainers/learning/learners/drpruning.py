"""DRPruning's data half: the worst case in a χ² ball, over the losses that training will still bring down.

Deng et al. 2025 (arXiv 2411.14055; code hexuandeng/DRPruning, MIT).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.learning.learners.chi2 import chi2_weights
from trainers.learning.learners.curves import LossCurves
from trainers.learning.learners.learner import LEARNERS, LearnerOptions, Losses, WeightLearner
from trainers.settings import later

if TYPE_CHECKING:
    from torch import Tensor

BALL = "ρ, how far the weights may be from the base"


class DrPruning(WeightLearner):
    """Deng et al. 2025 (arXiv 2411.14055): q = argmax Σ q_g (ℓ_g − ref_g) in a χ² ball around a base, collection-wise.

    ℓ is the loss by now and ref that at the end, both of a power law through the collection's own curve (`LossCurves`).
    Before the first forecast q is the base. At the end the excess is nearly 0 everywhere and q says little, so the
    result is the mean over the steps.

    Departs from the release: batches stay uniform and q weighs the loss, where there q is what is drawn; the base stays
    as it is (there it follows q slowly); `min_weight` and `max_epochs` are the bounds. Nothing is pruned.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        ball: float = later(0.1, BALL)

        def violations(self) -> list[tuple[str, str]]:
            return [("ball", "0 or more")] * (not 0 <= self.ball < math.inf)

    name = "drpruning"
    average = "mean"
    current_is_a_result = False
    reads_base = True
    forecasts = True
    options: Options

    def __init__(self, num_groups: int, options: LearnerOptions | None = None, lr: float | None = None) -> None:
        super().__init__(num_groups, options, lr)
        self._curves = LossCurves(num_groups)

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        self._curves.observe(batch, steps=self.steps)
        self.forecast = self._curves.forecast
        base = self.around
        self.measured = self._curves.excess(base)
        return chi2_weights(self.measured, base, radius=self.options.ball)

    def state(self) -> dict[str, Tensor | float]:
        return self._curves.state()

    def restore(self, state: dict[str, Tensor | float]) -> None:
        self._curves.restore(state)


LEARNERS[DrPruning.name] = DrPruning

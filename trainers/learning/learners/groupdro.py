"""Group DRO: up with the proxy's loss (Sagawa et al. 2019, arXiv 1911.08731)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.learning.learners.learner import LEARNERS, Losses, WeightLearner
from trainers.tdro.objective import exponentiated

if TYPE_CHECKING:
    from torch import Tensor


class GroupDro(WeightLearner):
    """Sagawa et al. 2019 (arXiv 1911.08731)."""

    name = "groupdro"
    rate = 1e-2

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        self.measured = batch.means
        return groupdro_step(weights, self.measured, lr=self.lr)


LEARNERS[GroupDro.name] = GroupDro


def groupdro_step(weights: Tensor, losses: Tensor, *, lr: float) -> Tensor:
    """Group DRO: q_g ← q_g · exp(η · ℓ_g) / Σ, (G,) (Sagawa et al. 2019, arXiv 1911.08731, algorithm 1).

    losses: (G,), 0 for an absent collection, as in the authors' code
    lr:     η_q, 0.01 in the authors' code
    """
    return exponentiated(weights, lr * losses)

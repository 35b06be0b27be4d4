"""Common gradient descent: up with a collection whose gradient helps all the others (Piratla et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixture.errors import MixtureError, UsageError
from trainers.deferred import Deferred
from trainers.learning.learners.learner import LEARNERS, LearnerOptions, Losses, WeightLearner
from trainers.settings import setting
from trainers.tdro.objective import exponentiated

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class Cgd(WeightLearner):
    """Piratla et al. 2022 (arXiv 2110.02619), as COCO-DR uses it (arXiv 2210.15212) with the options named there."""

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        exponent: float = setting(0.5, "how much the losses scale the cosines; 0.25 in COCO-DR")
        cgd_memory: float = setting(1.0, "power of the old weights; 0.1 in COCO-DR")

        def violations(self) -> list[tuple[str, str]]:
            return [("exponent", "0 or more")] * (not 0 <= self.exponent < math.inf) + [("cgd_memory", "0 to 1")] * (
                not 0 <= self.cgd_memory <= 1
            )

    name = "cgd"
    rate = 5e-2
    needs_group_gradients = True
    options: Options

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        if batch.products is None:
            raise UsageError("cgd needs the inner products of the collections' gradients")
        self.measured = batch.means
        exponent, memory = self.options.exponent, self.options.cgd_memory
        return cgd_step(weights, self.measured, batch.products, lr=self.lr, exponent=exponent, memory=memory)


LEARNERS[Cgd.name] = Cgd


def cgd_step(
    weights: Tensor,
    losses: Tensor,
    gradient_products: Tensor,
    *,
    lr: float,
    exponent: float = 0.5,
    memory: float = 1.0,
) -> Tensor:
    """Common gradient descent: up with a collection whose gradient helps all the others, (G,).

    α_i ← α_i^m · exp(η · mean_j (ℓ_i ℓ_j)^β · cos(∇ℓ_i, ∇ℓ_j)) / Σ. The scaled cosine stands for the inner product of
    gradients, as in the authors' code (Piratla et al. 2022, arXiv 2110.02619; there η 0.05, β ½, m 1). COCO-DR's code
    (Yu et al. 2022, arXiv 2210.15212, "iDRO") has η 0.05, β ¼ and m 0.1, so that old steps fade.

    losses:            (G,), 0 for an absent collection
    gradient_products: (G, G), ∇ℓ_i · ∇ℓ_j of the collections' mean losses, rows and columns of absent ones 0

    Departs from COCO-DR's code: an absent collection keeps its weight; there it falls to the smallest.
    """
    if gradient_products.shape != (len(weights), len(weights)):
        raise UsageError(
            f"gradient products of shape {tuple(gradient_products.shape)};"
            f" allowed: one row and one column for each of {len(weights)} collections"
        )
    if not bool(torch.isfinite(gradient_products).all()):
        raise MixtureError("a gradient of a collection is infinite or NaN; lower the learning rate")
    norms = gradient_products.diagonal().clamp(min=0).sqrt()
    scale = torch.outer(norms, norms)
    cosines = gradient_products / scale.clamp(min=torch.finfo(scale.dtype).tiny)  # 0 where a gradient is 0
    powers = losses.clamp(min=0) ** exponent
    return exponentiated(weights**memory, lr * (torch.outer(powers, powers) * cosines).mean(dim=1))

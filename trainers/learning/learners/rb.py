"""R&B's balance: up with how far a collection's gradient goes along with those of all (Ge et al. 2025, 2505.00358)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixture.errors import MixtureError, UsageError
from trainers.deferred import Deferred
from trainers.learning.learners.learner import LEARNERS, LearnerOptions, Losses, WeightLearner
from trainers.settings import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class Rb(WeightLearner):
    """The Balance half of R&B (Ge et al. 2025, arXiv 2505.00358, algorithm 1); slices of collections can be the other.

    The inner products of the collections' gradients are collected over `refresh` steps, each pair over the steps whose
    batches hold both. Then the weights are set anew (`rb_weights`), whatever they were before. Evaluation is over all
    collections equally.

    Departs from the paper: gradients of all trained parameters, not of the last layer alone; the sums are divided by
    how often a pair was seen, so that a collection that is drawn more often does not look stronger.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        refresh: int = setting(10, "steps whose gradients decide the next weights")
        sharpness: float = setting(1.0, "how far the weights follow; a ratio of two is at most e^(√2 · sharpness)")

        def violations(self) -> list[tuple[str, str]]:
            return [("refresh", "1 or more")] * (self.refresh < 1) + [("sharpness", "0 or more")] * (
                not 0 <= self.sharpness < math.inf
            )

    name = "rb"
    average = "mean"
    needs_group_gradients = True
    options: Options

    def __init__(self, num_groups: int, options: LearnerOptions | None = None, lr: float | None = None) -> None:
        super().__init__(num_groups, options, lr)
        self._sums = torch.zeros(num_groups, num_groups, dtype=torch.float64)
        self._counts = torch.zeros(num_groups, num_groups, dtype=torch.float64)
        self._steps = 0.0

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        if batch.products is None:
            raise UsageError("rb needs the inner products of the collections' gradients")
        here = batch.present.double()
        self._sums, self._counts = self._sums + batch.products, self._counts + torch.outer(here, here)
        self._steps += 1
        products = self._sums / self._counts.clamp(min=1)
        equal = torch.full_like(weights, 1 / self.num_groups)
        self.measured = products @ equal
        if self._steps < self.options.refresh:
            return weights
        self._sums, self._counts = torch.zeros_like(self._sums), torch.zeros_like(self._counts)
        self._steps = 0.0
        return rb_weights(products, equal, sharpness=self.options.sharpness)

    def state(self) -> dict[str, Tensor | float]:
        return {"sums": self._sums, "counts": self._counts, "steps": self._steps}


LEARNERS[Rb.name] = Rb


def rb_weights(gradient_products: Tensor, evaluation: Tensor, *, sharpness: float) -> Tensor:
    """R&B's balance: p = softmax(λ · G p̂ / ‖G p̂‖₂), (G,) (Ge et al. 2025, arXiv 2505.00358, algorithm 1).

    gradient_products: (G, G) inner products of the collections' gradients
    evaluation:        (G,) p̂, how much each collection counts where the model is evaluated, sum 1
    sharpness:         λ, 0 or more

    The weights do not depend on the weights before, so they cannot run off to one collection: G p̂ is scaled to length
    1, and two numbers of such a vector are at most √2 apart. All gradients 0 give equal weights.
    """
    if not bool(torch.isfinite(gradient_products).all()):
        raise MixtureError("a gradient of a collection is infinite or NaN; lower the learning rate")
    gain = gradient_products @ evaluation
    length = torch.linalg.vector_norm(gain)
    return torch.softmax(sharpness * gain / length.clamp(min=torch.finfo(gain.dtype).tiny), dim=0)

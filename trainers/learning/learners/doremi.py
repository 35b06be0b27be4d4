"""DoReMi: up with the excess over the reference's loss, smoothed (Xie et al. 2023, arXiv 2305.10429)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.deferred import Deferred
from trainers.learning.learners.learner import LEARNERS, LearnerOptions, Losses, WeightLearner
from trainers.settings import setting
from trainers.tdro.objective import example_shares, exponentiated, measure

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class DoReMi(WeightLearner):
    """Xie et al. 2023 (arXiv 2305.10429). A collection not seen yet scores 0."""

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        smoothing: float = setting(1e-3, "share of the equal weights in each step; the paper's")

        def violations(self) -> list[tuple[str, str]]:
            return [("smoothing", "0 to 1")] * (not 0 <= self.smoothing <= 1)

    name = "doremi"
    rate = 1.0
    average = "mean"
    needs_reference = True
    options: Options

    def __init__(self, num_groups: int, options: LearnerOptions | None = None, lr: float | None = None) -> None:
        super().__init__(num_groups, options, lr)
        self._scores = torch.zeros(num_groups, dtype=torch.float64)

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        scores = measure(batch.proxy, batch.reference, batch.groups, self.num_groups, "excess").double()
        self._scores = torch.where(batch.present, scores, self._scores)
        self.measured = self._scores
        return doremi_step(weights, self._scores, lr=self.lr, smoothing=self.options.smoothing)

    def example_weights(self, weights: Tensor, proxy_loss: Tensor, group_ids: Tensor) -> Tensor:
        """As the authors' code: α of the example's collection over the sum of these in the batch."""
        return example_shares(weights.to(proxy_loss), group_ids).detach()

    def state(self) -> dict[str, Tensor | float]:
        return {"scores": self._scores}


LEARNERS[DoReMi.name] = DoReMi


def doremi_step(weights: Tensor, scores: Tensor, *, lr: float, smoothing: float) -> Tensor:
    """DoReMi: α' ∝ α · exp(η · λ), then (1 − c) · α' + c / G, (G,) (Xie et al. 2023, arXiv 2305.10429, algorithm 1).

    scores:    (G,) λ, excess loss clipped at 0 and averaged by collection; for an absent collection the last one known,
               as in the authors' code
    lr:        η, 1 in the paper
    smoothing: c, 0 to 1; 1e-3 in the paper

    What the algorithm returns at its end is the mean of the weights over all steps.
    Departs from the paper: λ is a mean over examples, not over tokens.
    """
    return (1 - smoothing) * exponentiated(weights, lr * scores) + smoothing / len(weights)

"""The worst case over the examples of one batch, which chi2 and cvar with `unit=example` have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from trainers.deferred import Deferred
from trainers.learning.learners.learner import Losses, WeightLearner

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class BatchWorstCase(WeightLearner):
    """Levy et al. 2020 (arXiv 2010.05893): the worst case over the examples of the batch, within a set around equal
    weights, or around a mixture's: there the examples of a collection share its weight.

    The paper weighs examples and has no weights of collections. These are read off: the mass that a collection's
    examples get in the batch. Batches are drawn uniformly over collections, so the mean over steps is the mixture that
    the worst case asked for; the current weights are those of one batch, with all its noise.
    """

    average = "mean"
    current_is_a_result = False
    reads_base = True

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        if not len(batch.proxy):
            return weights
        mass = self.worst_case(batch.proxy.double(), self._shares(batch.groups))
        self.measured = weights.new_zeros(self.num_groups).index_add(0, batch.groups, mass)
        return self.measured / self.measured.sum()

    def example_weights(self, weights: Tensor, proxy_loss: Tensor, group_ids: Tensor) -> Tensor:
        """The worst case itself, whatever the weights."""
        losses = proxy_loss.detach().cpu().double()
        return self.worst_case(losses, self._shares(group_ids.long().cpu())).to(proxy_loss)

    def _shares(self, groups: Tensor) -> Tensor | None:
        """The base's weight of a collection, shared by its examples, (B,), sum 1; None for equal shares."""
        if self.base is None:
            return None
        counts = torch.bincount(groups, minlength=self.num_groups).clamp(min=1)
        shares = (self.base / counts)[groups]
        total = shares.sum()
        return shares / total if total > 0 else None

    @abstractmethod
    def worst_case(self, losses: Tensor, base: Tensor | None = None) -> Tensor:
        """The mass of each example, (B,), sum 1, from the losses and the base's shares (B,), float64 on the CPU."""

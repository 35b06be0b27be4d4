"""The worst case among mixtures that make up a share of the data: topic CVaR and batch CVaR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.learning.learners.learner import LEARNERS, LearnerOptions, Losses, WeightLearner
from trainers.learning.learners.worst_case import BatchWorstCase
from trainers.settings import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

UNITS = ("collection", "example")


@dataclass(frozen=True, kw_only=True)
class CvarOptions(LearnerOptions):
    fraction: float = setting(0.2, "share of the data that the worst case is made of")
    unit: str = setting("collection", "over collections (topic CVaR), or example: over the batch's (batch CVaR)")
    newest: float = setting(0.1, "with unit=collection: share of the newest loss in a collection's running loss")

    def violations(self) -> list[tuple[str, str]]:
        faults = [("fraction", "above 0 to 1")] * (not 0 < self.fraction <= 1)
        faults += [("unit", " or ".join(UNITS))] * (self.unit not in UNITS)
        faults += [("newest", "above 0 to 1")] * (not 0 < self.newest <= 1)
        if self.unit == "example" and self.newest != CvarOptions.newest:
            faults.append(("newest", f"{CvarOptions.newest} with cvar and unit=example, which does not read it"))
        return faults


class Cvar(WeightLearner):
    """Oren et al. 2019 (arXiv 1909.02060): the worst case over running losses. A collection not seen yet has loss 0."""

    name = "cvar"
    Options = CvarOptions
    average = "mean"
    reads_base = True
    options: CvarOptions

    def __init__(self, num_groups: int, options: LearnerOptions | None = None, lr: float | None = None) -> None:
        super().__init__(num_groups, options, lr)
        self._losses = torch.zeros(num_groups, dtype=torch.float64)
        self._seen = torch.zeros(num_groups, dtype=torch.bool)

    @classmethod
    def kind(cls, options: LearnerOptions) -> type[WeightLearner]:
        return BatchCvar if isinstance(options, CvarOptions) and options.unit == "example" else cls

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        newest = self.options.newest
        self._losses = running_losses(self._losses, self._seen, batch.means, batch.present, newest=newest)
        self._seen = self._seen | batch.present
        self.measured = self._losses
        return cvar_weights(self._losses, self.around, fraction=self.options.fraction)

    def state(self) -> dict[str, Tensor | float]:
        return {"losses": self._losses, "seen": self._seen}


LEARNERS[Cvar.name] = Cvar


class BatchCvar(BatchWorstCase):
    """Levy et al. 2020 (arXiv 2010.05893), in a CVaR set: cvar with `unit=example`."""

    name = "cvar"
    Options = CvarOptions
    options: CvarOptions

    def worst_case(self, losses: Tensor, base: Tensor | None = None) -> Tensor:
        equal = torch.full_like(losses, 1.0 / max(len(losses), 1))
        return cvar_weights(losses, equal if base is None else base, fraction=self.options.fraction)


def running_losses(past: Tensor, seen: Tensor, losses: Tensor, present: Tensor, *, newest: float) -> Tensor:
    """Exponential averages of losses, (G,): (1 − γ) · past + γ · ℓ; the first loss seen is taken whole.

    An absent collection keeps its value. Oren et al. 2019 (arXiv 1909.02060) keep one such number for each topic.

    seen:   (G,) bool, which collections had a loss before
    newest: γ, above 0 to 1; 0.1 in the code of Sagawa et al.
    """
    return torch.where(present, torch.where(seen, (1 - newest) * past + newest * losses, losses), past)


def cvar_weights(losses: Tensor, base: Tensor, *, fraction: float) -> Tensor:
    """The worst case among mixtures that make up a `fraction` of the data: maximise q · ℓ over 0 ≤ q ≤ p / α, Σ q = 1.

    Solved exactly by sorting: the greatest losses get p / α until 1 is spent; equal losses share in proportion to p.

    losses: (N,) running losses of topics (topic CVaR, Oren et al. 2019, arXiv 1909.02060), or the losses of a batch's
            examples (batch estimator of the CVaR set, Levy et al. 2020, arXiv 2010.05893)
    base:   (N,) p, sums to 1

    >>> cvar_weights(torch.tensor([1.0, 4.0, 3.0, 2.0]), torch.full((4,), 0.25), fraction=0.5).tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"the CVaR's fraction is {fraction}; allowed: above 0 to 1")
    if not len(losses):
        return base.clone()
    values, place = torch.unique(losses, return_inverse=True)  # ascending
    mass = torch.zeros_like(values).index_add(0, place, base)
    above = mass.flip(0).cumsum(0).flip(0) - mass
    share = torch.minimum(mass / fraction, (1 - above / fraction).clamp(min=0))
    return base * (share / mass.clamp(min=torch.finfo(mass.dtype).tiny))[place]

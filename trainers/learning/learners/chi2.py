"""The worst case in a χ² ball, example by example (Levy et al. 2020, arXiv 2010.05893)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.learning.learners.learner import LEARNERS, LearnerOptions
from trainers.learning.learners.worst_case import BatchWorstCase
from trainers.settings import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class Chi2(BatchWorstCase):
    """Levy et al. 2020 (arXiv 2010.05893), in a χ² set."""

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        radius: float = setting(1.0, "ρ, how far the worst case may be from equal weights")

        def violations(self) -> list[tuple[str, str]]:
            return [("radius", "0 or more")] * (not 0 <= self.radius < math.inf)

    name = "chi2"
    options: Options

    def worst_case(self, losses: Tensor, base: Tensor | None = None) -> Tensor:
        return chi2_weights(losses, base, radius=self.options.radius)


LEARNERS[Chi2.name] = Chi2


def chi2_weights(losses: Tensor, base: Tensor | None = None, *, radius: float) -> Tensor:
    """The worst case in a χ² ball around p: maximise q · ℓ over Σ q = 1, q ≥ 0, ½ Σ p_i (q_i / p_i − 1)² ≤ ρ; (N,).

    The batch estimator of the constrained χ² set, without a regulariser (Levy et al. 2020, arXiv 2010.05893; its code
    searches η by bisection). The answer has the form q ∝ p (ℓ − η)₊. Here η is exact: with the k greatest losses kept,
    of the mass P_k, η = mean_k − σ_k / √(t P_k − 1), t = 1 + 2ρ, means under p, and k by sorting. Where the ball holds
    all mass on the greatest loss (1 ≤ t p, for one), that is the answer; equal losses share it in proportion to p.

    base: (N,) p, 0 or more, sums to 1; None for equal weights, Σ (N q_i − 1)² / 2N ≤ ρ. What has no mass gets none

    >>> chi2_weights(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), radius=0.0).tolist() == [1 / 3] * 3
    True
    """
    if not 0 <= radius < float("inf"):
        raise UsageError(f"the χ² radius is {radius}; allowed: 0 or more")
    size = len(losses)
    if radius == 0 or size == 0:
        return torch.full_like(losses, 1.0 / max(size, 1)) if base is None else base.clone()
    if base is not None and not bool((base > 0).all()):
        inside = base > 0
        return torch.zeros_like(losses).masked_scatter(
            inside, chi2_weights(losses[inside], base[inside], radius=radius)
        )
    target = (1 + 2 * radius) / size  # Σ q² / mass at the border of the ball
    falling, order = losses.sort(descending=True)
    ordered = losses.max() - falling  # 0 first: how far each is below the greatest
    mass = torch.ones_like(losses) if base is None else size * base[order]
    counts = mass.cumsum(0) - mass
    sums, squares = (mass * ordered).cumsum(0) - mass * ordered, (mass * ordered**2).cumsum(0) - mass * ordered**2
    first = counts * ordered - sums  # Σ (ℓ_i − ℓ_k) over the greater ones
    second = counts * ordered**2 - 2 * ordered * sums + squares
    # Σ q² falls as η goes down from the greatest loss; a loss is kept while the ball is not yet reached at η = ℓ_k.
    above = (second > target * first**2) | (first <= 0)
    kept = float(mass[above].sum())
    mean, spread = _moments(ordered[above], None if base is None else mass[above])
    share = torch.ones_like(losses) if base is None else base
    if not spread > 0 or target * kept <= 1:
        top = share * (losses == losses.max())
        return top / top.sum()
    eta = mean + spread / math.sqrt(target * kept - 1)
    q = share * (eta - (losses.max() - losses)).clamp(min=0)
    return q / q.sum()


def _moments(values: Tensor, mass: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation under a mass, None for an equal one."""
    if mass is None:
        return values.mean(), values.std(correction=0)
    mean = (mass * values).sum() / mass.sum()
    return mean, ((mass * (values - mean) ** 2).sum() / mass.sum()).sqrt()

"""Weight updates that tDRO stands against, each a pure function with its source.

Shape legend: B examples of a batch, G collections. Everything is float64 on the CPU. `losses` is (G,), a collection's
mean loss in the batch in nats, or (B,) where it says so; `present` (G,) bool says which collections the batch holds.
A collection that is absent keeps its weight up to the renormalisation, unless a function says otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixture.errors import MixtureError, UsageError
from trainers.tdro.objective import exponentiated


def groupdro_step(weights: Tensor, losses: Tensor, *, lr: float) -> Tensor:
    """Group DRO: q_g ← q_g · exp(η · ℓ_g) / Σ, (G,) (Sagawa et al. 2019, arXiv 1911.08731, algorithm 1).

    losses: (G,), 0 for an absent collection, as in the authors' code
    lr:     η_q, 0.01 in the authors' code
    """
    return exponentiated(weights, lr * losses)


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


def chi2_weights(losses: Tensor, *, radius: float) -> Tensor:
    """The worst case in a χ² ball: maximise q · ℓ over Σ q = 1, q ≥ 0, Σ (N q_i − 1)² / 2N ≤ ρ; (N,).

    The batch estimator of the constrained χ² set, without a regulariser (Levy et al. 2020, arXiv 2010.05893; its code
    searches η by bisection). The answer has the form q ∝ (ℓ − η)₊. Here η is exact: with the k greatest losses kept,
    η = mean_k − σ_k / √(t k − 1), t = (1 + 2ρ) / N, and k by sorting. Where the ball holds all mass on the greatest
    loss (N ≤ 1 + 2ρ, for one), that is the answer; equal losses share it.

    >>> chi2_weights(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), radius=0.0).tolist() == [1 / 3] * 3
    True
    """
    if not 0 <= radius < float("inf"):
        raise UsageError(f"the χ² radius is {radius}; allowed: 0 or more")
    size = len(losses)
    if radius == 0 or size == 0:
        return torch.full_like(losses, 1.0 / max(size, 1))
    target = (1 + 2 * radius) / size  # Σ q² at the border of the ball
    ordered = losses.max() - losses.sort(descending=True).values  # 0 first: how far each is below the greatest
    counts = torch.arange(size, dtype=losses.dtype)
    sums, squares = ordered.cumsum(0) - ordered, (ordered**2).cumsum(0) - ordered**2
    first = counts * ordered - sums  # Σ (ℓ_i − ℓ_k) over the greater ones
    second = counts * ordered**2 - 2 * ordered * sums + squares
    # Σ q² falls as η goes down from the greatest loss; a loss is kept while the ball is not yet reached at η = ℓ_k.
    above = ordered[(second > target * first**2) | (first <= 0)]
    kept = len(above)
    mean, spread = above.mean(), above.std(correction=0)
    if not spread > 0 or target * kept <= 1:
        top = (losses == losses.max()).to(losses.dtype)
        return top / top.sum()
    eta = mean + spread / math.sqrt(target * kept - 1)
    q = (eta - (losses.max() - losses)).clamp(min=0)
    return q / q.sum()

"""The mathematics of tDRO as pure functions (Ma et al. 2024, arXiv 2408.10613; "release" is the authors' code).

Shape legend: B examples of a mixed batch, G collections. Losses are per example, in nats; `group_ids` (B,) int64 says
which collection an example comes from, 0 to G − 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixture.errors import UsageError

REFERENCE_FLOOR = 1e-4
MEASUREMENTS = ("relative",)


def group_mean(values: Tensor, group_ids: Tensor, num_groups: int) -> Tensor:
    """Mean of `values` (B,) per group, (G,); a group without examples gets 0.

    >>> group_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    tensor([2., 0., 5.])
    """
    totals = values.new_zeros(num_groups).index_add(0, group_ids, values)
    counts = torch.bincount(group_ids, minlength=num_groups).to(values.dtype)
    return totals / counts.clamp(min=1)


def relative_measurement(
    proxy_loss: Tensor, reference_loss: Tensor, group_ids: Tensor, num_groups: int, *, floor: float = REFERENCE_FLOOR
) -> Tensor:
    """How much the proxy still has to learn, by collection: M_g of equation 5, (G,), 0 or more.

    Per example: the reference losses are divided by their sum over the batch (L1 norm); what is then below `floor` is
    set to 1, so that an example which the reference has solved counts next to nothing; the proxy loss is divided by
    that, and averaged by collection.

    floor: a share of the batch's summed reference loss. The release's 1e-4 is a fifth of the mean at its batch of 2048,
    but a three-hundredth at 32, where solved examples then dominate instead of counting for nothing; 0.2 / B is the
    same share of the mean at a batch of B.

    Departs from the paper: equation 5 reads as a ratio of losses averaged per group; the release computes this, and
    its published weights come from it.
    """
    reference = reference_loss / reference_loss.abs().sum().clamp(min=1e-12)
    reference = torch.where(reference < floor, torch.ones_like(reference), reference)
    return group_mean((proxy_loss / reference).clamp(min=0), group_ids, num_groups)


def update_weights(
    weights: Tensor,
    proxy_loss: Tensor,
    reference_loss: Tensor,
    group_ids: Tensor,
    *,
    lr: float,
    max_norm: float = 1.0,
    measurement: str = "relative",
    floor: float = REFERENCE_FLOOR,
) -> Tensor:
    """One step of the weights: equation 4, α_g ← α_g · exp(η · ∇_g) / Σ, (G,), positive, sums to 1.

    weights:        (G,) α before the step, positive
    proxy_loss:     (B,) of the model being trained
    reference_loss: (B,) of the frozen reference on the same inputs
    lr:             η_α, 2e-2 in the paper
    floor:          of the relative measurement, see `relative_measurement`
    max_norm:       ∇ is scaled down to this L2 norm where it is longer, never up

    The step is taken in log α with plain gradient ascent, and log α is renormalised each time, as the release does.
    """
    measured = measure(proxy_loss, reference_loss, group_ids, len(weights), measurement, floor=floor)
    return step_weights(weights, measured, lr=lr, max_norm=max_norm)


def measure(
    proxy_loss: Tensor,
    reference_loss: Tensor,
    group_ids: Tensor,
    num_groups: int,
    measurement: str,
    *,
    floor: float = REFERENCE_FLOOR,
) -> Tensor:
    """The measurement by its name, (G,)."""
    if measurement not in MEASUREMENTS:
        raise UsageError(f"measurement {measurement!r}; allowed: {', '.join(MEASUREMENTS)}")
    with torch.no_grad():
        return relative_measurement(proxy_loss.detach(), reference_loss.detach(), group_ids, num_groups, floor=floor)


def step_weights(weights: Tensor, measured: Tensor, *, lr: float, max_norm: float = 1.0) -> Tensor:
    """Equation 4 for a measurement (G,) that is known."""
    with torch.no_grad():
        gradient = measured.to(weights.dtype)
        norm = torch.linalg.vector_norm(gradient)
        # As torch.nn.utils.clip_grad_norm_, which the release calls.
        gradient = gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return torch.softmax(torch.log(weights) + lr * gradient, dim=0)


def weighted_proxy_loss(proxy_loss: Tensor, weights: Tensor, group_ids: Tensor) -> Tensor:
    """The loss the proxy descends (equation 6), a scalar: an example weighs its collection's α over the batch's sum."""
    share = weights.to(proxy_loss.dtype)[group_ids]
    return (proxy_loss * (share / share.sum())).sum()

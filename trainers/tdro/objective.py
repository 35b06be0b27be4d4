"""The mathematics of tDRO as pure functions (Ma et al. 2024, arXiv 2408.10613; "release" is the authors' code).

Shape legend: B examples of a mixed batch, G collections. Losses are per example, in nats; `group_ids` (B,) int64 says
which collection an example comes from, 0 to G − 1.

What holds at the edges. A collection without examples in the batch measures 0: its weight changes by the
renormalisation only. A batch without examples, or of losses that are all 0, changes nothing. A weight of 0 stays 0.
An infinite or NaN loss raises `MixtureError`: it would move every weight and say nothing about the data.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mixture.errors import MixtureError, UsageError
from trainers.deferred import Deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

REFERENCE_FLOOR = 1e-4
MEASUREMENTS = ("relative", "relative_group", "excess", "loss")
NEEDS_REFERENCE = ("relative", "relative_group", "excess")


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

    floor: a share of the batch's summed reference loss, above 0 to below 1. The release's script gathers 512 examples
    at a time, of whose mean loss 1e-4 is a twentieth; at 32 it would be a three-hundredth, and solved examples dominate
    instead of counting for nothing. 0.05 / B is the same share of the mean at a batch of B.

    Departs from the paper: equation 5 reads as a ratio of losses averaged per group; the release computes this, and
    its published weights come from it.
    """
    reference = reference_loss / reference_loss.abs().sum().clamp(min=1e-12)
    reference = torch.where(reference < floor, torch.ones_like(reference), reference)
    return group_mean((proxy_loss / reference).clamp(min=0), group_ids, num_groups)


def relative_group_measurement(
    proxy_loss: Tensor, reference_loss: Tensor, group_ids: Tensor, num_groups: int, *, floor: float = REFERENCE_FLOOR
) -> Tensor:
    """Equation 5 read literally: mean proxy loss of a collection over its mean reference loss, (G,), 0 or more.

    A collection that the reference has solved (its mean is below `floor` of the sum of all means) is divided by that
    sum instead, and so counts next to nothing, as a solved example does in `relative_measurement`.

    Proxy and reference lose alike, so the ratios lie close together and the weights stay nearly uniform.
    """
    proxy = group_mean(proxy_loss, group_ids, num_groups)
    reference = group_mean(reference_loss, group_ids, num_groups)
    total = reference.abs().sum()
    total = torch.where(total > 0, total, torch.ones_like(total))
    return (proxy / torch.where(reference < floor * total, total, reference)).clamp(min=0)


def excess_measurement(proxy_loss: Tensor, reference_loss: Tensor, group_ids: Tensor, num_groups: int) -> Tensor:
    """Proxy loss − reference loss of each example, at least 0, averaged by collection, (G,), nats.

    The paper's ablation "minus" as the release computes it; also the score of DoReMi (Xie et al. 2023, 2305.10429).
    """
    return group_mean((proxy_loss - reference_loss).clamp(min=0), group_ids, num_groups)


def update_weights(
    weights: Tensor,
    proxy_loss: Tensor,
    reference_loss: Tensor | None,
    group_ids: Tensor,
    *,
    lr: float,
    max_norm: float = 1.0,
    measurement: str = "relative",
    floor: float = REFERENCE_FLOOR,
) -> Tensor:
    """One step of the weights: equation 4, α_g ← α_g · exp(η · ∇_g) / Σ, (G,), sums to 1, nothing changed in place.

    weights:        (G,) α before the step, 0 or more; a weight of 0 stays 0
    proxy_loss:     (B,) of the model being trained, finite
    reference_loss: (B,) of the frozen reference on the same inputs, finite; None only with the measurement `loss`
    lr:             η_α, 2e-2 in the paper
    max_norm:       ∇ is scaled down to this L2 norm where it is longer, never up
    measurement:    relative (the release's), relative_group (equation 5 read literally), excess, loss
    floor:          of the relative measurements, see `relative_measurement`

    The step is taken in log α with plain gradient ascent, and log α is renormalised each time, as the release does.
    Half precision is computed in float32, and such weights come back as that: a step is finer than they are.
    Raises `UsageError` for arguments that do not fit, `MixtureError` for losses that are not finite.
    """
    if weights.ndim != 1:
        raise UsageError(f"weights of shape {tuple(weights.shape)}; allowed: one dimension, one for each collection")
    weights = _whole(weights)
    measured = measure(proxy_loss, reference_loss, group_ids, len(weights), measurement, floor=floor)
    return step_weights(weights, measured, lr=lr, max_norm=max_norm)


def measure(
    proxy_loss: Tensor,
    reference_loss: Tensor | None,
    group_ids: Tensor,
    num_groups: int,
    measurement: str,
    *,
    floor: float = REFERENCE_FLOOR,
) -> Tensor:
    """The measurement by its name, (G,), 0 or more; 0 for a collection without examples. Errors: `update_weights`."""
    if measurement not in MEASUREMENTS:
        raise UsageError(f"measurement {measurement!r}; allowed: {', '.join(MEASUREMENTS)}")
    if not 0 < floor < 1:
        raise UsageError(f"the reference's floor is {floor}; allowed: above 0 to below 1")
    check_losses("proxy", proxy_loss, group_ids, num_groups)
    group_ids = group_ids.long()
    with torch.no_grad():
        proxy = _whole(proxy_loss.detach())
        if measurement == "loss":
            return group_mean(proxy.clamp(min=0), group_ids, num_groups)
        if reference_loss is None:
            raise UsageError(f"measurement {measurement!r} needs the losses of a reference model; without: loss")
        check_losses("reference", reference_loss, group_ids, num_groups)
        reference = _whole(reference_loss.detach())
        if measurement == "excess":
            return excess_measurement(proxy, reference, group_ids, num_groups)
        by_name = relative_measurement if measurement == "relative" else relative_group_measurement
        return by_name(proxy, reference, group_ids, num_groups, floor=floor)


def _whole(values: Tensor) -> Tensor:
    """In float32 at least: a sum of 2,048 losses in bfloat16 stops at 256."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def check_losses(model: str, losses: Tensor, group_ids: Tensor, num_groups: int) -> None:
    """Raise where a model's losses (B,) do not fit `group_ids` (`UsageError`) or are not finite (`MixtureError`)."""
    if losses.ndim != 1 or losses.shape != group_ids.shape:
        raise UsageError(
            f"{model} losses of shape {tuple(losses.shape)} and group ids of shape {tuple(group_ids.shape)};"
            " allowed: one dimension, equal lengths"
        )
    if group_ids.dtype.is_floating_point or group_ids.dtype == torch.bool:
        raise UsageError(f"group ids of type {group_ids.dtype}; allowed: integers")
    if len(group_ids) and not 0 <= int(group_ids.min()) <= int(group_ids.max()) < num_groups:
        raise UsageError(
            f"group ids are {int(group_ids.min())} to {int(group_ids.max())}; allowed: 0 to {num_groups - 1}"
        )
    odd = ~torch.isfinite(losses.detach())
    if odd.any():
        groups = sorted(set(group_ids[odd].tolist()))
        named = ", ".join(map(str, groups[:8])) + (", …" if len(groups) > 8 else "")
        raise MixtureError(
            f"{int(odd.sum())} of {len(losses)} {model} losses are infinite or NaN, in groups {named};"
            " lower the learning rate or look at those collections"
        )


def step_weights(weights: Tensor, measured: Tensor, *, lr: float, max_norm: float = 1.0) -> Tensor:
    """Equation 4 for a measurement (G,) that is known; the other arguments are those of `update_weights`."""
    if not (math.isfinite(lr) and lr >= 0):
        raise UsageError(f"the weights' learning rate is {lr}; allowed: 0 or more")
    if not max_norm > 0:
        raise UsageError(f"the weights' max_norm is {max_norm}; allowed: above 0")
    with torch.no_grad():
        gradient = measured.to(weights.dtype)
        norm = torch.linalg.vector_norm(gradient)
        if not torch.isfinite(norm):
            raise MixtureError("the measurement of a collection is infinite or NaN; look at the losses of this step")
        # As torch.nn.utils.clip_grad_norm_, which the release calls.
        gradient = gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return exponentiated(weights, lr * gradient)


def exponentiated(weights: Tensor, exponents: Tensor) -> Tensor:
    """α_g · exp(x_g) / Σ, (G,), in logarithms so that no exponent overflows; a weight of 0 stays 0."""
    if not (len(weights) and bool(torch.isfinite(weights).all()) and bool((weights >= 0).all()) and weights.sum() > 0):
        raise UsageError("weights must be finite, 0 or more, and not all 0; start from equal weights")
    return torch.softmax(torch.log(weights) + exponents, dim=0)


def example_shares(weights: Tensor, group_ids: Tensor) -> Tensor:
    """The α of each example's collection over the sum of these in the batch, (B,), sums to 1, as the release has it.

    The loss that the proxy descends (equation 6) is their dot product with the examples' losses. All 0 where every
    collection of the batch has weight 0.
    """
    share = weights[group_ids]
    return share / share.sum().clamp(min=torch.finfo(share.dtype).tiny)

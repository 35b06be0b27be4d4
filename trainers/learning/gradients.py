"""Inner products of the collections' gradients, of dense models and of static ones, whose gradients have few rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainers.parallel import ranks


def gradient_products(losses: Tensor, groups: Tensor, num_groups: int, parameters: list[torch.nn.Parameter]) -> Tensor:
    """Inner products of the gradients of the groups' mean losses, (G, G) float64 on the CPU; 0 for absent groups.

    One backward pass, and one gradient in memory, for each collection of the batch: LoRA keeps them small. Of a table
    with sparse gradients only the rows count that the batch has touched: all others are 0 in every gradient.
    """
    present = torch.unique(groups).tolist()
    found = []
    for group in present:
        mean = losses[(groups == group).to(losses.device)].mean()
        gradients = torch.autograd.grad(mean, parameters, retain_graph=True, allow_unused=True)
        found.append([None if g is None else g.coalesce() if g.is_sparse else g for g in gradients])
    touched = _touched(found, parameters)
    flat = []
    while found:
        parts = [_flat(g, p, rows) for g, p, rows in zip(found.pop(0), parameters, touched, strict=True)]
        flat.append(ranks.summed(torch.cat(parts)))
    stacked = torch.stack(flat)
    products = torch.zeros(num_groups, num_groups, dtype=torch.float64)
    products[np.ix_(present, present)] = (stacked @ stacked.T).double().cpu()
    return products


def _touched(found: Sequence[Sequence[Tensor | None]], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """For each parameter the rows (R,) that any gradient of any rank has, in order; None where gradients are dense."""
    sparse = [any(g is not None and g.is_sparse for g in column) for column in zip(*found, strict=True)]
    anywhere = ranks.summed(torch.tensor(sparse, dtype=torch.int32, device=parameters[0].device)).tolist()
    rows: list[Tensor | None] = [None] * len(parameters)
    for k, parameter in enumerate(parameters):
        if anywhere[k]:
            seen = torch.zeros(len(parameter), dtype=torch.int32, device=parameter.device)
            for gradients in found:
                if (gradient := gradients[k]) is not None:
                    seen[gradient.indices()[0]] = 1
            rows[k] = ranks.summed(seen).nonzero().squeeze(1)
    return rows


def _flat(gradient: Tensor | None, parameter: Tensor, rows: Tensor | None) -> Tensor:
    """A gradient, or its `rows` where it is sparse, as one float32 vector."""
    if rows is None:
        return (torch.zeros_like(parameter) if gradient is None else gradient).reshape(-1).float()
    values = parameter.new_zeros(len(rows), *parameter.shape[1:], dtype=torch.float32)
    if gradient is not None:
        values[torch.searchsorted(rows, gradient.indices()[0].contiguous())] = gradient.values().float()
    return values.reshape(-1)

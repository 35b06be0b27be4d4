"""AdamW on the rows that a batch has: for static models, of whose table a step sees a few thousand rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Rows moved at a time: few enough to stay in a processor's cache.
AT_ONCE = 1_024


class RowAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, 1711.05101). Of a parameter with a sparse gradient only the gradient's rows
    move: their moments, their weights, and the decay of these. Other rows stay as they are, moments included, as in
    `torch.optim.SparseAdam`. Bias correction counts all steps.

    Departs from AdamW there: a row that a batch does not have neither decays nor goes on by its momentum.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.tensor(0.0), "mean": torch.zeros_like(parameter),
                      "square": torch.zeros_like(parameter)}  # fmt: skip
        state["step"] += 1
        count = float(state["step"])
        if not gradient.is_sparse:
            self._adam(parameter, gradient, state["mean"], state["square"], count, group)
            return
        gradient = gradient.coalesce()
        whole = parameter, state["mean"], state["square"]
        for rows, values in zip(gradient.indices()[0].split(AT_ONCE), gradient.values().split(AT_ONCE), strict=True):
            moved = [tensor.index_select(0, rows) for tensor in whole]
            self._adam(moved[0], values, moved[1], moved[2], count, group)
            for tensor, part in zip(whole, moved, strict=True):
                tensor.index_copy_(0, rows, part)

    @staticmethod
    def _adam(
        weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, count: float, group: dict[str, Any]
    ) -> None:
        """One step of AdamW, in place."""
        rate, (first, second) = group["lr"], group["betas"]
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = square.sqrt().div_((1 - second**count) ** 0.5).add_(group["eps"])
        weights.mul_(1 - rate * group["weight_decay"])
        weights.addcdiv_(mean, scale, value=-rate / (1 - first**count))


@torch.no_grad()
def clip_gradients(parameters: Sequence[torch.nn.Parameter], most: float) -> Tensor:
    """Scale the gradients down to the norm `most`, in place, as `torch.nn.utils.clip_grad_norm_` does with gradients
    that are not sparse; the norm before."""
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(values)
    scale = torch.clamp(most / (norm + 1e-6), max=1.0)
    for value in values:
        value.mul_(scale)
    return norm

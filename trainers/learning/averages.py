"""The weights of a run: within their bounds, their three averages, and whether they have come to rest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixture.weights import bounded

EMA_FACTOR = 0.1


@dataclass
class WeightState:
    """Weights (G,) in float64. `state_dict` and `load_state_dict` let a checkpoint carry them.

    current:   after the last step
    mean, ema: over all steps; exponential with factor 0.1 (the release's)
    floored:   (G,) int64, in how many steps the floor held a weight up
    capped:    (G,) int64, in how many steps the epoch cap held it down
    """

    current: Tensor
    mean: Tensor
    ema: Tensor
    floored: Tensor
    capped: Tensor
    num_steps: int = 0

    @classmethod
    def start(cls, weights: Tensor) -> WeightState:
        """Before the first step, from weights (G,) float64."""
        never = torch.zeros(len(weights), dtype=torch.int64)
        return cls(weights.clone(), weights.clone(), weights.clone(), never, never.clone())

    def advance(self, new: Tensor, bound: Tensor | None = None) -> None:
        """Take the next weights in; `bound` (G,) says which are at the floor (−1) or at the cap (1)."""
        self.current = new
        self.mean = (self.mean * self.num_steps + new) / (self.num_steps + 1)
        self.ema = self.ema * (1 - EMA_FACTOR) + new * EMA_FACTOR
        if bound is not None:
            self.floored, self.capped = self.floored + (bound < 0), self.capped + (bound > 0)
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in vars(self):
            setattr(self, name, state[name])


def constrain(weights: Tensor, floor: float = 0.0, caps: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights (G,) between a floor and caps (G,), as `mixture.weights.bounded` has it, and which were bound.

    Returns the weights (G,) float64, sum 1, and (G,) int8: −1 at the floor, 1 at the cap, 0 free. Caps for a number of
    epochs: `mixture.weights.epoch_caps`. Raises `UsageError` where no weights fit.
    """
    limits = None if caps is None else caps.detach().double().cpu().numpy()
    result, bound = bounded(weights.detach().double().cpu().numpy(), floor, limits)
    return torch.from_numpy(result), torch.from_numpy(bound)


def hard_for_both(
    rows: Sequence[Mapping[str, Any]], start: Mapping[str, float], column: str = "weight"
) -> dict[str, float]:
    """Collections that gained weight although the reference is hardly ahead of the proxy there: noise looks like that.

    rows:   of the history: collection, step, weights, proxy_loss, reference_loss, num_examples; the later half counts
    start:  collection -> weight before the first step
    column: which weights of the rows

    Returns, for each, how many times the reference's mean loss the proxy's is, where that is less than half the median
    over all collections. Empty without a reference.
    """
    last = max((row["step"] for row in rows), default=0)
    totals = {name: [0.0, 0.0] for name in start}
    for row in rows:
        if row["step"] > last // 2 and row["reference_loss"] is not None:
            totals[row["collection"]][0] += row["proxy_loss"] * row["num_examples"]
            totals[row["collection"]][1] += row["reference_loss"] * row["num_examples"]
    leads = {name: proxy / reference for name, (proxy, reference) in totals.items() if reference > 0}
    heavier = {row["collection"] for row in rows if row["step"] == last and row[column] > start[row["collection"]]}
    middle = statistics.median(leads.values()) if leads else 0.0
    return {name: lead for name, lead in leads.items() if name in heavier and lead < middle / 2}


def drift(weights: Sequence[Sequence[float]]) -> tuple[float, float]:
    """How far the weights moved in the last tenth of the steps, and in the tenth before: total variation, 0 to 1.

    weights: (S, G), the weights after each step. Where the first number is not far below the second, more steps would
    go on changing the mixture.

    >>> drift([[0.5, 0.5]] * 8 + [[0.5, 0.5], [0.75, 0.25]])
    (0.25, 0.0)
    """
    values = torch.tensor(weights, dtype=torch.float64)
    span = max(1, len(values) // 10)
    last = len(values) - 1

    def moved(start: int, end: int) -> float:
        return float((values[max(end, 0)] - values[max(start, 0)]).abs().sum() / 2)

    return moved(last - span, last), moved(last - 2 * span, last - span)

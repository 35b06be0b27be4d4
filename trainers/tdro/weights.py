"""The three averages of the weights that tDRO keeps: current, mean over steps, and exponential moving average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EMA_FACTOR = 0.1


@dataclass
class WeightState:
    """Weights (G,) in float64. `state_dict` and `load_state_dict` let a checkpoint carry them."""

    current: Tensor
    mean: Tensor
    ema: Tensor
    num_steps: int = 0

    @classmethod
    def uniform(cls, num_groups: int) -> WeightState:
        start = torch.full((num_groups,), 1.0 / num_groups, dtype=torch.float64)
        return cls(start, start.clone(), start.clone())

    def advance(self, new: Tensor) -> None:
        """Take the next weights in: mean over all steps, EMA with factor 0.1 (the release's)."""
        self.current = new
        self.mean = (self.mean * self.num_steps + new) / (self.num_steps + 1)
        self.ema = self.ema * (1 - EMA_FACTOR) + new * EMA_FACTOR
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"current": self.current, "mean": self.mean, "ema": self.ema, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.current, self.mean, self.ema = state["current"], state["mean"], state["ema"]
        self.num_steps = state["num_steps"]

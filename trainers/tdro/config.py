"""Settings of tDRO."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.settings import TrainingSettings
from trainers.tdro.objective import MEASUREMENTS


@dataclass(frozen=True, kw_only=True)
class TdroSettings(TrainingSettings):
    """`TrainingSettings` of the proxy, and the weights' own."""

    weights_learning_rate: float = 2e-2  # η_α
    weights_max_norm: float = 1.0
    measurement: str = "relative"
    average: str = "current"  # which weights become the mixture: current, mean or ema

    def _violations(self) -> list[tuple[str, str]]:
        found = super()._violations()
        if not self.weights_learning_rate > 0:
            found.append(("weights_learning_rate", "above 0"))
        if not self.weights_max_norm > 0:
            found.append(("weights_max_norm", "above 0"))
        if self.measurement not in MEASUREMENTS:
            found.append(("measurement", ", ".join(MEASUREMENTS)))
        if self.average not in ("current", "mean", "ema"):
            found.append(("average", "current, mean or ema"))
        return found

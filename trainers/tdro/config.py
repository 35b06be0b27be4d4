"""Settings of tDRO."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.settings import TrainingSettings
from trainers.tdro.objective import MEASUREMENTS, REFERENCE_FLOOR


@dataclass(frozen=True, kw_only=True)
class TdroSettings(TrainingSettings):
    """`TrainingSettings` of the proxy, and the weights' own."""

    weights_learning_rate: float = 2e-2  # η_α
    weights_max_norm: float = 1.0
    measurement: str = "relative"
    reference_floor: float = REFERENCE_FLOOR  # share of the batch's reference loss; 0.2 / batch_size for small batches
    average: str = "current"  # which weights become the mixture: current, mean or ema

    def _violations(self) -> list[tuple[str, str]]:
        found = super()._violations()
        if not self.weights_learning_rate > 0:
            found.append(("weights_learning_rate", "above 0"))
        if not self.weights_max_norm > 0:
            found.append(("weights_max_norm", "above 0"))
        if not 0 <= self.reference_floor < 1:
            found.append(("reference_floor", "0 to below 1"))
        if self.measurement not in MEASUREMENTS:
            found.append(("measurement", ", ".join(MEASUREMENTS)))
        if self.average not in ("current", "mean", "ema"):
            found.append(("average", "current, mean or ema"))
        return found

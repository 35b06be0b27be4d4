"""tDRO (Ma et al. 2024, arXiv 2408.10613); its mathematics is in `trainers.tdro.objective`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from trainers.learning.learners.curves import LossCurves
from trainers.learning.learners.learner import LEARNERS, LearnerOptions, Losses, WeightLearner
from trainers.settings import setting
from trainers.tdro.objective import (
    MEASUREMENTS,
    NEEDS_REFERENCE,
    REFERENCE_FLOOR,
    example_shares,
    measure,
    step_weights,
)

if TYPE_CHECKING:
    from torch import Tensor

# The release's floor is a share of the loss summed over what it gathers at once, 64 examples of 8 GPUs (a step of
# 2048 is four of these): a twentieth of the mean. Left to itself the floor stays that share at any batch size.
RELEASE_GATHERED = 512
HAVE_FLOOR = ("relative", "relative_group")
# What the learner measures itself, beside those of the paper: it remembers the proxy's curves.
FORECAST = "forecast"
CHOICES = (*MEASUREMENTS, FORECAST)


class Tdro(WeightLearner):
    """Ma et al. 2024 (arXiv 2408.10613), with any measurement; bit for bit what `update_weights` gives.

    The measurement `forecast` is ours: the excess over a forecast of the proxy's own loss (`LossCurves`) in place of a
    reference's. It is by collection, not the mean of max(0, ·) over examples as `excess` is: examples scatter about one
    forecast, the most in noise, and their positive halves alone would count as excess.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options(LearnerOptions):
        measurement: str = setting("relative", f"what the weights climb: {', '.join(CHOICES)}")
        weights_max_norm: float = setting(1.0, "the weights' gradient is scaled down to this norm")
        reference_floor: float | None = setting(
            None, "an example with a smaller share of the batch's reference loss is solved; none: 0.0512 / batch_size"
        )

        def violations(self) -> list[tuple[str, str]]:
            faults = [("measurement", ", ".join(CHOICES))] * (self.measurement not in CHOICES)
            faults += [("weights_max_norm", "above 0")] * (not self.weights_max_norm > 0)
            if self.reference_floor is None:
                return faults
            if self.measurement not in HAVE_FLOOR:
                allowed = f"nothing with tdro and measurement={self.measurement}, which does not read it"
                return [*faults, ("reference_floor", allowed)]
            return faults + [("reference_floor", "above 0 to below 1")] * (not 0 < self.reference_floor < 1)

        def completed(self, batch_size: int) -> Self:
            if self.reference_floor is not None or self.measurement not in HAVE_FLOOR:
                return self
            return replace(self, reference_floor=REFERENCE_FLOOR * RELEASE_GATHERED / batch_size)

    name = "tdro"
    rate = 2e-2
    options: Options

    def __init__(self, num_groups: int, options: LearnerOptions | None = None, lr: float | None = None) -> None:
        super().__init__(num_groups, options, lr)
        self.needs_reference = self.options.measurement in NEEDS_REFERENCE
        self.forecasts = self.options.measurement == FORECAST
        self._curves = LossCurves(num_groups) if self.forecasts else None

    def step(self, weights: Tensor, batch: Losses) -> Tensor:
        if self._curves is not None:
            self._curves.observe(batch, steps=self.steps)
            self.forecast = self._curves.forecast
            self.measured = self._curves.excess(self.around)
        else:
            floor = self.options.reference_floor or REFERENCE_FLOOR
            self.measured = measure(
                batch.proxy, batch.reference, batch.groups, self.num_groups, self.options.measurement, floor=floor
            )
        return step_weights(weights, self.measured, lr=self.lr, max_norm=self.options.weights_max_norm)

    def example_weights(self, weights: Tensor, proxy_loss: Tensor, group_ids: Tensor) -> Tensor:
        """As the release: α of the example's collection over the sum of these in the batch."""
        return example_shares(weights.to(proxy_loss), group_ids).detach()

    def state(self) -> dict[str, Tensor | float]:
        return {} if self._curves is None else self._curves.state()

    def restore(self, state: dict[str, Tensor | float]) -> None:
        if self._curves is not None:
            self._curves.restore(state)


LEARNERS[Tdro.name] = Tdro

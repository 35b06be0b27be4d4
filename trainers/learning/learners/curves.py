"""The proxy's loss curves by collection, and where they are forecast to end: what stands in for a reference model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainers.deferred import Deferred
from trainers.learning.forecast import fit_power_law
from trainers.learning.learners.learner import Losses

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

MOST_POINTS = 64  # of a curve, as in DRPruning's release
LEAST_POINTS = 11
SKIPPED = 0.2  # share of the steps that no curve has: warm-up, and the fall to what chance gives, noise included


class LossCurves:
    """DRPruning's dynamic reference loss (Deng et al. 2025, arXiv 2411.14055): where a power law through a curve ends.

    A point is a collection's mean loss over a span of steps, over the examples of it seen by the middle of the span.
    After each span the curves are fitted anew, from `LEAST_POINTS` points on. The loss forecast is that after as many
    examples as the collection will have had at the end.

    now:      (G,) the fitted curve at the examples seen so far, NaN before the first fit
    forecast: (G,) the same at the end, at most `now`

    Departs from the release: the excess is measured from the fitted curve, not from a running loss, which lags behind a
    falling curve and scatters (planted noise then gets a larger share, `benchmarks/planted_truth.py`). A forecast may
    rise again, since one bad fit would otherwise mark a collection for ever. Points are means over all steps in order,
    where the release keeps random evaluations.
    """

    def __init__(self, num_groups: int) -> None:
        self.step = 0
        self.before = torch.zeros(num_groups, dtype=torch.float64)  # examples of the steps skipped
        self.examples = torch.zeros(MOST_POINTS, num_groups, dtype=torch.float64)
        self.totals = torch.zeros(MOST_POINTS, num_groups, dtype=torch.float64)  # losses summed
        self.now = torch.full((num_groups,), math.nan, dtype=torch.float64)
        self.forecast = self.now.clone()

    def observe(self, batch: Losses, *, steps: int) -> None:
        """Take a batch in, of a run of so many steps."""
        self.step += 1
        counts = torch.bincount(batch.groups, minlength=batch.num_groups).double()
        skipped = int(SKIPPED * steps)
        if self.step <= skipped:
            self.before += counts
            return
        span = max(1, math.ceil((steps - skipped) / MOST_POINTS))
        place, within = divmod(self.step - skipped - 1, span)
        place = min(place, MOST_POINTS - 1)  # a run that is longer than was said
        self.examples[place] += counts
        self.totals[place] += batch.means * counts
        if within == span - 1:
            self._fit(max(1.0, steps / self.step))

    def _fit(self, ahead: float) -> None:
        """Forecast each curve; `ahead` is how many times as many examples there will be at the end."""
        past = self.before + self.examples.cumsum(0)
        middles = past - self.examples / 2
        for group in range(len(self.forecast)):
            held = self.examples[:, group] > 0
            if int(held.sum()) < LEAST_POINTS:
                continue
            losses = (self.totals[held, group] / self.examples[held, group]).clamp(min=0)
            law = fit_power_law(middles[held, group].clamp(min=1).numpy(), losses.numpy())
            seen = float(past[-1, group])
            self.now[group], self.forecast[group] = law.at(seen), law.at(ahead * seen)

    def excess(self, base: Tensor) -> Tensor:
        """How far each curve will still fall, (G,), 0 or more.

        A collection without a forecast gets the mean of the others under `base` (G,), which neither raises nor lowers
        it; all are 0 before the first forecast.
        """
        known = ~self.forecast.isnan()
        found = torch.where(known, self.now - self.forecast, torch.zeros_like(self.now))
        mass = base * known
        middle = (mass * found).sum() / mass.sum().clamp(min=torch.finfo(mass.dtype).tiny)
        return torch.where(known, found, middle)

    def state(self) -> dict[str, Tensor | float]:
        """What a checkpoint must carry."""
        return {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in vars(self).items()}

    def restore(self, state: dict[str, Tensor | float]) -> None:
        """Take over what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value)

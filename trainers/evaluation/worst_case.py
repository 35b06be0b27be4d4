"""The worst mean over suites, were other suites to count more: within a Kullback-Leibler ball around equal weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mixture.errors import UsageError

# Nats. Of three equal weights one can then become 0.55 at most, of thirteen 0.22.
RADIUS = 0.1


@dataclass(frozen=True)
class WorstCase:
    """value: the mean under `weights` (T,), which sum to 1 and are those of the ball that make it least."""

    value: float
    weights: np.ndarray


def worst_case(scores: ArrayLike, reference: ArrayLike | None = None, *, radius: float = RADIUS) -> WorstCase:
    """min Σ q_t u_t over weights q with KL(q ‖ w) ≤ radius, of suites with scores u.

    q ∝ w · exp(−u / β): the weights that the learner `kl` gives the losses −u. Radius 0 is the mean under w. From
    −log of the worst suite's weight on, all is on it, and the value is the least score.

    Suites differ in level: of raw scores the hardest suite decides, whatever a model does to it. Where models are
    compared, the worst case of their *differences* to one of them says which lost most somewhere.

    scores:    (T,)
    reference: (T,) w, 0 or more, sums to 1; default: equal

    >>> round(worst_case([0.7, 0.6, 0.2]).value, 4), round(worst_case([0.5, 0.48, 0.4]).value, 4)
    (0.4007, 0.4401)
    """
    import torch

    from trainers.learning.learners.kl import kl_weights

    values = np.asarray(scores, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise UsageError(f"`scores` are {values.tolist()}; allowed: one or more finite numbers")
    base = np.full(len(values), 1 / len(values)) if reference is None else np.asarray(reference, dtype=np.float64)
    if base.shape != values.shape or not (base >= 0).all() or abs(base.sum() - 1) > 1e-9:
        raise UsageError(f"`reference` is {base.tolist()}; allowed: {len(values)} weights of 0 or more that sum to 1")
    weights = kl_weights(torch.from_numpy(-values), torch.from_numpy(base), radius=radius).numpy()
    return WorstCase(float(weights @ values), weights)

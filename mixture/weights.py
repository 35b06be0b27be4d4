"""Weights without training: by size (`temperature_weights`, `unimax_weights`), and kept between a floor and caps.

A floor says how little a collection may weigh; a cap how much, mostly so that a small collection is not repeated more
than a number of epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mixture.errors import UsageError

# Of a fine-tuning that is told nothing else: the paper's steps, in batches that a small machine holds.
USUAL_STEPS, USUAL_BATCH = 1000, 64
# Repeating data up to about four times is as good as new data (Muennighoff et al. 2023, arXiv 2305.16264).
MANY_EPOCHS = 4
ROUNDING = 1e-9
SMALLEST = 1e-200


def normalise(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights scaled to sum 1. A negative, infinite or all-zero input is a `UsageError`."""
    for name, value in weights.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise UsageError(f"weight of {name!r} is {value}; allowed: 0 or more")
    top = max(weights.values(), default=0.0)
    if top <= 0.0:
        raise UsageError("no weight is above zero")
    # By the largest first, so that a sum of huge weights stays finite; where that is exact it changes no bit.
    scale = 2.0 ** (math.frexp(top)[1] - 1)
    total = math.fsum(value / scale for value in weights.values())
    return {name: value / scale / total for name, value in weights.items()}


def temperature_weights(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Weights ∝ size^(1/T): T = 1 is proportional to size, T → ∞ uniform (Arivazhagan et al. 2019, 1907.05019, §4.2).

    >>> {name: round(weight, 12) for name, weight in temperature_weights({"a": 100, "b": 300}, 1.0).items()}
    {'a': 0.25, 'b': 0.75}
    >>> temperature_weights({"a": 100, "b": 300}, math.inf)
    {'a': 0.5, 'b': 0.5}
    """
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}; allowed: above 0")
    empty = sorted(name for name, size in sizes.items() if size < 1)
    if empty:
        raise UsageError(f"collections without examples: {', '.join(empty)}")
    return tempered(sizes, temperature)


def tempered(values: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Positive values to the power of 1/T, scaled to sum 1."""
    # In logarithms: sizes of 10^7 to the power of 1/T overflow at a small T.
    logs = {name: math.log(value) / temperature for name, value in values.items()}
    top = max(logs.values())
    return normalise({name: math.exp(value - top) for name, value in logs.items()})


def unimax_weights(sizes: Mapping[str, int], budget: int, max_epochs: float) -> dict[str, float]:
    """Equal weights, but no collection repeated more than `max_epochs` times (UniMax, Chung et al. 2023, 2304.09151).

    sizes:  collection -> examples
    budget: examples that the training draws in all, steps × batch size

    Small collections are held at their cap, and what they leave is shared equally by the others. Where the budget is
    more than all collections at their caps, every one is capped, and the weights are proportional to the sizes.

    >>> unimax_weights({"a": 10, "b": 100, "c": 1000}, budget=100, max_epochs=2)
    {'a': 0.2, 'b': 0.4, 'c': 0.4}
    """
    names = sorted(sizes)
    caps = epoch_caps(np.array([sizes[name] for name in names], dtype=np.float64), budget, max_epochs)
    if caps.sum() <= 1.0:
        return temperature_weights(sizes, 1.0)
    weights, _ = bounded(np.full(len(names), 1.0 / len(names)), 0.0, caps)
    return normalise(dict(zip(names, weights.tolist(), strict=True)))


def epoch_caps(sizes: np.ndarray, budget: int, max_epochs: float) -> np.ndarray:
    """The weights (G,) at which `budget` drawn examples repeat a collection `max_epochs` times.

    sizes:  (G,) examples in each collection
    budget: examples that the run draws in all, steps × batch size
    """
    if not (np.isfinite(max_epochs) and max_epochs > 0):
        raise UsageError(f"the epoch cap is {max_epochs}; allowed: above 0")
    if budget < 1:
        raise UsageError(f"the budget is {budget} examples; allowed: 1 or more, steps × batch size of the run")
    if (sizes < 1).any():
        raise UsageError(f"{int((sizes < 1).sum())} collections have no examples; leave them out")
    return np.asarray(sizes, dtype=np.float64) * max_epochs / budget


def bounded(weights: np.ndarray, floor: float = 0.0, caps: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Weights (G,) projected onto {w ≥ floor, w ≤ caps, Σ w = 1}, and which ones were bound.

    The projection is that of the relative entropy: all weights are scaled by one factor and cut at their bounds, so
    what is not bound keeps its ratios. Where weights of 0 must take what the caps of the others leave, they share it
    equally. Weights that already fit are returned as they are, bit for bit.

    weights: (G,) 0 or more, sum 1
    caps:    (G,) or None for none

    Returns the weights (G,) float64, and (G,) int8: −1 at the floor, 1 at the cap, 0 between, all 0 where the weights
    fitted before.

    Raises `UsageError` where no weights fit.
    """
    given = np.asarray(weights, dtype=np.float64)
    low = np.full_like(given, floor)
    high = np.ones_like(given) if caps is None else np.minimum(np.asarray(caps, dtype=np.float64), 1.0)
    _check(given, low, high)
    if (given >= low).all() and (given <= high).all():
        return given.copy(), np.zeros(len(given), dtype=np.int8)
    given = np.where(given < SMALLEST, 0.0, given)  # as nothing: bounds over it would overflow
    positive = given > 0
    reachable = np.where(positive, high, low)
    if reachable.sum() >= 1.0:
        result = _scaled(given, low, high)
    elif positive.all():  # the caps sum to 1, but for rounding
        result = high
    else:  # the positive ones are all at their caps
        result = reachable
        result[~positive] = _scaled(
            np.ones(int((~positive).sum())), low[~positive], high[~positive], 1.0 - high[positive].sum()
        )
    at_floor, at_cap = (result == low) & (low > 0), (result == high) & (high < 1)
    return result / result.sum(), np.where(at_cap, 1, np.where(at_floor, -1, 0)).astype(np.int8)


def _scaled(weights: np.ndarray, low: np.ndarray, high: np.ndarray, total: float = 1.0) -> np.ndarray:
    """clip(λ · weights, low, high) with the λ that makes the sum `total`; exact, by the λ at which weights are cut."""
    positive = weights > 0
    points = np.unique(np.concatenate([low[positive] / weights[positive], high[positive] / weights[positive]]))
    # The sum rises with λ and is a straight line between two points: halve the points, then solve the line.
    first, last = 0, len(points) - 1
    while last - first > 1:
        middle = (first + last) // 2
        if np.clip(points[middle] * weights, low, high).sum() < total:
            first = middle
        else:
            last = middle
    between = (points[first] + points[last]) / 2
    at_low, at_high = between * weights <= low, between * weights >= high
    free = ~(at_low | at_high)
    result = np.where(at_high, high, low)
    rest = total - result[~free].sum()
    if free.any():
        result[free] = np.clip(weights[free] * (rest / weights[free].sum()), low[free], high[free])
    return result


def _check(weights: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    if not (weights.ndim == 1 and len(weights) and (weights >= 0).all() and abs(weights.sum() - 1.0) <= 1e-6):
        raise UsageError("weights to bound must be 0 or more and sum to 1")
    if high.shape != low.shape:
        raise UsageError(f"{len(high)} caps for {len(weights)} weights; allowed: one for each")
    if not (low[0] >= 0 and low.sum() <= 1.0 + ROUNDING):
        raise UsageError(f"the floor is {low[0]:g}; allowed: 0 to {1 / len(low):g}, one over the number of collections")
    if not high.sum() >= 1.0 - ROUNDING:
        raise UsageError(
            f"the caps sum to {high.sum():.4g}, so no weights fit;"
            " allow more epochs, draw fewer examples, or add collections"
        )
    if (low > high).any():
        raise UsageError(
            f"the floor {low[0]:g} is above the cap of {int((low > high).sum())} collections, down to {high.min():.3g};"
            " lower the floor or allow more epochs"
        )

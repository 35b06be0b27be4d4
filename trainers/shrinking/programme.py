"""Which layers go: a dynamic programme over sets of removed layers, pure (AmoebaLLM, Fu et al. 2024, 2411.10606).

A set of layers is a tuple of their numbers in ascending order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mixture.errors import UsageError

Removed: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What a search found.

    best:   number of removed layers, from 0 -> the best set that was tried; of equal ones the first
    losses: the loss of each set that was tried, in the order of the programme; the empty one comes first
    """

    best: dict[int, Removed]
    losses: dict[Removed, float]

    @property
    def curve(self) -> list[tuple[Removed, float]]:
        """The best set of each size, from 0, with its loss. It need not rise."""
        return [(removed, self.losses[removed]) for removed in self.best.values()]


def search(
    loss: Callable[[Removed], float], layers: Sequence[int], most: int, known: Mapping[Removed, float] | None = None
) -> Found:
    """The best found ways to remove 1 to `most` of `layers`.

    Layers are visited from the last to the first. State (n, m) is the best found way to remove m of the first n that
    were visited. Its candidate is that of (n − 1, m − 1) with layer n removed too; it is kept where it is better than
    what (n − 1, m) has. So `num_tried` sets are tried. m = 1 is exact, and all m are where the loss is a sum over the
    removed layers. Any other may be missed: of δ = (.5, .4, .1) with an interaction −.7 of the first two the best pair
    is these two, and the programme finds the last two.

    loss:   of the model without these layers; one that is not finite counts as the worst
    layers: that may go, in ascending order
    most:   0 to as many as there are
    known:  losses of an earlier call, not asked for again

    Raises `UsageError` for `most` out of range.
    """
    if not 0 <= most <= len(layers):
        raise UsageError(f"{most} of {len(layers)} layers cannot be removed; allowed: 0 to {len(layers)}")
    before, losses = known or {}, dict[Removed, float]()

    def tried(removed: Removed) -> float:
        if removed not in losses:
            value = before[removed] if removed in before else loss(removed)
            losses[removed] = value if math.isfinite(value) else math.inf
        return losses[removed]

    tried(())
    best: dict[int, Removed] = {0: ()}
    for layer in reversed(layers):
        new = dict(best)
        for m in range(1, min(len(best), most) + 1):
            candidate = (layer, *best[m - 1])
            if tried(candidate) < (tried(best[m]) if m in best else math.inf) or m not in best:
                new[m] = candidate
        best = new
    return Found(best, losses)


def num_tried(num_layers: int, most: int) -> int:
    """How many sets `search` tries, beside the empty one: Σ min(n, `most`) over n = 1 to `num_layers`.

    >>> num_tried(6, 3), num_tried(31, 12)
    (15, 306)
    """
    return sum(min(n, most) for n in range(1, num_layers + 1))

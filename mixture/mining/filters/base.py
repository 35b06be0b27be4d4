"""What a filter is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixture.arguments import named
from mixture.errors import UsageError
from mixture.mining.pool import MiningPool


class Candidates(NamedTuple):
    """What a miner found for one example: k passages, best first.

    passages: their numbers in the pool, (k,) int64
    scores:   (k,) float32
    positive: the score of the example's lowest-scored positive; infinite where it has none
    positives: of each of its positives, in the order of the pool, where the miner says so: (p,) float32
    """

    passages: NDArray[np.int64]
    scores: NDArray[np.float32]
    positive: float
    positives: NDArray[np.float32] = np.empty(0, np.float32)

    @classmethod
    def found(
        cls, passages: NDArray[np.int64], scores: NDArray[np.float32], positives: NDArray[np.float32]
    ) -> Candidates:
        """With the scores of all positives."""
        return cls(passages, scores, float(positives.min(initial=np.inf)), positives)


Filter: TypeAlias = Callable[[MiningPool, int, Candidates], NDArray[np.bool_]]
"""Which candidates of an example, given by its number in the pool, may be its negatives: (k,) bool."""

FILTERS: dict[str, Callable[[Any], Filter]] = {}
"""From the value that a caller gives, a number or a text, to the filter; a wrong value is a UsageError. Filled by the
modules of this package."""


def check_number(name: str, value: Any, allowed: str, fits: Callable[[Any], bool]) -> None:
    """Raise a `UsageError` for a filter's value that is no number, or that does not fit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise UsageError(f"`{name}` is {value!r}; allowed: {allowed}")


def filters_of(values: Mapping[str, Any]) -> dict[str, Filter]:
    """The filters of these names with these values, by name; None for a value switches one off."""
    builders = {name: named("filters", name, FILTERS) for name in values}
    return {name: build(values[name]) for name, build in builders.items() if values[name] is not None}

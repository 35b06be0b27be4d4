"""The loss of late, as progress and results show it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Steps that a mean is over at most.
MOST = 100


class Recent(NamedTuple):
    """The mean loss of the last steps, and over how many it is."""

    loss: float
    steps: int

    @property
    def text(self) -> str:
        return f"loss {self.loss:.4f}" + (f" (mean of {self.steps} steps)" if self.steps > 1 else "")


def by_step(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The loss of each step of a history (step, examples, loss), which has a row for each collection of a batch."""
    losses: defaultdict[int, float] = defaultdict(float)
    counts: Counter[int] = Counter()
    for row in rows:
        losses[row["step"]] += row["loss"] * row["examples"]
        counts[row["step"]] += row["examples"]
    return [losses[step] / counts[step] for step in losses]


def recent(losses: Sequence[float], steps: int) -> Recent:
    """Of a run of so many steps: the mean of its last tenth, of `MOST` steps at most. One batch's loss says little,
    least of all where each is of another collection.

    losses: of the steps so far, or of the last `MOST`
    """
    last = losses[-max(1, min(MOST, steps // 10)) :]
    return Recent(sum(last) / len(last), len(last))

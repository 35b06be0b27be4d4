"""Which collection teaches nothing, and which one would be missed: two screens on branches (`trainers.learning.lab`).

**Held out.** A branch trains on a collection. Then, for rows of it that no training saw, is a row's own passage ranked
above the passages of other rows? Where the pairs mean something, nearly always; where positives are shuffled, as often
as not, however long the training. Of a collection whose rows are in part noise, that part counts 1/2 and the rest 1 at
most: below 3/4, more than half of the rows are noise, or all are harder than this model can learn. It knows no suites.

**Merged.** Trunk + Σ w_j Δ_j beside the same without g, the other weights scaled up: leave-one-out as merged models
(MergeMix, arXiv 2601.17858, for RLHN's section 5.1, 2505.16967). An order for real trainings, no finding: it does not
see noise, which moves a merged model in no direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainers.learning.lab import Branching, Lab

CHANCE = 0.5
# Above this, less than half of the rows can be noise.
LEARNED = 0.75
AT_CHANCE, TEACHES, TOO_FEW = "at chance", "teaches", "too few rows"


@dataclass(frozen=True)
class Learnable:
    """What a branch on a collection made of its held-out rows.

    share:     of other rows' passages that stand below a row's own one, mean over `rows`; 1/2 is chance
    low, high: its 95 % interval
    says:      at chance (the interval is under `LEARNED`), teaches (it is not), too few rows (they do not tell)
    """

    rows: int
    share: float
    low: float
    high: float

    @property
    def says(self) -> str:
        return AT_CHANCE if self.high < LEARNED else TEACHES if self.share >= LEARNED else TOO_FEW


def learnable(shares: np.ndarray) -> Learnable:
    """From the share of each held-out row, (Q,).

    The interval is Wilson's (1927), which keeps within 0 and 1 and is honest for few rows. It takes a row for a hit or
    a miss; shares between these scatter less, so it is wide rather than narrow.

    >>> learnable(np.full(20, 0.5)).says, learnable(np.full(20, 1.0)).says, learnable(np.full(8, 0.6)).says
    ('at chance', 'teaches', 'too few rows')
    """
    n, share, z = len(shares), float(shares.mean()), 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Learnable(n, share, max(0.0, centre - reach), min(1.0, centre + reach))


def without(weights: np.ndarray, place: int) -> np.ndarray:
    """The weights (G,) without one: the others share what it had, in their proportions."""
    left = np.where(np.arange(len(weights)) == place, 0.0, weights)
    return left / left.sum()


def missed(lab: Lab, branching: Branching) -> np.ndarray:
    """What the merged model loses on each set of the target without each component, in nats: (G, T), above 0 where it
    is missed."""
    weights = lab.base_weights
    lab.plan(1 + len(lab.names))
    whole = lab.say("merged", partial(lab.merged, branching, weights)).loss
    rows = [lab.say(f"merged without {name}", partial(lab.merged, branching, without(weights, place))).loss - whole
            for place, name in enumerate(lab.names)]  # fmt: skip
    return np.stack(rows)

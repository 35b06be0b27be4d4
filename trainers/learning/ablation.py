"""Which collection teaches nothing, and which one would be missed: two screens on branches (`trainers.learning.lab`).

**Held out.** A branch trains on a collection. Then, for rows of it that no training saw, is a row's own passage ranked
above the passages of other rows? Where the pairs mean something, nearly always; where positives are shuffled, as often
as not, however long the training. Of a collection whose rows are in part noise, that part counts 1/2 and the rest 1 at
most: below 3/4, more than half of the rows are noise, or all are harder than this model can learn. It knows no suites.

**Merged.** Trunk + Σ w_j Δ_j beside the same without g, the other weights scaled up: leave-one-out as merged models
(MergeMix, arXiv 2601.17858, for RLHN's section 5.1, 2505.16967). An order for real trainings, no finding: it does not
see noise. On 22 real collections of which 3 were shuffled, all effects were within 0.001 nats, and a shuffled one had
the highest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainers.learning.lab import Branching, Lab

# Above this, less than half of the rows can be noise.
LEARNED = 0.75
AT_CHANCE, TEACHES, TOO_FEW = "at chance", "teaches", "too few rows"
# Kinds of evidence, as the table `ablations` has them.
HELD_OUT, MERGED, TRAINED, TOGETHER = "held out", "merged", "trained", "together"
HARMFUL, USEFUL, NEITHER = "harmful", "useful", "not told apart"


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


@dataclass(frozen=True)
class Effect:
    """One finding on a collection, or of kind `together` on several: "a, b".

    kind and effect:
        held out   the share of other rows' passages that stand below a held-out row's own one, after a branch on the
                   collection; 1/2 is chance. says: at chance, teaches, too few rows
        merged     what merged branches lose on the target without the collection, in nats
        trained    nDCG@10 with the collection less nDCG@10 without it, of whole trainings of equal steps, in which the
                   others share its draws. says: harmful, useful, not told apart
        together   the same without all that are at chance
    without_own:   the same on suites of other names than the collection's; None where that is none or all of them
    low, high:     95 % interval
    p_holm:        p adjusted for the number of collections that were trained without
    """

    collection: str
    kind: str
    effect: float
    without_own: float | None = None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    says: str | None = None

    @property
    def order(self) -> tuple[int, float, str]:
        """By kind, the lowest effect first."""
        return (HELD_OUT, MERGED, TRAINED, TOGETHER).index(self.kind), self.effect, self.collection


@dataclass(frozen=True)
class Ablation:
    """What was found of a mixture's collections, the worst of each kind first."""

    run: str
    mixture: str
    model: str
    steps: int
    seeds: tuple[int, ...]
    half: str | None
    effects: tuple[Effect, ...]

    def named(self, says: str) -> list[str]:
        """The collections of which something `says` this."""
        return [one.collection for one in self.effects if one.says == says and one.kind != TOGETHER]

    @property
    def lines(self) -> list[str]:
        """For people, a line each."""
        noise, few = self.named(AT_CHANCE), self.named(TOO_FEW)
        found = []
        if noise:
            found.append(
                f"at chance: {', '.join(noise)}; the model that trained on rows of {_it(noise)} finds the passages of"
                " others hardly better than chance: noise, or too hard for it; read some rows"
            )
        for word, what in ((HARMFUL, "scores rise without"), (USEFUL, "scores fall without")):
            if names := self.named(word):
                found.append(f"{word}: {', '.join(names)}; {what} {_it(names)}")
        for one in self.effects:
            if one.kind == TOGETHER:
                moved = f"{-100 * one.effect:+.2f} ± {100 * (one.error or 0):.2f}"
                found.append(f"without {one.collection} together: {moved} nDCG@10 ({one.says})")
        if few:
            found.append(f"too few rows held out to tell chance from learning: {', '.join(few)}")
        if not noise and not self.named(HARMFUL):
            found.append(f"no collection of {self.mixture} is at chance or was seen to do harm")
        return found

    def as_rows(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def _it(names: Sequence[str]) -> str:
    return "them" if len(names) > 1 else "it"

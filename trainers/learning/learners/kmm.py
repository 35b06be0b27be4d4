"""Weights of the mixture whose change of the model comes nearest to the change that the target asks for.

Kernel mean matching in gradient space, "Convex Dataset Valuation" (arXiv 2605.16704); for the equation and what
departs from the paper see `trainers.learning.kernel_mean`. In place of a gradient stands a branch, the paper's task
vector: what some steps on one collection change in a model that all share. The target's vector is made the same way, by
as many steps of the same optimiser on its loss. AdamW moves weights by about the same length whatever their gradient,
so a target's bare gradient would be on another scale, weight by weight.

Each collection has two branches, on other rows. ⟨Δ', Δ''⟩ is then free of the noise of a branch with itself, which
would make every collection look the more original the noisier it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from trainers.learning.kernel_mean import kmm_weights
from trainers.learning.learners.learner import LEARNERS, Found, TargetLearner
from trainers.learning.learners.search import TrunkOptions
from trainers.settings import setting

if TYPE_CHECKING:
    from trainers.learning.lab import Lab


class Kmm(TargetLearner):
    """Two branches a collection, one towards the target, and the best non-negative sum of the former for the latter,
    blended with the base mixture."""

    @dataclass(frozen=True, kw_only=True)
    class Options(TrunkOptions):
        sparsity: float = setting(0.05, "how much a collection must bring, as a share of the most that one brings")
        ridge: float = setting(1e-3, "what holds weights of like collections together, as a share of their products")
        base_share: float = setting(0.5, "share of the base mixture in the result")

        def violations(self) -> list[tuple[str, str]]:
            return (
                super().violations()
                + [("sparsity", "0 to below 1")] * (not 0 <= self.sparsity < 1)
                + [("ridge", "0 or more")] * (not 0 <= self.ridge < float("inf"))
                + [("base_share", "0 to 1")] * (not 0 <= self.base_share <= 1)
            )

    name = "kmm"
    options: Options

    def find(self, lab: Lab) -> Found:
        from trainers.learning import kept

        options, branching = self.options, self.options.branching
        lab.plan(2 * len(lab.names) + 2)
        lab.say("trunk", lambda: lab.trunk(branching))
        changes = [
            lab.say(f"branch {name}, {number + 1} of 2", partial(lab.branch, branching, name, number=number))
            for number in range(2)
            for name in lab.names
        ]
        changes.append(lab.say("towards the target", lambda: lab.aim(branching)))
        gram, alignment = products_of(kept.inner_products(changes))
        weights = kmm_weights(gram, alignment, options.sparsity, options.ridge, options.base_share,
                              base=lab.base_weights)  # fmt: skip
        return Found(weights, products=gram, lines=_lines(lab.names, gram, alignment),
                     facts={"alignment": dict(zip(lab.names, alignment.tolist(), strict=True))})  # fmt: skip


def products_of(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Gram matrix (G, G) of the collections and their alignment (G,) with the target, from the inner products
    (2G + 1, 2G + 1) of G first branches, G second ones and the target's: means over the pairs of unlike branches, of a
    collection with itself ⟨Δ', Δ''⟩ alone."""
    groups = len(products) // 2
    first, second = slice(0, groups), slice(groups, 2 * groups)
    across = (products[first, second] + products[second, first]) / 2
    gram = (products[first, first] + products[second, second] + 2 * across) / 4
    np.fill_diagonal(gram, np.diag(across))
    return gram, (products[first, -1] + products[second, -1]) / 2


def _lines(names: tuple[str, ...], gram: np.ndarray, alignment: np.ndarray) -> tuple[str, ...]:
    """Which collections bring nothing, and which two are most alike."""
    lines = []
    against = [name for name, value in zip(names, alignment, strict=True) if value <= 0]
    if len(against) == len(names):
        lines.append("no collection leads towards the target: the weights stay those of the base mixture")
    elif against:
        lines.append(f"these lead away from the target: {', '.join(against)}")
    cosines = cosines_of(gram)
    np.fill_diagonal(cosines, -np.inf)
    if len(names) > 1 and np.isfinite(cosines).any():
        one, other = np.unravel_index(np.nanargmax(cosines), cosines.shape)
        lines.append(f"most alike are {names[one]} and {names[other]}, with a cosine of {cosines[one, other]:.2f}")
    return tuple(lines)


def cosines_of(gram: np.ndarray) -> np.ndarray:
    """Cosines (G, G) of a Gram matrix, cut to −1 and 1; NaN where the diagonal, an estimate, is not above 0."""
    lengths = np.sqrt(np.where(np.diag(gram) > 0, np.diag(gram), np.nan))
    return np.asarray(np.clip(gram / np.outer(lengths, lengths), -1.0, 1.0))


LEARNERS[Kmm.name] = Kmm

"""Search for the mixture that scores best on a target: try some, fit a law to their losses, propose what it likes.

The fit and the proposal are Olmix's (arXiv 2602.12237: a log-linear law for each set, and KL to a base mixture), after
RegMix (2407.01492) and Data Mixing Laws (2403.16952). What is tried is either a sum of branches, as in MergeMix
(2601.17858), or a training of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mixture.weights import bounded
from trainers.learning.learners.learner import LEARNERS, Found, LearnerOptions, TargetLearner, Tried
from trainers.settings import setting

if TYPE_CHECKING:
    from trainers.learning.lab import Branching, Lab
    from trainers.learning.target import Measured

CANDIDATES = ("merged", "real")
# How strongly a proposal is held to the base mixture; which one is taken is measured.
STRENGTHS = (0.02, 0.05, 0.1, 0.3, 1.0)
# A law that does not order mixtures which it has not seen is no guide.
LEAST_CORRELATION = 0.5


@dataclass(frozen=True, kw_only=True)
class TrunkOptions(LearnerOptions):
    """How branches on one collection each are made; see `trainers.learning.lab.Branching`."""

    trunk: float = setting(1 / 3, "the share of the steps after which branches part")
    branch_steps: int = setting(50, "steps of a branch")
    branch_rate: float = setting(0.3, "constant learning rate of a branch, as a share of the peak")

    def violations(self) -> list[tuple[str, str]]:
        return (
            [("trunk", "above 0 to 1")] * (not 0 < self.trunk <= 1)
            + [("branch_steps", "1 or more")] * (self.branch_steps < 1)
            + [("branch_rate", "above 0")] * (not self.branch_rate > 0)
        )

    @property
    def branching(self) -> Branching:
        from trainers.learning.lab import Branching

        return Branching(self.trunk, self.branch_steps, self.branch_rate, common=0.0)


@dataclass(frozen=True, kw_only=True)
class BranchOptions(TrunkOptions):
    """The same of branches that have batches in common."""

    branch_common: float = setting(0.5, "share of a branch's batches that all branches have in common")

    def violations(self) -> list[tuple[str, str]]:
        return super().violations() + [("branch_common", "0 to below 1")] * (not 0 <= self.branch_common < 1)

    @property
    def branching(self) -> Branching:
        return replace(super().branching, common=self.branch_common)


class Search(TargetLearner):
    """Candidates, a law for each set of the target, proposals at several distances from the base mixture; of those
    within one standard error of the best the one nearest to the base."""

    @dataclass(frozen=True, kw_only=True)
    class Options(BranchOptions):
        candidates: str = setting("merged", f"how a mixture is tried: {', '.join(CANDIDATES)}")
        num_candidates: int = setting(60, "mixtures tried before the fit; three for each collection, or more")
        fidelity: int = setting(4, "with merged: mixtures trained in earnest, to see whether merging orders them alike")

        def violations(self) -> list[tuple[str, str]]:
            return (
                super().violations()
                + [("candidates", ", ".join(CANDIDATES))] * (self.candidates not in CANDIDATES)
                + [("num_candidates", "8 or more")] * (self.num_candidates < 8)
                + [("fidelity", "0, or 3 and more")] * (self.fidelity < 0 or self.fidelity in (1, 2))
            )

    name = "search"
    options: Options

    def find(self, lab: Lab) -> Found:
        from trainers.learning import law

        options = self.options
        base = lab.base_weights
        merged = options.candidates == "merged"
        common = options.branch_common if merged else 0.0
        branching = options.branching

        def weights(shares: np.ndarray) -> np.ndarray:
            """What a mixture of branches was drawn by, common batches included."""
            return common * base + (1 - common) * shares

        def measure(shares: np.ndarray) -> Measured:
            return lab.merged(branching, shares) if merged else lab.train(shares)

        shares = law.draw_candidates(options.num_candidates, base, lab.settings.seed)
        lab.plan(options.num_candidates + (len(lab.names) + 1 if merged else 0) + len(STRENGTHS) + 2)
        if merged:
            lab.say("trunk", lambda: lab.trunk(branching))
            for name in lab.names:
                lab.say(f"branch {name}", partial(lab.branch, branching, name))
        found = [lab.say(f"candidate {n + 1}", partial(measure, s)) for n, s in enumerate(shares)]
        tried = [Tried(options.candidates, weights(s), m.loss, m.ndcg) for s, m in zip(shares, found, strict=True)]
        losses = np.stack([m.loss for m in found])
        centre, spread = losses.mean(axis=0), losses.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        scaled = (losses - centre) / spread
        say = lab.target.weights
        laws = [law.fit_law(shares, scaled[:, t], seed=lab.settings.seed) for t in range(scaled.shape[1])]
        order = law.held_out_correlation(shares, scaled @ say, seed=lab.settings.seed)
        facts = {"held_out_correlation": order, "loss_and_ndcg": rank_correlation(-losses @ say, _ndcg(found) @ say)}
        lines = [
            f"the law orders candidates that it has not seen with a rank correlation of {order:.2f}",
            f"over the candidates, loss and nDCG@10 have a rank correlation of {facts['loss_and_ndcg']:.2f}",
        ]
        if order < LEAST_CORRELATION:
            lines.append(f"that is under {LEAST_CORRELATION}: the weights stay those of the base mixture")
            return Found(base, tried=tuple(tried), lines=tuple(lines), facts=facts)
        caps = None if lab.caps is None else np.maximum(0.0, (lab.caps - common * base) / (1 - common))
        floor = max(0.0, (lab.min_weight - common * base.min()) / (1 - common))
        proposals = [law.propose(laws, say, base, strength, floor=floor, caps=caps) for strength in STRENGTHS]
        best_seen = shares[int(np.argmin(scaled @ say))]
        options_left = [base, *proposals, _within(best_seen, floor, caps)]
        measured = [lab.say(f"proposal {n + 1}", partial(measure, s)) for n, s in enumerate(options_left)]
        tried += [Tried("proposal", weights(s), m.loss, m.ndcg) for s, m in zip(options_left, measured, strict=True)]
        by_group = lab.target.by_group((np.stack([m.loss for m in measured]) - centre) / spread)
        chosen = law.nearest_within_error(np.stack(options_left), by_group, base)
        if merged and options.fidelity:
            facts["fidelity"], more = self._fidelity(lab, shares, found, base, options_left[chosen], measured, chosen,
                                                     weights)  # fmt: skip
            tried += more
            lines.append(_trust(facts["fidelity"], options.fidelity))
        return Found(weights(options_left[chosen]), tried=tuple(tried), lines=tuple(lines), facts=facts)

    def _fidelity(
        self, lab: Lab, shares: np.ndarray, found: list[Measured], base: np.ndarray, chosen: np.ndarray,
        proposals: list[Measured], place: int, weights: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[float, list[Tried]]:  # fmt: skip
        """Rank correlation of merged and real trainings: of the base, what was chosen, and candidates from the best to
        the worst."""
        say = lab.target.weights
        scores = np.array([m.loss @ say for m in found])
        ranked = np.argsort(scores)
        picked = ranked[np.linspace(0, len(ranked) - 1, self.options.fidelity - 2).astype(int)]
        trials = [base, chosen, *shares[picked]]
        merged = [proposals[0].loss @ say, proposals[place].loss @ say, *scores[picked]]
        lab.plan(len(trials))
        real = [lab.say(f"training {n + 1}", partial(lab.train, weights(s))) for n, s in enumerate(trials)]
        tried = [Tried("trained", weights(s), m.loss, m.ndcg) for s, m in zip(trials, real, strict=True)]
        return rank_correlation(np.array(merged), np.array([m.loss @ say for m in real])), tried


def _trust(correlation: float, count: int) -> str:
    line = f"merged and real trainings order {count} mixtures with a rank correlation of {correlation:.2f}"
    if correlation < LEAST_CORRELATION:
        line += "; that is little: see what they are worth with `mixture verdict`, or search with candidates=real"
    return line


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's; 0 where one of them is constant."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def _ndcg(found: list[Measured]) -> np.ndarray:
    return np.stack([m.ndcg for m in found])


def _within(shares: np.ndarray, floor: float, caps: np.ndarray | None) -> np.ndarray:
    return bounded(shares, floor, caps)[0]


LEARNERS[Search.name] = Search

"""Search for the mixture that scores best on a target: try some, fit a law to their scores, propose what it likes.

The scheme is Olmix's (arXiv 2602.12237: laws of mixtures, KL to a base mixture), after RegMix (2407.01492) and Data
Mixing Laws (2403.16952). What is tried is either a sum of branches, as in MergeMix (2601.17858), or a training of its
own.

Departs from Olmix in its defaults: the law is one of diminishing returns (`trainers.learning.roots`), where Olmix's is
log-linear in the weights (`law=log-linear`); and it is fitted to nDCG@10, where Olmix's is fitted to losses
(`measure=loss`). Over 60 real trainings both ordered unseen mixtures far better (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from trainers.learning.learners.learner import LEARNERS, Found, LearnerOptions, TargetLearner, Tried
from trainers.settings import setting

if TYPE_CHECKING:
    from trainers.learning.lab import Branching, Lab
    from trainers.learning.target import Measured

CANDIDATES = ("merged", "real")
LAWS = ("roots", "log-linear")
MEASURES = ("ndcg", "loss")
MANY, FEWEST = 60, 8
# How strongly a proposal is held to the base mixture, in standard deviations of the score over the candidates; which
# one is taken is measured.
STRENGTHS = (0.02, 0.1, 0.3, 1.0, 3.0)
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
        law: str = setting("roots", f"what is fitted to the scores: {', '.join(LAWS)}")
        measure: str = setting("ndcg", "what a candidate scores: ndcg, or loss, each set's in its standard deviations")
        num_candidates: int | None = setting(
            None, "mixtures tried before the fit; none: 60, but with `reuse` three for each part and three more"
        )
        fidelity: int = setting(4, "with merged: mixtures trained in earnest, to see whether merging orders them alike")

        def violations(self) -> list[tuple[str, str]]:
            count = self.num_candidates
            return (
                super().violations()
                + [("candidates", ", ".join(CANDIDATES))] * (self.candidates not in CANDIDATES)
                + [("law", ", ".join(LAWS))] * (self.law not in LAWS)
                + [("measure", ", ".join(MEASURES))] * (self.measure not in MEASURES)
                + [("num_candidates", f"{FEWEST} or more")] * (count is not None and count < FEWEST)
                + [("fidelity", "0, or 3 and more")] * (self.fidelity < 0 or self.fidelity in (1, 2))
            )

    name = "search"
    reuses = True
    options: Options

    def find(self, lab: Lab) -> Found:
        options, base, branching = self.options, lab.base_weights, self.options.branching
        merged = options.candidates == "merged"
        common = options.branch_common if merged else 0.0
        say = lab.target.weights

        def weights(shares: np.ndarray) -> np.ndarray:
            """What a mixture of branches was drawn by, common batches included."""
            return common * base + (1 - common) * shares

        def measure(shares: np.ndarray) -> Measured:
            return lab.merged(branching, shares) if merged else lab.train(shares)

        from trainers.learning.law import draw_candidates, nearest_within_error

        count = options.num_candidates
        if count is None:
            count = MANY if len(lab.names) == len(lab.components) else max(FEWEST, 3 * (len(lab.names) + 1))
        shares = draw_candidates(count, base, lab.settings.seed)
        lab.plan(count + (len(lab.names) + 1 if merged else 0) + len(STRENGTHS) + 1)
        if merged:
            lab.say("trunk", lambda: lab.trunk(branching))
            for name in lab.names:
                lab.say(f"branch {name}", partial(lab.branch, branching, name))
        found = [lab.say(f"candidate {n + 1}", partial(measure, s)) for n, s in enumerate(shares)]
        tried = [Tried(options.candidates, weights(s), m.loss, m.ndcg) for s, m in zip(shares, found, strict=True)]
        spread = np.stack([m.loss for m in found]).std(axis=0)
        scores = self._scores(found, spread)
        agree = rank_correlation(-np.stack([m.loss for m in found]) @ say, np.stack([m.ndcg for m in found]) @ say)
        order, propose = self._fitted(shares, scores, say, lab.settings.seed)
        facts = {"held_out_correlation": order, "loss_and_ndcg": agree}
        lines = [
            f"the law orders candidates that it has not seen with a rank correlation of {order:.2f}",
            f"over the candidates, loss and nDCG@10 have a rank correlation of {agree:.2f}",
        ]
        if order < LEAST_CORRELATION:
            lines.append(f"the law's is under {LEAST_CORRELATION}: the weights stay those of the base mixture")
            return Found(base, tried=tuple(tried), lines=tuple(lines), facts=facts)
        caps = None if lab.caps is None else np.maximum(0.0, (lab.caps - common * base) / (1 - common))
        floor = max(0.0, (lab.min_weight - common * float(base.min())) / (1 - common))
        proposals = [base, *(propose(base, strength, floor, caps) for strength in STRENGTHS)]
        measured = [lab.say(f"proposal {n}", partial(measure, s)) for n, s in enumerate(proposals)]
        tried += [Tried("proposal", weights(s), m.loss, m.ndcg) for s, m in zip(proposals, measured, strict=True)]
        by_group = lab.target.by_group(self._scores(measured, spread))
        chosen = nearest_within_error(np.stack(proposals), by_group, base)
        if merged and options.fidelity:
            ends = ((base, measured[0]), (proposals[chosen], measured[chosen]))
            facts["fidelity"], more = self._fidelity(
                lab, [*ends, *self._spaced(shares, found, say, spread)], weights, spread
            )
            tried += more
            lines.append(_trust(facts["fidelity"], options.fidelity))
        return Found(weights(proposals[chosen]), tried=tuple(tried), lines=tuple(lines), facts=facts)

    def _scores(self, found: Sequence[Measured], spread: np.ndarray) -> np.ndarray:
        """(K, T), lower is better."""
        if self.options.measure == "ndcg":
            return -np.stack([m.ndcg for m in found])
        return np.stack([m.loss for m in found]) / np.where(spread > 0, spread, 1.0)

    def _fitted(
        self, shares: np.ndarray, scores: np.ndarray, say: np.ndarray, seed: int
    ) -> tuple[float, Callable[[np.ndarray, float, float, np.ndarray | None], np.ndarray]]:  # fmt: skip
        """How well the law orders what it has not seen, and what proposes a mixture at a distance from a base."""
        from trainers.learning import law, roots

        mean = scores @ say
        size = float(mean.std()) or 1.0
        if self.options.law == "roots":
            # One law of the mean is the mean of the sets' laws: they are linear in the scores.
            fitted = roots.fit_roots(shares, mean / size)
            return fitted.order, partial(roots.propose_roots, fitted)
        laws = [law.fit_law(shares, scores[:, t], seed=seed) for t in range(scores.shape[1])]
        return law.held_out_correlation(shares, mean, seed=seed), partial(law.propose, laws, say)

    def _spaced(
        self, shares: np.ndarray, found: list[Measured], say: np.ndarray, spread: np.ndarray
    ) -> list[tuple[np.ndarray, Measured]]:  # fmt: skip
        """Candidates from the best to the worst."""
        ranked = np.argsort(self._scores(found, spread) @ say)
        picked = ranked[np.linspace(0, len(ranked) - 1, self.options.fidelity - 2).astype(int)]
        return [(shares[n], found[n]) for n in picked.tolist()]

    def _fidelity(
        self, lab: Lab, trials: list[tuple[np.ndarray, Measured]], weights: Callable[[np.ndarray], np.ndarray],
        spread: np.ndarray,
    ) -> tuple[float, list[Tried]]:  # fmt: skip
        """Rank correlation of merged and real trainings over some mixtures, and these trainings."""
        say = lab.target.weights
        lab.plan(len(trials))
        real = [lab.say(f"training {n + 1}", partial(lab.train, weights(s))) for n, (s, _) in enumerate(trials)]
        tried = [Tried("trained", weights(s), m.loss, m.ndcg) for (s, _), m in zip(trials, real, strict=True)]
        merged = self._scores([m for _, m in trials], spread) @ say
        return rank_correlation(merged, self._scores(real, spread) @ say), tried


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


LEARNERS[Search.name] = Search

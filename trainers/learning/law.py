"""A law of mixtures: each target's loss as a function of the weights, fitted to measured mixtures, and its minimum.

For searching weights: `draw_candidates` says which mixtures to measure, `fit_law` fits their losses, `propose` finds
the mixture that the laws of all targets like best near a base mixture, `nearest_within_error` chooses among proposals.
Log-linear law and Kullback-Leibler penalty as in Olmix (2602.12237), after Ye et al. 2024 (2403.16952); the candidates
after RegMix (Liu et al. 2024, 2407.01492).

Shape legend: G collections, K measured mixtures, T targets. A score is a loss everywhere here: lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.stats

from mixture.errors import UsageError
from mixture.sampling import generator
from mixture.weights import bounded

LEAST = 2e-3  # a candidate's weights below this are 0
HUBER = 0.02  # in standard deviations: where the penalty of a residual goes from square to linear
DEPTH = 10.0  # the law's floor lies at most so many standard deviations below the mean, or 1 below the lowest score
LEVELS = (0.2, 0.5, 0.8)  # starts of a fit: the floor, from the deepest allowed (0) to the lowest loss (1)
RANDOM_STARTS = 2
EVEN = 1e-7  # pulls slopes together that the mixtures cannot tell apart
TINY = 1e-300


def draw_candidates(count: int, base: np.ndarray, seed: int) -> np.ndarray:
    """Mixtures to measure, (count, G), each of sum 1; the first is `base` (G,), the others lie around it.

    Dirichlet(κ · base). Half of the draws are dense, κ from G / 2 to 5 G; half are sparse, κ from 0.5 to G / 2; each
    evenly spaced in the logarithm. A weight below 0.002 (or half of an equal share, where that is less) becomes 0. A
    collection that weighs 0 in `base` is 0 in all of them. The draws are a function of the arguments alone, the same on
    every machine.

    Departs from RegMix: κ grows with G, so that its meaning does not change with the number of collections.
    """
    base = _distribution(base)
    if count < 1:
        raise UsageError(f"{count} candidates; allowed: 1 or more")
    kept = base > 0
    size = int(kept.sum())
    dense = count // 2
    spread = np.concatenate([
        np.geomspace(size / 2, 5 * size, dense), np.geomspace(0.5, max(0.5, size / 2), count - 1 - dense)
    ]) if count > 1 else np.empty(0)  # fmt: skip
    random = generator(seed, "candidates")
    candidates = np.zeros((count, len(base)))
    candidates[0] = base
    for row, concentration in zip(candidates[1:], spread, strict=True):
        drawn = random.dirichlet(concentration * base[kept])
        drawn[drawn < min(LEAST, 0.5 / size)] = 0.0
        row[kept] = drawn / drawn.sum()
    return candidates


@dataclass(frozen=True)
class Law:
    """A target's loss by the weights p: mean + scale · (exp(level) + exp(slopes · p) − shift).

    level:  the floor's logarithm, that of the loss where no collection adds to it
    slopes: (G,); the lower, the more a collection lowers the loss
    mean, scale: mean and standard deviation of the losses that the law was fitted to; a scale of 0 where they are equal
    shift:  what makes normalised losses, of mean 0, positive, as both exponentials are
    """

    level: float
    slopes: np.ndarray
    mean: float
    scale: float
    shift: float

    def predict(self, weights: np.ndarray) -> np.ndarray:
        """The losses (K,) of mixtures (K, G), or the loss () of one (G,)."""
        value: np.ndarray = np.exp(self.level) + np.exp(np.asarray(weights) @ self.slopes) - self.shift
        return self.mean + self.scale * value


def fit_law(weights: np.ndarray, scores: np.ndarray, seed: int) -> Law:
    """The log-linear law of losses (K,), measured on mixtures (K, G): f(p) = exp(c) + exp(a · p).

    The losses are normalised, (y − mean) / SD, and shifted to be positive. The shift bounds how deep the floor exp(c)
    can lie: 10 SD below the mean. With a floor so deep the law is nearly linear, so laws that bend and laws that hardly
    do are both within reach. The penalty is Huber's with δ = 0.02, nearly the absolute value: single mixtures that went
    wrong hardly matter. Σp = 1, so a constant in a is the law's scale and no other is needed.

    Losses that are all equal give the law that says so of every mixture (slopes 0). With K ≤ G + 1 the law is not
    determined; slopes then are as even as the losses allow.

    Departs from Olmix: starts are least squares on log(y − exp(c)) for a few c, with `seed` for some more around them,
    where Olmix has 300 random ones; the gradient is analytic.
    """
    weights, scores = _measured(weights, scores)
    groups = weights.shape[1]
    mean, scale = float(scores.mean()), float(scores.std())
    if scale <= 1e-12 * float(np.abs(scores).max()):
        return Law(float(np.log(DEPTH - 1.0)), np.zeros(groups), mean, 0.0, DEPTH)
    shift = max(DEPTH, 1.0 - float(scores.min() - mean) / scale)
    target = (scores - mean) / scale + shift
    starts = _starts(weights, target, seed)
    short = sorted((_fit_from(weights, target, start, 60) for start in starts), key=lambda found: found[0])
    _, best = min((_fit_from(weights, target, begun, 2000) for _, begun in short[:2]), key=lambda found: found[0])
    return Law(float(best[0]), best[1:], mean, scale, shift)


def _starts(weights: np.ndarray, target: np.ndarray, seed: int) -> list[np.ndarray]:
    """(1 + G,) each: the level, then the slopes."""
    random = generator(seed, "starts")
    levels = [*LEVELS, *random.uniform(size=RANDOM_STARTS)]
    starts = []
    for number, part in enumerate(levels):
        floor = (0.01 + 0.98 * part) * float(target.min())
        logs = np.log(target - floor)
        gram = weights.T @ weights + 1e-3 * np.eye(weights.shape[1])
        slopes = logs.mean() + np.linalg.solve(gram, weights.T @ (logs - logs.mean()))
        if number >= len(LEVELS):
            slopes = slopes + random.normal(0.0, float(slopes.std()) + 0.01, len(slopes))
        starts.append(np.concatenate([[np.log(floor)], slopes]))
    return starts


def _fit_from(weights: np.ndarray, target: np.ndarray, start: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
    """The least penalty that L-BFGS finds from `start` (1 + G,), and where."""
    count = len(target)

    def penalty(values: np.ndarray) -> tuple[float, np.ndarray]:
        floor, rest = np.exp(values[0]), np.exp(np.minimum(weights @ values[1:], 50.0))
        residual = floor + rest - target
        outer = np.clip(residual, -HUBER, HUBER)  # the derivative
        even = values[1:] - values[1:].mean()
        loss = float((outer * (residual - outer / 2)).mean() + EVEN * even @ even)
        return loss, np.concatenate(
            [[outer.sum() * floor / count], weights.T @ (outer * rest) / count + 2 * EVEN * even]
        )

    found = scipy.optimize.minimize(
        penalty,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "ftol": 1e-12, "gtol": 1e-8, "maxcor": 20},
    )
    return float(found.fun), found.x


def held_out_correlation(weights: np.ndarray, scores: np.ndarray, folds: int = 5, seed: int = 0) -> float:
    """Spearman's correlation between losses (K,) and what laws fitted without them predict, −1 to 1.

    The mixtures (K, G) are dealt into `folds` parts at random, and each part is predicted from the others. 0 where all
    losses or all predictions are equal. Below about 0.5 a law says too little to search by.
    """
    weights, scores = _measured(weights, scores)
    if not 2 <= folds <= len(scores):
        raise UsageError(f"{folds} folds of {len(scores)} mixtures; allowed: 2 to the number of mixtures")
    part = generator(seed, "folds").permutation(len(scores)) % folds
    predicted = np.empty(len(scores))
    for fold in range(folds):
        rest = part != fold
        predicted[~rest] = fit_law(weights[rest], scores[rest], seed).predict(weights[~rest])
    if np.ptp(scores) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(predicted, scores).statistic)


def propose(
    laws: Sequence[Law],
    target_weights: np.ndarray,
    base: np.ndarray,
    strength: float,
    floor: float = 0.0,
    caps: np.ndarray | None = None,
) -> np.ndarray:
    """The mixture (G,) that minimises Σ_t w_t f_t(p) + λ KL(p ‖ base) on the simplex, between a floor and caps.

    laws:           T laws, in units of their standard deviations, so that no target decides by its scale alone
    target_weights: (T,) how much each target says, 0 or more; scaled to sum 1
    base:           (G,) the mixture to stay near to; a collection that weighs 0 there stays 0
    strength:       λ, 0 or more: the larger, the nearer to the base
    floor, caps:    least weight of a collection that the base has, and highest weights (G,)

    Mirror descent: p ← p · exp(−η (∇F + λ log(p / base))), normalised and bounded, with the λ term solved exactly
    instead of at the old p, and with a step η that a convex bound on F allows. Inside the bounds the result obeys
    p_g ∝ base_g · exp(−(1 / λ) Σ_t w_t a_tg exp(a_t · p)).

    Raises `UsageError` where no weights fit the bounds.
    """
    base = _distribution(base)
    say = np.asarray(target_weights, dtype=np.float64)
    if say.shape != (len(laws),) or not (np.isfinite(say).all() and (say >= 0).all() and say.sum() > 0):
        raise UsageError(f"{len(laws)} laws need as many target weights, 0 or more and not all 0")
    if not 0 <= strength < np.inf:
        raise UsageError(f"`strength` is {strength}; allowed: 0 or more")
    kept = base > 0
    slopes = np.stack([law.slopes for law in laws])
    if slopes.shape[1] != len(base):
        raise UsageError(f"laws of {slopes.shape[1]} collections; the base has {len(base)}")
    limits = None if caps is None else np.asarray(caps, dtype=np.float64)[kept]
    result = np.zeros(len(base))
    result[kept] = _minimum(slopes[:, kept], say / say.sum(), base[kept], strength, floor, limits)
    return result


def _minimum(
    slopes: np.ndarray, say: np.ndarray, base: np.ndarray, strength: float, floor: float, caps: np.ndarray | None
) -> np.ndarray:
    p, _ = bounded(base, floor, caps)
    if not np.ptp(slopes, axis=1).any():  # no target can tell mixtures apart: the base, bit for bit
        return p
    pull, step = np.log(base), 1.0
    for _ in range(20_000):
        heights = say * np.exp(slopes @ p)
        uphill = heights @ slopes
        while True:
            logs = (np.log(np.maximum(p, TINY)) + step * (strength * pull - uphill)) / (1 + step * strength)
            raised = np.exp(logs - logs.max())
            new, _ = bounded(raised / raised.sum(), floor, caps)
            moved = new - p
            along = slopes @ moved
            above = heights @ (np.expm1(along) - along)  # F(new) over its tangent at p
            near = (moved**2 / np.maximum(np.maximum(new, p), TINY)).sum() / 2  # at most KL(new ‖ p)
            if above * step <= near:
                break
            step /= 2
        p = new
        share = step * strength / (1 + step * strength)  # by which the distance to the minimum shrinks, at least
        if np.abs(moved).sum() <= 1e-9 * max(share, 1e-3):
            break
        step *= 1.5
    return p


def nearest_within_error(proposals: np.ndarray, scores: np.ndarray, base: np.ndarray) -> int:
    """Which of N proposals (N, G) to take: of those as good as the best one, the nearest to `base` (G,).

    scores: (N, Q) losses of each on the same Q targets or queries. As good: the mean of its paired differences to the
            best is within one standard error of it. Near: KL(proposal ‖ base).
    """
    proposals, scores, base = np.atleast_2d(proposals), np.atleast_2d(scores), _distribution(base)
    if len(proposals) != len(scores) or not scores.size or not np.isfinite(scores).all():
        raise UsageError(
            f"{len(proposals)} proposals and scores of shape {scores.shape}; allowed: finite, a row for each"
        )
    return min(within_error(scores), key=lambda one: divergence(proposals[one], base))


def within_error(scores: np.ndarray) -> list[int]:
    """Which of N trials are within one standard error of the best, by losses (N, Q) on the same Q targets or queries:
    the mean of their paired differences to it is at most their standard error. Of one target the best alone."""
    behind = scores - scores[np.argmin(scores.mean(axis=1))]
    count = scores.shape[1]
    error = behind.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(scores))
    return [int(one) for one in np.flatnonzero(behind.mean(axis=1) <= error)]


def divergence(weights: np.ndarray, base: np.ndarray) -> float:
    """KL(weights ‖ base) in nats, 0 or more; infinite where a weight is above 0 and the base's is 0."""
    held = weights > 0
    with np.errstate(divide="ignore"):
        return float(max(0.0, (weights[held] * (np.log(weights[held]) - np.log(base[held]))).sum()))


def _distribution(weights: np.ndarray) -> np.ndarray:
    values = np.asarray(weights, dtype=np.float64)
    if not (values.ndim == 1 and len(values) and (values >= 0).all() and abs(values.sum() - 1.0) <= 1e-6):
        raise UsageError("the base's weights must be 0 or more and sum to 1")
    return values


def _measured(weights: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights, scores = np.asarray(weights, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if weights.ndim != 2 or scores.shape != (len(weights),) or not len(scores):
        raise UsageError(
            f"scores of shape {scores.shape} for mixtures of shape {weights.shape}; allowed: one score each"
        )
    if not (np.isfinite(scores).all() and np.isfinite(weights).all()):
        raise UsageError("a score or a weight of a measured mixture is infinite or NaN")
    return weights, scores

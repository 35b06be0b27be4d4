"""What a collection's loss will be at the end of training: a power law through the proxy's own loss curve.

DRPruning's dynamic reference loss (Deng et al. 2025, arXiv 2411.14055): no reference model is needed. What is only hard
still falls, so its forecast lies below its loss; noise is flat, and its forecast is its loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixture.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

HUBER = 1e-2  # residuals beyond this count linearly; losses are scaled to a mean of 1
EXPONENTS = np.concatenate([[0.02, 0.05], np.arange(1, 21) / 10])  # where the search for α starts


class PowerLaw(NamedTuple):
    """ℓ(n) = A · n^−α + E, all 0 or more, and the mean absolute distance of the points from it."""

    scale: float
    exponent: float
    floor: float
    residual: float

    def at(self, count: float) -> float:
        """The loss after so many examples, 1 or more."""
        return float(self.scale * count**-self.exponent + self.floor)


def fit_power_law(counts: npt.ArrayLike, losses: npt.ArrayLike) -> PowerLaw:
    """The power law nearest to a loss curve: (A, α, E, residual).

    counts: (P,) examples seen, 1 or more, not all equal
    losses: (P,) 0 or more

    For each of some α, A and E are a line through (n^−α, ℓ) by least squares, none below 0. From the best of these all
    three are refined under a Huber loss, which lets odd points be. A curve that rises gets A = 0 and its middle as E.
    Departs from the release: it starts L-BFGS from 18 places and averages the best three; its Huber loss bends at 1e-3,
    for the losses of evaluations, which scatter less than those of batches.

    >>> [round(x, 3) for x in fit_power_law([200, 400, 800, 1600], [8 * n**-0.5 + 0.3 for n in (200, 400, 800, 1600)])]
    [8.0, 0.5, 0.3, 0.0]
    """
    n, y = np.asarray(counts, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if n.ndim != 1 or n.shape != y.shape or len(n) < 3:
        raise UsageError(f"{n.size} counts and {y.size} losses; allowed: as many of both, 3 or more")
    if not (np.isfinite(n).all() and np.isfinite(y).all() and n.min() >= 1 and y.min() >= 0 and n.min() < n.max()):
        raise UsageError("counts must be finite, 1 or more and not all equal, losses finite and 0 or more")
    size = y.mean()
    if size == 0:
        return PowerLaw(0.0, 0.0, 0.0, 0.0)
    # In units of the geometric middle of the counts, so that A is the size of the fall there, whatever α.
    middle = float(np.exp(np.log(n).mean()))
    x, y = np.log(n / middle), y / size
    scale, exponent, floor = _refined(x, y, *_start(x, y))
    residual = float(np.abs(scale * np.exp(-exponent * x) + floor - y).mean())
    return PowerLaw(float(size * scale * middle**exponent), exponent, float(size * floor), float(size * residual))


def _start(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[float, float, float]:
    """The best of `EXPONENTS` with its A and E, by least squares; x: (P,) logarithms of counts."""
    basis = np.exp(-np.outer(EXPONENTS, x))  # (K, P)
    centred = basis - basis.mean(axis=1, keepdims=True)
    scale = np.maximum((centred @ (y - y.mean())) / (centred**2).sum(axis=1), 0.0)
    floor = y.mean() - scale * basis.mean(axis=1)
    steep = floor < 0  # then the best line goes through 0
    scale = np.where(steep, (basis @ y) / (basis**2).sum(axis=1), scale)
    floor = np.where(steep, 0.0, floor)
    best = int((((scale[:, None] * basis + floor[:, None]) - y) ** 2).sum(axis=1).argmin())
    return float(scale[best]), float(EXPONENTS[best]), float(floor[best])


def _refined(
    x: npt.NDArray[Any], y: npt.NDArray[Any], scale: float, exponent: float, floor: float
) -> tuple[float, float, float]:
    from scipy.optimize import least_squares

    def residuals(p: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return p[0] * np.exp(-p[1] * x) + p[2] - y

    def slopes(p: npt.NDArray[Any]) -> npt.NDArray[Any]:
        fall = np.exp(-p[1] * x)
        return np.stack([fall, -p[0] * x * fall, np.ones_like(x)], axis=1)

    found = least_squares(
        residuals, (scale, exponent, floor), slopes, bounds=([0, 0, 0], [np.inf, EXPONENTS[-1], np.inf]),
        loss="huber", f_scale=HUBER, max_nfev=100,
    )  # fmt: skip
    refined = found.x.tolist()
    return refined[0], refined[1], refined[2]

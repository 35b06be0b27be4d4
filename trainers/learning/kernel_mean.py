"""Weights by matching the target's gradient: which mixture of the collections' gradients comes nearest to it.

Kernel mean matching in gradient space, after "Convex Dataset Valuation" (2605.16704). Alignment alone, ⟨g_i, a⟩, pays
two equal collections twice; here what one has brought the other cannot bring again.

Shape legend: G collections. g_i is the gradient of a collection's loss, a that of the target's. Short branches,
θ_i − θ, may stand for both: what matters is that both have the same sign.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

from mixture.errors import UsageError

LEAST_RIDGE = 1e-10  # where none is asked for: of two equal collections both get half, not one of them all


def kmm_weights(
    gram: np.ndarray,
    alignment: np.ndarray,
    sparsity: float = 0.05,
    ridge: float = 1e-3,
    blend: float = 0.5,
    *,
    base: np.ndarray,
) -> np.ndarray:
    """Weights (G,), sum 1, of the mixture whose gradient comes nearest to the target's, blended with `base` (G,).

    gram:      (G, G) ⟨g_i, g_j⟩. Estimates need not be symmetric or positive: the nearest such matrix is taken
    alignment: (G,) ⟨g_i, a⟩
    sparsity:  ρ, 0 to below 1: λ is ρ times the greatest alignment
    ridge:     γ is this share of the mean of the diagonal
    blend:     share of `base` in the result, 0 to 1

    β = argmin_{β ≥ 0} ½ βᵀKβ − cᵀβ + λ Σβ + γ ‖β‖², solved exactly; the result is (1 − blend) · β / Σβ + blend · base.
    It does not change with the scale of all g or of a. The base itself where no collection aligns with the target.

    Departs from the paper: β ≥ 0 (free in sign there), and λ and γ are relative to the data.
    """
    gram, alignment = np.asarray(gram, dtype=np.float64), np.asarray(alignment, dtype=np.float64)
    base = np.asarray(base, dtype=np.float64)
    _check(gram, alignment, base, sparsity, ridge, blend)
    if not (alignment.max() > 0 and np.trace(gram) > 0):
        return base
    beta = matching(gram, alignment, sparsity * float(alignment.max()), ridge)
    return (1 - blend) * beta / beta.sum() + blend * base


def matching(gram: np.ndarray, alignment: np.ndarray, penalty: float, ridge: float) -> np.ndarray:
    """β ≥ 0 (G,) of `kmm_weights`, before it is scaled; `penalty` is λ itself."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    values = np.maximum(values, 0.0) + 2 * max(ridge, LEAST_RIDGE) * float(np.trace(gram)) / len(gram)
    # ½ βᵀHβ − bᵀβ is ½ ‖√H β − b / √H‖² but for a constant.
    root = np.sqrt(values)
    beta, _ = scipy.optimize.nnls(
        root[:, None] * vectors.T, vectors.T @ (alignment - penalty) / root, maxiter=100 * len(gram)
    )
    return np.asarray(beta)


def _check(
    gram: np.ndarray, alignment: np.ndarray, base: np.ndarray, sparsity: float, ridge: float, blend: float
) -> None:
    groups = len(base)
    if gram.shape != (groups, groups) or alignment.shape != (groups,):
        raise UsageError(
            f"a Gram matrix of shape {gram.shape} and alignments of shape {alignment.shape};"
            f" allowed: ({groups}, {groups}) and ({groups},), as many as the base has collections"
        )
    if not (np.isfinite(gram).all() and np.isfinite(alignment).all()):
        raise UsageError("a gradient of a collection or of the target is infinite or NaN; lower the learning rate")
    if not ((base >= 0).all() and abs(base.sum() - 1.0) <= 1e-6):
        raise UsageError("the base's weights must be 0 or more and sum to 1")
    if not 0 <= sparsity < 1:
        raise UsageError(f"`sparsity` is {sparsity}; allowed: 0 to below 1")
    if not 0 <= ridge < np.inf:
        raise UsageError(f"`ridge` is {ridge}; allowed: 0 or more")
    if not 0 <= blend <= 1:
        raise UsageError(f"`blend` is {blend}; allowed: 0 to 1")

"""What a candidate costs for a target row: the distance of their embeddings, less what the candidate would teach.

    c_ij = d_ij − λ g_i,    d_ij = ‖x_i − y_j‖ / the greatest distance that there can be

Both sides of the objective OT_d(μ_S, μ_V) − λ · mean g over S are then one transport, since μ_S is uniform (GORACS,
eq. 10 of its code). Costs are computed by block and never held for all candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixture.errors import UsageError

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


def unseen(done: int, total: int) -> None:
    """No progress shown."""


# Numbers of a block of costs: 64 MB, and as much again while it is computed.
CELLS = 2**24
# Of the softmax in `score_gradients`, and the other positives that a query is held against.
TEMPERATURE, OTHERS = 0.05, 31


class Costs:
    """The costs (T, V) of candidates for target rows, float32, computed when they are asked for.

    candidates: (T, d), target: (V, d); rows of one length, as all of unit length are. Not copied.
    gradients:  (T,) g, within 0 to 1; None where λ is 0
    weight:     λ

    Raises `UsageError` for arrays that do not fit each other.
    """

    def __init__(
        self, candidates: NDArray[np.float32], target: NDArray[np.float32],
        gradients: NDArray[np.float64] | None = None, *, weight: float = 0.0,
    ) -> None:  # fmt: skip
        if candidates.ndim != 2 or target.ndim != 2 or candidates.shape[1] != target.shape[1] or not len(target):
            raise UsageError(
                f"`candidates` are {candidates.shape} and `target` is {target.shape}; allowed: rows of one width, and a"
                " target row or more"
            )
        if not (np.isfinite(weight) and weight >= 0):
            raise UsageError(f"`weight` is {weight:g}; allowed: 0 or more")
        if weight and (gradients is None or gradients.shape != (len(candidates),)):
            raise UsageError(f"`weight` is {weight:g}, and there are no gradients of {len(candidates):,} candidates")
        self.shape = len(candidates), len(target)
        self._candidates, self._target = candidates, target
        self._target_norms = np.einsum("vd,vd->v", target, target)
        longest = 0.0
        for start in range(0, len(candidates), CELLS // max(1, candidates.shape[1])):
            part = candidates[start : start + CELLS // max(1, candidates.shape[1])]
            longest = max(longest, float(np.einsum("td,td->t", part, part).max()))
        # Two vectors of the greatest lengths may point away from each other.
        self._scale = float(np.sqrt(longest) + np.sqrt(self._target_norms.max())) or 1.0
        self._given: NDArray[np.float32] | None = None
        self._less = None if not weight or gradients is None else (weight * gradients).astype(np.float32)

    @classmethod
    def of(cls, matrix: ArrayLike) -> Costs:
        """Costs that are there already, (T, V), as a test or another distance has them."""
        given = np.asarray(matrix, dtype=np.float32)
        found = cls(np.zeros((len(given), 1), np.float32), np.zeros((given.shape[1], 1), np.float32))
        found._given = given
        return found

    def rows(self, numbers: NDArray[np.integer]) -> NDArray[np.float32]:
        """The costs of candidates, (len(numbers), V)."""
        if self._given is not None:
            return self._given[numbers]
        return self._of(self._candidates[numbers], None if self._less is None else self._less[numbers])

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All costs in order, with the number of the first candidate of each block."""
        size = max(1, CELLS // self.shape[1])
        for start in range(0, self.shape[0], size):
            yield start, self.rows(np.arange(start, min(start + size, self.shape[0])))

    def _of(self, rows: NDArray[np.float32], less: NDArray[np.float32] | None) -> NDArray[np.float32]:
        found = rows @ self._target.T
        found *= -2
        found += self._target_norms
        found += np.einsum("td,td->t", rows, rows)[:, None]
        np.maximum(found, 0, out=found)
        np.sqrt(found, out=found)
        found /= self._scale
        if less is not None:
            found -= less[:, None]
        return found


def score_gradients(
    queries: NDArray[np.float32], positives: NDArray[np.float32], *, seed: int = 42, temperature: float = TEMPERATURE
) -> NDArray[np.float64]:
    """How much each pair would teach: the length of the gradient of its InfoNCE loss by its scores,
    ‖softmax(s / τ) − onehot‖ / √2, (T,), within 0 to 1.

    A pair is held against the positives of `OTHERS` other pairs, drawn by seed. GORACS takes the gradient by one matrix
    of the model; this one needs no backward pass. Both are largest for pairs that are wrong: a query whose positive is
    another one's has a length near 1. So λ rewards noise, and is 0 by default.

    queries, positives: (T, d), of unit length
    """
    total = len(queries)
    order = np.random.default_rng([seed, total]).permutation(total)
    shifts = np.arange(1, min(OTHERS, total - 1) + 1)
    own = np.einsum("td,td->t", queries, positives)
    scores = np.empty((total, 1 + len(shifts)), np.float64)
    scores[:, 0] = own
    for column, shift in enumerate(shifts, 1):
        others = np.empty(total, np.int64)
        others[order] = np.roll(order, shift)
        for start in range(0, total, 65_536):
            part = slice(start, start + 65_536)
            scores[part, column] = np.einsum("td,td->t", queries[part], positives[others[part]])
    scores /= temperature
    scores -= scores.max(axis=1, keepdims=True)
    shares = np.exp(scores)
    shares /= shares.sum(axis=1, keepdims=True)
    shares[:, 0] -= 1
    return np.asarray(np.sqrt((shares**2).sum(axis=1) / 2))

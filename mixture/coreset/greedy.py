"""Few rows for many target rows: one after the other, each time the one that helps most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixture.coreset.costs import Costs, Progress, unseen

# Rows whose gains are computed anew at once.
AT_ONCE = 128
# A gain of less is none: costs are of 32 bits, and come out otherwise in a larger block.
ROUNDING = 1e-7


def served(costs: Costs, n: int, progress: Progress = unseen) -> NDArray[np.int64]:
    """n rows (n,) whose nearest ones serve the target rows at nearly the least mean cost, mean_j min_{i∈S} c_ij, in the
    order in which they were taken; of rows that help alike the first.

    That is the transport without weights of the rows (the first stage of GORACS). Each time the row is taken that
    lowers it most; the gain is at least 1 − 1/e of the greatest. What a row gains only falls while others are taken,
    so gains are computed anew for the most promising rows alone (Minoux 1978). A row that is nearest to no target row
    when n are taken gives its place to another, and is not taken again.
    """
    total = costs.shape[0]
    means = np.concatenate([block.mean(axis=1, dtype=np.float64) for _, block in costs.blocks()])
    taken, free = [int(means.argmin())], np.ones(total, np.bool_)
    best = costs.rows(np.array(taken))[0]
    free[taken] = False
    bounds = np.concatenate([_gains(block, best) for _, block in costs.blocks()])
    while len(taken) < n:
        row = _next(costs, bounds, free, best)
        if bounds[row] <= ROUNDING:
            break
        taken.append(row)
        free[row] = False
        best = np.minimum(best, costs.rows(np.array([row]))[0])
        progress(len(taken), n)
        if len(taken) == n:
            nearest = set(costs.rows(np.array(taken)).argmin(axis=0).tolist())
            taken = [row for place, row in enumerate(taken) if place in nearest]
    # No other row is nearer to any target row: those that cost least on the whole.
    rest = np.setdiff1d(np.arange(total), taken)
    rest = rest[np.argsort(means[rest], kind="stable")][: n - len(taken)]
    return np.concatenate([np.array(taken, np.int64), rest])


def _next(costs: Costs, bounds: NDArray[np.float64], free: NDArray[np.bool_], best: NDArray[np.float32]) -> int:
    """The free row that gains most. `bounds` (T,), which no gain exceeds, are brought down for rows looked at."""
    exact = np.zeros(len(bounds), np.bool_)
    while not exact[row := int(np.where(free, bounds, -np.inf).argmax())]:
        stale = np.where(free & ~exact, bounds, -np.inf)
        most = min(AT_ONCE, len(stale))
        rows = np.sort(np.argpartition(-stale, most - 1)[:most])
        bounds[rows] = _gains(costs.rows(rows), best)
        exact[rows] = True
    return row


def _gains(block: NDArray[np.float32], best: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(best - block, 0).mean(axis=1, dtype=np.float64))

"""Many rows for few target rows: each target row takes some, no row is taken twice, and all together cost least.

With as many rows as target rows or more the choice is no hard problem: it is a transport by itself, of the rows to be
chosen and of the plan at once. Where that is too large, the cheapest pairs are taken one after the other.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from mixture.coreset.costs import Costs, Progress, unseen
from mixture.coreset.transport import cheapest_rows

# Costs that one transport holds, 8 bytes each and about 30 more in the simplex.
MOST_CELLS = 2**24
# Of a target row, beside how many it is to take.
SPARE = 2


def demands(n: int, v: int, seed: int) -> NDArray[np.int64]:
    """How many of n rows each of v target rows takes, (V,): n / v, rounded so that they sum to n. Seed draws which ones
    are rounded up."""
    found = np.full(v, n // v, np.int64)
    found[np.random.default_rng([seed, n, v]).permutation(v)[: n % v]] += 1
    return found


def cheapest(
    costs: Costs, wanted: NDArray[np.int64], *, most_cells: int = MOST_CELLS,
    progress: Progress = unseen,
) -> NDArray[np.int64] | None:  # fmt: skip
    """The rows that serve each target row as often as `wanted` (V,) says at the least cost of all, (n,), in order; None
    where the transport would have more than `most_cells` costs.

    It is solved for the rows nearest to the target rows. Its prices say which others could make it cheaper; these are
    added, and it is solved again, until there are none. So the result is that of all rows.
    """
    (total, v), n = costs.shape, int(wanted.sum())
    if (n + 1) * (v + 1) > most_cells:
        return None
    pool = np.array([], np.int64)
    deep = SPARE * int(wanted.max())
    while len(pool) <= n:
        pool = np.unique(_nearest(costs, deep, np.ones(total, np.bool_))[1])
        deep *= 2
    while len(pool) * (v + 1) <= most_cells:
        found = cheapest_rows(costs.rows(pool), wanted)
        inside = np.zeros(total, np.bool_)
        inside[pool] = True
        prices, entering = found.prices.astype(np.float32), []
        for start, block in costs.blocks():
            cheap = (block - prices).min(axis=1) < found.price - 1e-6  # costs are of 32 bits
            entering.append(start + np.flatnonzero(cheap & ~inside[start : start + len(block)]))
        more = np.concatenate(entering)
        if not len(more):
            return pool[found.taken]
        pool = np.sort(np.concatenate([pool, more]))
        progress(len(pool), total)
    return None


def one_by_one(
    costs: Costs, wanted: NDArray[np.int64], progress: Progress = unseen
) -> NDArray[np.int64]:  # fmt: skip
    """The same, nearly, in the order in which they are taken: again and again the cheapest pair of a free row and a
    target row that wants more. Which of equal ones is not said."""
    left, free = wanted.copy(), np.ones(costs.shape[0], np.bool_)
    taken: list[int] = []
    while left.sum():
        values, rows = _nearest(costs, SPARE * int(left.max()), free)
        queue = [(float(values[0, j]), int(rows[0, j]), j, 0) for j in np.flatnonzero(left)]
        heapq.heapify(queue)
        while queue:
            _, row, target, rank = heapq.heappop(queue)
            if free[row]:
                free[row] = False
                taken.append(row)
                left[target] -= 1
            if left[target] and rank + 1 < len(rows):
                rank += 1
                heapq.heappush(queue, (float(values[rank, target]), int(rows[rank, target]), target, rank))
        progress(len(taken), int(wanted.sum()))
    return np.array(taken, np.int64)


def _nearest(costs: Costs, k: int, free: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Of each target row the k cheapest free rows, the cheapest first: costs and numbers, (k, V)."""
    k = min(k, int(free.sum()))
    values = np.full((0, costs.shape[1]), np.inf, np.float32)
    numbers = np.zeros((0, costs.shape[1]), np.int64)
    for start, block in costs.blocks():
        here = np.flatnonzero(free[start : start + len(block)])
        if len(here) > k:
            places = np.argpartition(block[here], k - 1, axis=0)[:k]
            part, rows = np.take_along_axis(block[here], places, 0), start + here[places]
        else:
            part, rows = block[here], np.broadcast_to((start + here)[:, None], (len(here), costs.shape[1]))
        values, numbers = np.concatenate([values, part]), np.concatenate([numbers, rows])
        order = np.lexsort((numbers, values), axis=0)[:k]
        values, numbers = np.take_along_axis(values, order, 0), np.take_along_axis(numbers, order, 0)
    return values, numbers

"""A choice made better: a row of it for one outside, while the exact transport falls (GORACS, its second stage)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixture.coreset.costs import Costs, Progress, unseen
from mixture.coreset.transport import Transport, transport

ROUNDING = 1e-9


class Exchanged(NamedTuple):
    """rows (n,); value and before: of the exact transport, with the exchanges and without; exchanges made; transports
    solved."""

    rows: NDArray[np.int64]
    value: float
    before: float
    exchanges: int
    solved: int


def exchanged(
    costs: Costs, rows: NDArray[np.int64], *, solve: int, cut: int, progress: Progress = unseen
) -> Exchanged:  # fmt: skip
    """Exchange rows of a choice (n,) for others while that lowers the transport; at most `solve` transports are solved.

    The prices q of the target rows say what an exchange may bring: a row costs at least b_i = min_j (c_ij − q_j), so in
    place of row s it cannot lower the transport where b_i ≥ p_s, the price of s. Such pairs are never solved. Of the
    others those come first that are likely: a row serves ⌈V/n⌉ target rows, and costs about the mean of its ⌈V/n⌉ least
    c_ij − q_j. Each that lowers the transport is made; when all are tried, prices and list are made anew. `cut` rows of
    either side are tried; where these are all, and `solve` was enough, no one exchange can make the result better.
    """
    chosen, (now, solved) = np.array(rows, np.int64), (transport(costs.rows(rows)), 1)
    before, made, improved = now.value, 0, True
    serves = -(-costs.shape[1] // len(chosen))
    while improved and solved < solve:
        improved, done = False, set[int]()
        for place, row in _likely(costs, chosen, now, serves, cut):
            if solved >= solve:
                break
            if {place, ~row} & done:  # exchanged since the list was made
                continue
            trial = chosen.copy()
            trial[place] = row
            found = transport(costs.rows(trial))
            solved += 1
            progress(solved, solve)
            if found.value < now.value - ROUNDING:
                chosen, now, made, improved = trial, found, made + 1, True
                done |= {place, ~row}
    return Exchanged(chosen, now.value, before, made, solved)


def _likely(
    costs: Costs, chosen: NDArray[np.int64], now: Transport, serves: int, cut: int
) -> list[tuple[int, int]]:  # fmt: skip
    """Pairs of a place in the choice and a row outside, the most promising first."""
    prices = now.target_prices.astype(np.float32)
    least, likely = np.empty(costs.shape[0], np.float32), np.empty(costs.shape[0], np.float32)
    for start, block in costs.blocks():
        reduced = np.partition(block - prices, serves - 1, axis=1)[:, :serves]
        least[start : start + len(block)] = reduced.min(axis=1)
        likely[start : start + len(block)] = reduced.mean(axis=1)
    likely[chosen] = np.inf
    outside = np.argsort(likely, kind="stable")[: min(cut, len(likely) - len(chosen))]
    inside = np.argsort(-now.row_prices, kind="stable")[:cut]
    change = likely[outside][None, :] - now.row_prices[inside][:, None]
    possible = least[outside][None, :] < now.row_prices[inside][:, None] + 1e-6  # costs are of 32 bits
    order = np.argsort(np.where(possible, change, np.inf), axis=None, kind="stable")[: int(possible.sum())]
    places, others = np.unravel_index(order, change.shape)
    return list(zip(inside[places].tolist(), outside[others].tolist(), strict=True))

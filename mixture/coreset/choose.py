"""A coreset: n of T candidates whose distribution is near that of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mixture.coreset.costs import CELLS, Costs, Progress, unseen
from mixture.coreset.exchange import exchanged
from mixture.coreset.greedy import served
from mixture.coreset.pairs import MOST_CELLS, cheapest, demands, one_by_one
from mixture.coreset.transport import transport
from mixture.errors import UsageError

# Exact transports that exchanges may take.
SOLVE = 50
ALL, EXACT, ROUNDED, PAIRS = "all rows", "exact", "exact but for rounding", "cheapest pairs"
GREEDY, RANDOM, NONE = "greedy and exchanges", "random", "none"
# Costs of a choice up to which exchanges mend what rounding lost: a transport of so many takes a tenth of a second.
SMALL = 2**20


@dataclass(frozen=True)
class Coreset:
    """A choice.

    rows:      (n,) numbers of candidates, ascending
    nearest:   (n,) the target row that each is nearest to; cost: (n,) its cost there
    method:    all rows; exact: no choice of so many rows has a lower transport; exact but for rounding; cheapest pairs;
               greedy and exchanges; random
    transport: OT_c(μ_S, μ_V), exact; NaN where it is too large, or was not asked for
    greedy:    that before exchanges; NaN where there were none
    exchanges: made
    """

    rows: NDArray[np.int64]
    nearest: NDArray[np.int64]
    cost: NDArray[np.float32]
    method: str
    transport: float
    greedy: float = float("nan")
    exchanges: int = 0


def choose(
    costs: Costs, n: int, *, seed: int = 42, solve: int = SOLVE, cut: int = 30, most_cells: int = MOST_CELLS,
    measure: bool = True, progress: Progress = unseen,
) -> Coreset:  # fmt: skip
    """n rows S that make OT_c(μ_S, μ_V) least, uniform on both sides.

    Fewer rows than target rows: greedy, then exchanges (`solve` exact transports at most, `cut` rows of either side).
    As many or more: exactly, where the costs of the rows near the target are at most `most_cells`; else pair by pair.
    Where n is no multiple of V, target rows count as n/V rounded up or down, by seed; of a small choice exchanges mend
    that.

    measure: say the transport of the result
    """
    total, v = costs.shape

    def made(rows: NDArray[np.int64], method: str, before: float = float("nan"), exchanges: int = 0) -> Coreset:
        found = described(costs, np.sort(rows), method)
        value = measured(costs, found.rows, most_cells=most_cells) if measure else float("nan")
        return replace(found, transport=value, greedy=before, exchanges=exchanges)

    def bettered(rows: NDArray[np.int64], method: str) -> Coreset:
        found = exchanged(costs, rows, solve=solve, cut=cut, progress=progress)
        return made(found.rows, method, found.before, found.exchanges)

    if not 1 <= n <= total:
        raise UsageError(f"`budget` is {n:,} of {total:,} rows; allowed: 1 to {total:,}")
    if n == total:
        return made(np.arange(total), ALL)
    if n < v:
        first = served(costs, n, progress)
        return bettered(first, GREEDY) if n * v <= most_cells else made(first, GREEDY)
    wanted = demands(n, v, seed)
    if (rows := cheapest(costs, wanted, most_cells=most_cells, progress=progress)) is None:
        return made(one_by_one(costs, wanted, progress), PAIRS)
    if n % v == 0:
        return made(rows, EXACT)
    return bettered(rows, ROUNDED) if n * v <= SMALL else made(rows, ROUNDED)


def described(costs: Costs, rows: NDArray[np.int64], method: str) -> Coreset:
    """A choice of these rows, ascending, each with the target row that it is nearest to."""
    nearest, cost = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    size = max(1, CELLS // costs.shape[1])
    for start in range(0, len(rows), size):
        block = costs.rows(rows[start : start + size])
        nearest[start : start + size] = block.argmin(axis=1)
        cost[start : start + size] = block.min(axis=1)
    return Coreset(rows, nearest, cost, method, float("nan"))


def measured(costs: Costs, rows: NDArray[np.int64], *, most_cells: int = MOST_CELLS) -> float:
    """OT_c(μ_S, μ_V) of these rows; NaN where more than `most_cells` costs are between the two."""
    if not 0 < len(rows) * costs.shape[1] <= most_cells:
        return float("nan")
    return transport(costs.rows(rows)).value


def random_rows(total: int, n: int, seed: int) -> NDArray[np.int64]:
    """The baseline: n of `total` rows, each as likely as the others, ascending."""
    return np.sort(np.random.default_rng([seed, total, n]).permutation(total)[:n])


def quotas(weights: Mapping[str, float], sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """How many of n rows each collection gives, by weights, rounded by the largest remainders. One that has fewer gives
    all, and the others give what it lacks, by their weights.

    Raises `UsageError` where all together have fewer.

    >>> quotas({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 3, "b": 100, "c": 100}, 50)
    {'a': 3, 'b': 28, 'c': 19}
    """
    open_ = {name: weight for name, weight in weights.items() if weight > 0}
    if not 1 <= n <= (held := sum(sizes[name] for name in open_)):
        raise UsageError(f"`budget` is {n:,}; allowed: 1 to {held:,}, the rows of the collections with a weight")
    found, left = dict.fromkeys(weights, 0), n
    while True:
        exact = {name: left * weight / sum(open_.values()) for name, weight in open_.items()}
        if not (full := [name for name, quota in exact.items() if quota >= sizes[name]]):
            break
        for name in full:
            found[name] = sizes[name]
            left -= sizes[name]
            del open_[name]
    found |= {name: int(quota) for name, quota in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in by_remainder[: n - sum(found.values())]:
        found[name] += 1
    return found

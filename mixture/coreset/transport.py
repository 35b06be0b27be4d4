"""Exact optimal transport, by POT's network simplex (the extra `coreset`). Sums are over uniform weights."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixture.errors import MixtureError, UsageError

# Steps of the simplex. Those of millions of costs need a few million; POT's own limit of 100,000 stops some that are
# small.
MOST_STEPS = 10**9


class Transport(NamedTuple):
    """value: of the cheapest plan; prices (n,) of the rows and (V,) of the target rows: p_i + q_j ≤ c_ij, and
    mean p + mean q = value; plan (n, V)."""

    value: float
    row_prices: NDArray[np.float64]
    target_prices: NDArray[np.float64]
    plan: NDArray[np.float64]


def transport(costs: ArrayLike) -> Transport:
    """The transport between uniform weights on the rows and on the columns of `costs` (n, V)."""
    matrix = np.ascontiguousarray(costs, dtype=np.float64)
    n, v = matrix.shape
    found = _simplex(np.full(n, 1 / n), np.full(v, 1 / v), matrix)
    return Transport(float((found[0] * matrix).sum()), found[1], found[2], found[0])


class Chosen(NamedTuple):
    """taken: (T,) whether a row is chosen; prices (V,) of the target rows; price: what a row may cost beside them at
    most to be chosen."""

    taken: NDArray[np.bool_]
    prices: NDArray[np.float64]
    price: float


def cheapest_rows(costs: ArrayLike, wanted: NDArray[np.int64]) -> Chosen:
    """The rows of `costs` (T, V) that together serve each target row as often as `wanted` (V,) says, each row once, at
    the least cost: a transport in which one more target row, at no cost, takes what is not chosen.

    Its vertices are whole numbers, so a row is chosen or not. There must be more rows than are wanted.
    """
    given = np.asarray(costs)
    total, v = given.shape
    matrix = np.zeros((total, v + 1))
    matrix[:, :v] = given
    left = total - int(wanted.sum())
    plan, _, prices = _simplex(np.ones(total), np.append(wanted, left).astype(np.float64), matrix)
    return Chosen(plan[:, v] < 0.5, prices[:v], float(-prices[v]))


def _simplex(rows: NDArray[np.float64], columns: NDArray[np.float64], costs: NDArray[np.float64]) -> Any:
    """The plan, and the prices of both sides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan, log = pot().emd(rows, columns, costs, numItermax=MOST_STEPS, log=True)
    if log["warning"] is not None:
        raise MixtureError(f"the transport of {costs.shape[0]:,} × {costs.shape[1]:,} costs failed: {log['warning']}")
    return plan, log["u"], log["v"]


def pot() -> Any:
    """The library; a `UsageError` that says how to install it where it is not there."""
    try:
        import ot
    except ImportError as error:
        raise UsageError("coresets need POT: pip install 'retrieval-mixture[coreset]'") from error
    return ot

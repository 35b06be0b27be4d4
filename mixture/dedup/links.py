"""Groups of rows that hang together through links: a disjoint-set forest whose roots are the smallest rows.

Shapes: n rows, p links.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixture.text.kernels import compiled

Rows: TypeAlias = NDArray[np.int64]


class Links:
    """n rows in groups, which links join.

    parent: for each row one of its group, no larger than itself, (n,); a root is its own. At first the smallest row of
        each group; the array is taken over
    """

    def __init__(self, parent: Rows) -> None:
        self.parent = parent

    def join(self, left: Rows, right: Rows) -> None:
        """Join the groups of left[k] and right[k]; both (p,)."""
        _link(self.parent, np.ascontiguousarray(left), np.ascontiguousarray(right))

    def apart(self, left: Rows, right: Rows) -> NDArray[np.bool_]:
        """Whether left[k] and right[k] are in two groups; (p,)."""
        return _apart(self.parent, np.ascontiguousarray(left), np.ascontiguousarray(right))

    def groups(self) -> Rows:
        """For each row the smallest row of its group, (n,)."""
        _flatten(self.parent)
        return self.parent


def connected(pairs: NDArray[np.int64], n: int) -> Rows:
    """For each of n rows the smallest row that it hangs together with through the pairs, shape (p, 2); returns (n,)."""
    links = Links(np.arange(n))
    links.join(pairs[:, 0], pairs[:, 1])
    return links.groups()


@compiled
def root(parent: Rows, row: int) -> int:
    """The smallest row of a row's group."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@compiled
def _link(parent: Rows, left: Rows, right: Rows) -> None:
    """No parent is above its row, so a group's root is its smallest row."""
    for place in range(len(left)):
        a, b = root(parent, left[place]), root(parent, right[place])
        parent[max(a, b)] = min(a, b)


@compiled
def _apart(parent: Rows, left: Rows, right: Rows) -> NDArray[np.bool_]:
    out = np.empty(len(left), dtype=np.bool_)
    for place in range(len(left)):
        out[place] = root(parent, left[place]) != root(parent, right[place])
    return out


@compiled
def _flatten(parent: Rows) -> None:
    """Point every row at its root; one pass in ascending order does, since parents come first."""
    for row in range(len(parent)):
        parent[row] = parent[parent[row]]

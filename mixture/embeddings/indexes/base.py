"""What an index is, and which there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mixture.arguments import named
from mixture.embeddings.search import QUERY_TILE, Best, Pairs, Vectors
from mixture.embeddings.standing import Standing

EXACT = "exact"


class Index(Protocol):
    """A search for the k passages with the largest inner product of each query, as `search.top_k`."""

    def __call__(
        self,
        queries: Vectors,
        passages: Vectors,
        k: int,
        *,
        pairs: Pairs | None = None,
        tile: int = QUERY_TILE,
        progress: Callable[[int, int], None] | None = None,
        standing: Standing | None = None,
    ) -> Best:
        """One that may miss some measures its `Best.recall`. Filters compare the scores of passages with those of
        pairs, so both are the same function of the vectors.

        passages: gone over as often as it likes. pairs: whose scores are wanted too. tile: queries at a time. progress:
        called with what is done of how much. standing: where it may note how far it is.
        """
        ...


INDEXES: dict[str, Callable[[str], Index]] = {}
"""From what a caller gives after the name and a colon, "" for nothing, to the search; what it does not know is a
UsageError. Filled by the modules of this package."""


def index_of(name: str) -> Index:
    """The search that a name of `INDEXES`, or NAME:SETTINGS, stands for."""
    first, _, settings = name.partition(":")
    return named("index", first, INDEXES)(settings)

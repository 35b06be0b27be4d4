"""The search that misses nothing, and is used unless another one is asked for."""

from __future__ import annotations

from mixture.embeddings.indexes.base import EXACT, INDEXES, Index
from mixture.embeddings.search import top_k
from mixture.errors import UsageError


def _exact(settings: str) -> Index:
    if settings:
        raise UsageError(f"`index` is {f'{EXACT}:{settings}'!r}; {EXACT} has no settings")
    return top_k


INDEXES[EXACT] = _exact

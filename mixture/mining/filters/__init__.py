"""Which candidates of an example may be its negatives. Each module here puts one filter into `FILTERS`."""

from __future__ import annotations

from mixture.mining.filters import max_ratio as max_ratio
from mixture.mining.filters import near_copies as near_copies
from mixture.mining.filters import scores as scores
from mixture.mining.filters.base import FILTERS, Candidates, Filter, filters_of

__all__ = ["FILTERS", "Candidates", "Filter", "filters_of"]

"""Hard negatives: a miner's candidates, then filters. Arrow and NumPy in and out."""

from __future__ import annotations

from mixture.mining import bm25 as bm25
from mixture.mining import both as both
from mixture.mining import dense as dense
from mixture.mining.filters import FILTERS
from mixture.mining.miners import MINERS, Miner
from mixture.mining.negatives import MiningSettings
from mixture.mining.pool import MiningPool

__all__ = ["FILTERS", "MINERS", "Miner", "MiningPool", "MiningSettings"]

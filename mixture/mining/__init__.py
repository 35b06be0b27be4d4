"""Hard negatives: candidates by BM25 or a dense retriever, then filters. Arrow and NumPy in and out."""

from __future__ import annotations

from mixture.mining.bm25 import mine_bm25
from mixture.mining.dense import mine_dense
from mixture.mining.filters import MiningPool, MiningSettings

__all__ = ["MiningPool", "MiningSettings", "mine_bm25", "mine_dense"]

"""How vectors are searched. Each module here puts one way into `INDEXES`."""

from __future__ import annotations

from mixture.embeddings.indexes import exact as exact
from mixture.embeddings.indexes import faiss as faiss
from mixture.embeddings.indexes.base import INDEXES, Index, index_of

__all__ = ["INDEXES", "Index", "index_of"]

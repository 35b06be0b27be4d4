"""Embeddings of texts: kept in files, and searched, block by block. Arrow and NumPy in and out."""

from __future__ import annotations

from mixture.embeddings.indexes import INDEXES, Index, index_of
from mixture.embeddings.kept import KeptEmbeddings
from mixture.embeddings.search import Best, Block, Held, InMemory, Vectors, top_k
from mixture.embeddings.source import Encode, Encoder, Keeping, Kind, Passing, Source, source_of
from mixture.embeddings.space import PRECISIONS, Space

__all__ = [
    "INDEXES",
    "PRECISIONS",
    "Best",
    "Block",
    "Encode",
    "Encoder",
    "Held",
    "InMemory",
    "Index",
    "Keeping",
    "KeptEmbeddings",
    "Kind",
    "Passing",
    "Source",
    "Space",
    "Vectors",
    "index_of",
    "source_of",
    "top_k",
]

"""Embeddings of texts: kept in files, and searched exactly, block by block. Arrow and NumPy in and out."""

from __future__ import annotations

from mixture.embeddings.kept import KeptEmbeddings
from mixture.embeddings.search import Best, Block, InMemory, Vectors, top_k
from mixture.embeddings.source import Encode, Encoder, Keeping, Kind, Passing, Source, source_of
from mixture.embeddings.space import PRECISIONS, Space

__all__ = [
    "PRECISIONS",
    "Best",
    "Block",
    "Encode",
    "Encoder",
    "InMemory",
    "Keeping",
    "KeptEmbeddings",
    "Kind",
    "Passing",
    "Source",
    "Space",
    "Vectors",
    "source_of",
    "top_k",
]

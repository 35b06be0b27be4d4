"""How near-equal texts are found. Each module here puts one method into `METHODS`."""

from __future__ import annotations

from mixture.dedup.methods import exact as exact
from mixture.dedup.methods import minhash as minhash
from mixture.dedup.methods import semantic as semantic
from mixture.dedup.methods import simhash as simhash
from mixture.dedup.methods.base import METHODS, PART_ROWS, Method, Settings, StoredTexts

__all__ = ["METHODS", "PART_ROWS", "Method", "Settings", "StoredTexts"]

"""Texts of equal normal form, and nothing more."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mixture.dedup.methods.base import METHODS, Groups, Method, Settings, StoredTexts
from mixture.dedup.neighbours import near_duplicate_groups


def _apart(forms: pa.Array, settings: Settings) -> Groups:
    return np.arange(len(forms))


def _lazily(stored: StoredTexts, settings: Settings) -> Groups:
    """Equal texts have equal fingerprints."""
    return EXACT.within(near_duplicate_groups(stored.prints(), 0), stored, settings)


EXACT = METHODS["exact"] = Method(link=_apart, lazily=_lazily)

"""Near-duplicate texts: SimHash fingerprints, their neighbours, what to remove. Arrow and NumPy in and out."""

from __future__ import annotations

from mixture.dedup.decontaminate import find_contaminated
from mixture.dedup.duplicates import find_duplicates
from mixture.dedup.neighbours import cross_pairs, near_duplicate_groups, near_duplicates
from mixture.dedup.simhash import simhash_fingerprints
from mixture.text.columns import normalise_texts
from mixture.text.form import normalise_text

__all__ = [
    "cross_pairs",
    "find_contaminated",
    "find_duplicates",
    "near_duplicate_groups",
    "near_duplicates",
    "normalise_text",
    "normalise_texts",
    "simhash_fingerprints",
]

"""Fingerprints within `distance` bits and, unless `verify` is None, equal numbers and at least `verify` Jaccard
similarity of the n-grams.

Since `verify` decides, pairs further apart are looked at too, if the distance is not 0: those that agree on one of
distance + 1 blocks (at most 4) of one of sixteen further fingerprints (`bands`). With 3 that misses few pairs of
similarity 0.8.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.dedup.bands import MOST_BLOCKS, many_fingerprints, proposed_pairs
from mixture.dedup.methods.base import METHODS, Groups, Method, Settings, StoredTexts
from mixture.dedup.neighbours import joined, near_duplicate_groups
from mixture.dedup.second_look import Verifier
from mixture.dedup.simhash import simhash_fingerprints

EQUAL_ROUNDS = 8


def _lazily(stored: StoredTexts, settings: Settings) -> Groups:
    """Texts are read where they have a neighbour at all; with further fingerprints, once all of them, in parts."""
    coarse = near_duplicate_groups(stored.prints(), settings.distance)
    if settings.verify is None:
        return coarse
    if settings.distance:
        prints = stored.all_of(many_fingerprints)
        coarse = joined(coarse, proposed_pairs(prints, _num_blocks(settings), settings.verify))
    return SIMHASH.within(coarse, stored, settings)


def _num_blocks(settings: Settings) -> int:
    return min(settings.distance + 1, MOST_BLOCKS)


def _link(forms: pa.Array, settings: Settings) -> Groups:
    fingerprints = simhash_fingerprints(forms)
    if settings.verify is None:
        return near_duplicate_groups(fingerprints, settings.distance)
    verifier = Verifier(forms, settings.verify, same_numbers=True)
    equal = _of_equal_fingerprints(fingerprints, verifier)
    standing = np.flatnonzero(equal == np.arange(len(equal)))
    group = near_duplicate_groups(
        fingerprints[standing], settings.distance, lambda pairs: verifier.accept_pairs(standing[pairs])
    )
    place = np.zeros(len(equal), np.int64)
    place[standing] = standing[group]
    if settings.distance == 0:
        return place[equal]
    proposed = proposed_pairs(many_fingerprints(forms), _num_blocks(settings), settings.verify)
    return joined(place[equal], proposed, verifier.accept_pairs)


def _of_equal_fingerprints(fingerprints: NDArray[np.uint64], verifier: Verifier) -> Groups:
    """For each text the first text of equal fingerprint that it is linked to, or itself; (u,).

    Long texts that differ in a word may share a fingerprint by the thousand. In each round the rest of each such group
    is compared with its first text, so that a group of m costs about m comparisons and not m squared.
    """
    linked = np.arange(len(fingerprints))
    rest = np.arange(len(fingerprints))
    for _ in range(EQUAL_ROUNDS):
        _, first, inverse, counts = np.unique(
            fingerprints[rest], return_index=True, return_inverse=True, return_counts=True
        )
        others = np.flatnonzero((counts[inverse] > 1) & (first[inverse] != np.arange(len(rest))))
        if not len(others):
            break
        pairs = np.stack([rest[first[inverse[others]]], rest[others]], axis=1)
        passed = verifier.accept_pairs(pairs)
        linked[pairs[passed, 1]] = pairs[passed, 0]
        rest = pairs[~passed, 1]
    return linked


SIMHASH = METHODS["simhash"] = Method(link=_link, lazily=_lazily)

"""From 64-bit keys to their numbers, in compiled kernels: open hash tables, only read once they are made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixture.text.kernels import compiled


@compiled
def slot_of(keys: NDArray[np.uint64], numbers: NDArray[np.int32], key: np.uint64) -> int:
    """Where `key` is in an open hash table, or the empty slot where it would be."""
    last = np.uint64(len(keys) - 1)
    slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & last
    while numbers[slot] >= 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & last
    return int(slot)


@compiled
def _fill(keys: NDArray[np.uint64], numbers: NDArray[np.int32], given: NDArray[np.uint64]) -> None:
    for number in range(len(given)):
        slot = slot_of(keys, numbers, given[number])
        if numbers[slot] < 0:  # the first of equal keys stays
            keys[slot] = given[number]
            numbers[slot] = number


def hash_table(given: NDArray[np.uint64], *, room: int = 0) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Keys and numbers of an open hash table that gives for each key its place in `given` (the first one).

    room: as many keys as it is made for, where more than the given ones will be in it. Half of its slots stay empty.
    """
    slots = 1 << max(4, (2 * max(room, len(given))).bit_length())
    keys, numbers = np.zeros(slots, dtype=np.uint64), np.full(slots, -1, dtype=np.int32)
    _fill(keys, numbers, given)
    return keys, numbers

"""Which part of a dataset to train on, where it comes in parts such as train, dev and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from mixture.errors import UsageError

TRAIN = "train"
Part = TypeVar("Part")


def choose_split(splits: Mapping[str, Part], place: object) -> Part:
    """`train`, else the only one. Raises UsageError, naming `place` and the splits, when there is neither."""
    if TRAIN in splits:
        return splits[TRAIN]
    if len(splits) == 1:
        return next(iter(splits.values()))
    names = ", ".join(sorted(splits)) or "none"
    raise UsageError(
        f"{place}: the splits are {names}; expected {TRAIN!r} or a single one: "
        "rename the one to train on, or move the others away"
    )

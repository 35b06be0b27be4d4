"""Which part of a dataset to train on, where it comes in parts such as train, dev and test.

One rule for files, folders, saved datasets and judgements: train, else the only part there is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from mixture.errors import UsageError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
ALL = "all"
SPLITS = {
    "train": TRAIN, "training": TRAIN,
    "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION, "eval": VALIDATION,
    "test": TEST, "testing": TEST,
}  # fmt: skip
# What else may stand in the name of a file that is called after its part: `test_set`, `dev-v1.1`, `train_1`.
PLAIN_WORDS = frozenset(("v", "of", "part", "shard", "set", "data", "split", "file", "rows", "pairs", "triples",
                         "examples", "queries", "questions"))  # fmt: skip
SURE = frozenset((TRAIN, VALIDATION, TEST))  # they say the part wherever they stand in a file's name; `dev-tools` not
Part = TypeVar("Part")


def split_of(stem: str, *, sure: frozenset[str] = SURE) -> str | None:
    """The part that a file's name (without endings) or a folder's name says, if any: its last word, or its first
    where the others are plain; else one of `sure` anywhere.

    >>> split_of("nq-dev"), split_of("test_set"), split_of("train-00000-of-00001"), split_of("dev-tools")
    ('validation', 'test', 'train', None)
    >>> split_of("test_faq_en"), split_of("train1")
    ('test', 'train')
    """
    words = [word for word in _words(stem) if word not in PLAIN_WORDS]
    said = words[-1:] if set(words[-1:]) & SPLITS.keys() else [word for word in words if word in sure][-1:]
    return SPLITS[said[0]] if said else None


def family(stem: str) -> str:
    """A file's name without what tells the files of one collection apart: numbers and parts.

    >>> family("nq-train-00000-of-00001"), family("nq.dev"), family("train"), family("dev-tools")
    ('nq', 'nq', '', 'dev-tools')
    """
    apart = PLAIN_WORDS | SPLITS.keys() if split_of(stem) else PLAIN_WORDS
    return "-".join(word for word in _words(stem) if word not in apart)


def _words(stem: str) -> list[str]:
    words = (word.rstrip("0123456789") for word in re.split(r"[-_. ]+", stem.lower()))
    return [word for word in words if word]


def wanted_splits(given: str | None) -> frozenset[str] | None:
    """What a user asked for, such as `dev` or `train,validation`; None for nothing. Raises UsageError for no name."""
    if given is None:
        return None
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise UsageError(f"`split` is {given!r}; give a name such as train, validation or test, several, or all")
    return frozenset(map(_meant, names))


def choose(there: Collection[str], place: object, wanted: frozenset[str] | None) -> set[str]:
    """Which of the parts that are there to read: those wanted, else train, else the only one.

    Raises UsageError, naming `place` and the parts, when there is none of these, and when the only one is for tests.
    """
    names = ", ".join(sorted(there)) or "none"
    if wanted is not None:
        chosen = {name for name in there if ALL in wanted or _meant(name) in wanted or name in wanted}
        if not chosen:
            raise UsageError(f"{place}: no split {' or '.join(sorted(wanted))}; there are: {names}")
        return chosen
    if train := {name for name in there if _meant(name) == TRAIN}:
        return train
    if len(there) == 1:
        (only,) = there
        if _meant(only) == TEST:
            raise UsageError(
                f"{place}: the only split is {only}, which is not to be trained on; if you want it, give `split={only}`"
            )
        return {only}
    raise UsageError(f"{place}: the splits are {names}; expected {TRAIN!r} or a single one: say which in `split`")


def _meant(name: str) -> str:
    """The part that a name stands for: of `dev` validation; one of another name is itself."""
    return SPLITS.get(name.lower(), name)


def choose_split(splits: Mapping[str, Part], place: object, wanted: str | None = None) -> Part:
    """The one part to read; see `choose`. Raises UsageError when several are wanted."""
    chosen = choose(splits, place, wanted_splits(wanted))
    if len(chosen) > 1:
        raise UsageError(f"{place}: one split at a time is read from it; there are: {', '.join(sorted(splits))}")
    return splits[chosen.pop()]

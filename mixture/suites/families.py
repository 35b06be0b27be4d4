"""Which suites belong to which collection. A suite whose collection was trained on is its "own": what raises the
weight of that collection raises the score, which says little about other data."""

from __future__ import annotations

from collections.abc import Iterable

MARKS = "[/-"


def family(name: str) -> str:
    """A suite's or component's name up to the first "[", "/" or "-", in lower case: the languages of one suite, and a
    suite and its collection, have one.

    >>> family("xquad-zh/report"), family("xquad[language=zh]"), family("NQ")
    ('xquad', 'xquad', 'nq')
    """
    for mark in MARKS:
        name = name.split(mark, 1)[0]
    return name.lower()


def is_own(suite: str, collections: Iterable[str]) -> bool:
    """Whether one of these collections is the suite's.

    >>> is_own("dureader-demo", ["nq", "dureader"])
    True
    """
    return family(suite) in {family(name) for name in collections}

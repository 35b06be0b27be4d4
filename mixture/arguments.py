"""What callers may give where a job takes several names or paths."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from typing import TypeAlias

Name: TypeAlias = str | PathLike[str]
Names: TypeAlias = Name | Iterable[Name]
"""One name or path, or any number of them."""


def listed(given: Names) -> list[str]:
    """The names or paths as text; one alone is a list of one, not its letters.

    >>> listed("raw/"), listed(["raw/", "more.jsonl"]), listed(())
    (['raw/'], ['raw/', 'more.jsonl'], [])
    """
    return [fspath(given)] if isinstance(given, str | PathLike) else [fspath(one) for one in given]

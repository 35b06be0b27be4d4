"""What callers may give where a job takes several names or paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import TypeAlias, TypeVar

from mixture.errors import UsageError

T = TypeVar("T")

Name: TypeAlias = str | PathLike[str]
Names: TypeAlias = Name | Iterable[Name]
"""One name or path, or any number of them."""


def listed(given: Names) -> list[str]:
    """The names or paths as text; one alone is a list of one, not its letters.

    >>> listed("raw/"), listed(["raw/", "more.jsonl"]), listed(())
    (['raw/'], ['raw/', 'more.jsonl'], [])
    """
    return [fspath(given)] if isinstance(given, str | PathLike) else [fspath(one) for one in given]


def named(parameter: str, name: str, known: Mapping[str, T]) -> T:
    """What a name stands for; a `UsageError` that lists the names for one that is not among them.

    >>> named("key", "quary", {"query": 1, "pair": 2})
    Traceback (most recent call last):
    mixture.errors.UsageError: `key` is 'quary'; allowed: query, pair
    """
    if name not in known:
        raise UsageError(f"`{parameter}` is {name!r}; allowed: {', '.join(known)}")
    return known[name]

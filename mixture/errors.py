"""Errors of the toolkit. One root, so that a caller can catch everything of ours with one name.

A message has the value received, the values allowed and the next step. The command line prints it on one or two
lines; the exit code is the class's `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MixtureError(Exception):
    """Something went wrong with data or machine: exit code 1."""

    exit_code = 1


class UsageError(MixtureError):
    """The caller's mistake: a wrong name, path or value. Exit code 2."""

    exit_code = 2


class StoreError(MixtureError):
    """The store could not be read or written."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """A name that does not exist, with the nearest ones that do.

    >>> print(unknown_name("collection", "agnew", ["agnews", "xsum"]))
    no collection 'agnew'; did you mean 'agnews'?
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    if near:
        return UsageError(f"no {kind} {given!r}; did you mean {', '.join(map(repr, near))}?")
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return UsageError(f"no {kind} {given!r}; there are: {listed or 'none yet'}")

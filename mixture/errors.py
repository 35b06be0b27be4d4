"""Errors of the toolkit. One root, so that a caller can catch everything of ours with one name.

A message has the value received, the values allowed and the next step. The command line prints it on one or two
lines; the exit code is the class's `exit_code`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Mapping

# Components that a message names.
SHOWN = 8
# Numbers of an OSError: the disk is full, or the part of it that a user may fill.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class MixtureError(Exception):
    """Something went wrong with data or machine: exit code 1."""

    exit_code = 1


class UsageError(MixtureError):
    """The caller's mistake: a wrong name, path or value. Exit code 2."""

    exit_code = 2


class ForgottenRows(UsageError):
    """A mixture pins rows that were forgotten (`mixture.jobs.forget`), so that nothing reads its contents any more.

    mixture: its id; None where only a content of it is at hand
    held:    how many forgotten rows each component has, by name
    """

    def __init__(self, mixture: str | None, held: Mapping[str, int]) -> None:
        self.mixture, self.held = mixture, dict(held)
        source = "REF" if mixture is None else repr(mixture)
        step = f"jobs.create(store, NAME, source={source}, refresh=True)"
        super().__init__(f"{self.says}; {step} makes it anew without them")

    def __reduce__(self) -> tuple[type[ForgottenRows], tuple[str | None, dict[str, int]]]:
        return ForgottenRows, (self.mixture, self.held)

    @property
    def says(self) -> str:
        """Which rows of which components, without the next step."""
        total = sum(self.held.values())
        shown = [f"{name} ({count:,})" for name, count in self.held.items()]
        more = f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else ""
        name = "the mixture" if self.mixture is None else f"mixture {self.mixture}"
        return f"{name} holds {total:,} forgotten row{'s' * (total != 1)}: {', '.join(shown[:SHOWN])}{more}"


class StoreError(MixtureError):
    """The store could not be read or written."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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

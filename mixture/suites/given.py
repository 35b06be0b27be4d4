"""Suites as callers give them: folders in BEIR layout, and names of benchmarks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mixture.arguments import Names, listed
from mixture.errors import UsageError
from mixture.suites.benchmarks import PREFIXES, SUITES
from mixture.suites.layout import LAYOUT, find_suites, suite_name
from mixture.suites.suite import Suite, load_suite, suite_passages, suite_queries


class Given(Protocol):
    """A suite that is not read yet. `key` is its folder or the name it has here, `name` what its results are kept
    under. `fetch` has its data here, `load` reads it."""

    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str: ...
    def fetch(self) -> None: ...
    def load(self) -> Suite: ...
    def queries(self) -> Iterator[tuple[str, str]]: ...
    def passages(self, *, judged_only: bool = True) -> Iterator[tuple[str, str]]: ...


@dataclass(frozen=True)
class Folder:
    """A suite in a folder."""

    folder: Path

    @property
    def key(self) -> str:
        return str(self.folder)

    @property
    def name(self) -> str:
        return suite_name(self.folder)

    def fetch(self) -> None:
        return

    def load(self) -> Suite:
        return load_suite(self.folder)

    def queries(self) -> Iterator[tuple[str, str]]:
        return suite_queries(self.folder)

    def passages(self, *, judged_only: bool = True) -> Iterator[tuple[str, str]]:
        return suite_passages(self.folder, judged_only=judged_only)


def is_named(text: str) -> bool:
    """Whether a text can name suites of a benchmark.

    >>> is_named("beir/nfcorpus"), is_named("beir"), is_named("mteb:NFCorpus"), is_named("nfcorpus")
    (True, True, True, False)
    """
    return bool(_parts(text)) or any(text.startswith(prefix) for prefix in PREFIXES)


def known_names() -> list[str]:
    """All names that can be given, but those that a prefix begins: benchmarks and their parts."""
    parts = [key.split("/") for key in SUITES]
    return sorted({"/".join(words[:size]) for words in parts for size in range(1, len(words) + 1)})


def suites_of(given: Names) -> list[Given]:
    """The suites of folders (`find_suites`) and of names; a folder that is there goes before a name.

    Nothing is read or fetched yet. Raises `UsageError` for what is neither, and where two suites share a name.
    """
    found: dict[str, Given] = {}
    for text in listed(given):
        for one in _given(text):
            known = found.setdefault(one.name, one)
            if not _same(known, one):
                raise UsageError(f"two suites are called {one.name!r}: {known.key} and {one.key}; give one at a time")
    if not found:
        raise UsageError(f"no suite given; {LAYOUT}, or it has a name, as beir/nfcorpus")
    return list(found.values())


def _given(text: str) -> list[Given]:
    if Path(text).expanduser().is_dir():
        return [Folder(folder) for folder in find_suites(text)]
    if parts := _parts(text):
        return [SUITES[key] for key in parts]
    for prefix, expand in PREFIXES.items():
        if text.startswith(prefix):
            return list(expand(text.removeprefix(prefix)))
    near = difflib.get_close_matches(text, known_names(), n=3, cutoff=0.6)
    if near:
        raise UsageError(f"no folder and no suite {text!r}; did you mean {', '.join(map(repr, near))}?")
    known = sorted({key.split("/")[0] for key in SUITES} | {f"{prefix}TASK" for prefix in PREFIXES})
    raise UsageError(f"no folder {Path(text).expanduser()}; {LAYOUT}; by name there are: {', '.join(known)}")


def _parts(text: str) -> list[str]:
    return [key for key in SUITES if key == text or key.startswith(f"{text}/")]


def _same(one: Given, other: Given) -> bool:
    if isinstance(one, Folder) and isinstance(other, Folder):
        return one.folder.resolve() == other.folder.resolve()
    return one == other

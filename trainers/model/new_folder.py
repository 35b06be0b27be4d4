"""A folder for a model that is written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixture.errors import UsageError


def check_new(out: Path) -> None:
    """Raise `UsageError` for a folder that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; name a new folder in `out`")


@contextmanager
def beside(out: Path, kind: str) -> Iterator[Path]:
    """An empty folder beside `out`, which goes at the end unless it `become`s `out`: what is there is whole.

    kind: ends its name; what a killed call of the same kind left is removed first
    """
    scratch = out.parent / f".{out.name}.{kind}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def become(scratch: Path, out: Path) -> None:
    """Rename a folder; `out` is empty or not there."""
    if out.exists():
        out.rmdir()
    scratch.rename(out)

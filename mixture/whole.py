"""Files and folders that are written whole or not at all: beside their place, then renamed. Loads no duckdb.

What a killed process leaves stands in nobody's way, and goes when the next one writes in the same folder.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from mixture.errors import UsageError
from mixture.store import layout

# A process holds it for as long as it writes; the lock goes with the process.
LOCK = "lock"
# To make its folder and take the lock a process needs less.
YOUNG_SECONDS = 1.0


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """A folder in `folder`, for as long as the block runs. It holds the file `LOCK`."""
    sweep(folder)
    scratch = Path(tempfile.mkdtemp(prefix=layout.WRITING, dir=folder))
    lock = filelock.FileLock(scratch / LOCK)
    try:
        with lock:
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what processes that are gone have left of `scratch_in`."""
    for left in folder.glob(f"{layout.WRITING}*"):
        try:
            if time.time() - left.stat().st_mtime < YOUNG_SECONDS or not left.is_dir():
                continue
            if (left / LOCK).exists():
                with filelock.FileLock(left / LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)
            else:
                left.rmdir()  # empty: the process was about to make the lock
        except (filelock.Timeout, OSError):  # at work, gone meanwhile, of another kind, or another user's
            continue


def check_new(folder: Path, argument: str | None = None) -> None:
    """Raise `UsageError` for a folder that holds something; `argument` is what named it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty; name a new folder" + (f" in `{argument}`" if argument else ""))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill. It takes the place of `folder`, which is new or empty, when the block ends well. Raises
    `UsageError` where something is there."""
    check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_in(folder.parent) as scratch:
        whole = scratch / "whole"
        whole.mkdir()
        yield whole
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)


def checked_place(file: Path) -> Path:
    """The same path; a `UsageError` where a file cannot be written there, since its folder does not exist."""
    if not file.parent.is_dir():
        raise UsageError(f"{file}: there is no folder {file.parent}")
    return file


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A file to write. It takes the place of `file` when the block ends well. What is no plain file, as /dev/stdout, is
    written itself. Raises `UsageError` where the folder is not there."""
    if checked_place(file).exists() and not file.is_file():
        yield file
        return
    target = file.resolve()  # a link stays one
    with scratch_in(target.parent) as scratch:
        whole = scratch / target.name
        yield whole
        whole.replace(target)

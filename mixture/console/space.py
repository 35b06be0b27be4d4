"""A disk that is full, whatever noticed it: Python, Arrow, the store's databases or a library of Rust's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mixture.errors import NO_ROOM, causes
from mixture.store import layout

SIGNS = ("no space left", "disk full", "disk is full", "disk quota exceeded", "os error 28")


def no_room(error: BaseException, words: Iterable[str]) -> str | None:
    """The folder that is full, where an error or one that it came of says that one is; None for other errors.

    Few of them name it: of the folders that the words of a command name, and those that commands write to, it is the
    one with the least room.
    """
    chain = list(causes(error))
    if not any(getattr(one, "errno", None) in NO_ROOM or any(s in str(one).lower() for s in SIGNS) for one in chain):
        return None
    named = [one.filename for one in chain if isinstance(one, OSError) and isinstance(one.filename, str)]
    usual: tuple[str | Path, ...] = (
        os.environ.get("MIXTURE_STORE") or "mixture-store",
        layout.cache(),
        tempfile.gettempdir(),
        Path.cwd(),
    )
    places = {_folder(Path(str(place).partition("=")[2] or place)) for place in (named or (*words, *usual))}
    return str(min(sorted(places), key=lambda place: shutil.disk_usage(place).free))


def _folder(path: Path) -> Path:
    """The nearest folder there is, of a path that need not be one."""
    here = path.expanduser().absolute()
    return next(parent for parent in (here, *here.parents) if os.path.isdir(parent))  # noqa: PTH112  # names too long

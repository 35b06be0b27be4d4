"""Files of dataset repositories of the Hugging Face hub, as its client caches them, or as a folder that was brought.

What is held is used as it is, and nothing is asked of the network then.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mixture.errors import UsageError

ROOT = "MIXTURE_SUITES"  # names the folder of the cache; it may also hold <repository>/<files>, which wins
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.\w+$")


@dataclass(frozen=True)
class Source:
    """What is read of a repository `owner/name`.

    needs:    of each thing that is needed the patterns of files that may hold it, the usual one first; `*` stands for
              any letters
    revision: a commit, a branch or a tag
    """

    repo: str
    needs: tuple[tuple[str, ...], ...]
    revision: str = "main"


class Held(NamedTuple):
    """Of each thing that is needed its files, in order, and the commit that they are of; None for a folder that was
    brought."""

    files: tuple[tuple[Path, ...], ...]
    revision: str | None


def root() -> Path:
    """The folder of the cache: `$MIXTURE_SUITES`, else that of the hub's client."""
    import huggingface_hub.constants

    return Path(os.environ.get(ROOT) or huggingface_hub.constants.HF_HUB_CACHE).expanduser().absolute()


def held(source: Source) -> Held | None:
    """The files where all are here, else None. Asks no network."""
    brought = _files(root() / source.repo, source)
    if brought is not None:
        return Held(brought, None)
    try:
        return _snapshot(source, offline=True)
    except Exception:  # the client's errors and those of its HTTP library have no common root
        return None


def fetched(source: Source, suite: str) -> Held:
    """The files, downloaded where they are not here. Raises `UsageError`, which says what to bring where, when that
    fails."""
    if here := held(source):
        return here
    import huggingface_hub.constants

    reason = "HF_HUB_OFFLINE is set"
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        try:
            if found := _snapshot(source, offline=False):
                return found
            reason = f"{source.repo} lacks some of them on the hub"
        except Exception as error:  # as above
            reason = f"{source.repo}: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
    raise UsageError(
        f"{suite}: its data is not in {root()}, and cannot be fetched ({reason}); bring the files "
        f"{', '.join(_shown(source))} of the dataset {source.repo} to {root() / source.repo}"
    )


def _shown(source: Source) -> list[str]:
    usual = [need[0] for need in source.needs]
    return usual if len(usual) <= 4 else [*usual[:3], "…", usual[-1]]


def _snapshot(source: Source, *, offline: bool) -> Held | None:
    import huggingface_hub

    patterns = [pattern for need in source.needs for pattern in need]
    folder = Path(
        huggingface_hub.snapshot_download(
            source.repo, repo_type="dataset", revision=source.revision, allow_patterns=patterns, cache_dir=root(),
            local_files_only=offline,
        )
    )  # fmt: skip
    files = _files(folder, source)
    return None if files is None else Held(files, folder.name)


def _files(folder: Path, source: Source) -> tuple[tuple[Path, ...], ...] | None:
    found = tuple(_one(folder, need) for need in source.needs)
    return found if all(found) else None


def _one(folder: Path, patterns: tuple[str, ...]) -> tuple[Path, ...]:
    for pattern in patterns:
        files = tuple(sorted(folder.glob(pattern)))
        if files and _whole(files):
            return files
    return ()


def _whole(files: tuple[Path, ...]) -> bool:
    """Whether none of the files is missing that their names count: `train-00000-of-00002.parquet`."""
    counted = [int(found[2]) for file in files if (found := _SHARD.search(file.name))]
    return not counted or len(counted) == counted[0]

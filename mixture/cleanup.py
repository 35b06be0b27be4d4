"""What in a store's folder no mixture needs: materialised files, tiny models, run folders, leftovers of kills."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from mixture.registry import saved_mixtures
from mixture.store import Store

# What a command is writing right now looks like what a killed one left behind.
LEFTOVER_SECONDS = 24 * 3600
RUN_FOLDER = re.compile(r"(?:reference-)?([0-9a-f]{12})")


@dataclass(frozen=True)
class Unneeded:
    """A file or folder that can go: its path in the store's folder, its size in bytes, and why."""

    path: str
    num_bytes: int
    why: str


def unneeded(store: Store) -> list[Unneeded]:
    """What `collect` would remove. All of it comes back when a command needs it again, at the cost of its time.

    Kept: the collections themselves, what belongs to any saved mixture (a tag always means one), the run folders of
    runs that made a mixture, of the runs these rest on, and of runs that are not finished and can go on.
    """
    root = store.root
    found = [*_materialised(store), *_models(store), *_runs(store), *_leftovers(root)]
    return [Unneeded(str(path.relative_to(root)), _size(path), why) for path, why in found]


def collect(store: Store) -> list[Unneeded]:
    """Remove what no mixture needs; returns what it was."""
    found = unneeded(store)
    for thing in found:
        path = store.root / thing.path
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def _materialised(store: Store) -> Iterator[tuple[Path, str]]:
    mixtures = {row["mixture"] for row in store.rows("SELECT mixture FROM mixtures")}
    at_work = {row["mixture"] for row in store.rows("SELECT mixture FROM runs WHERE status = 'running'")}
    digests = {row["digest"] for row in store.rows("SELECT DISTINCT digest FROM mixture_weights")}
    root = store.root / "materialised"
    for file in sorted(root.glob("*.json")):
        if file.stem not in mixtures | at_work:
            yield file, "a mixture that was not saved"
        elif file.stem in at_work:
            digests |= {c["digest"] for c in json.loads(file.read_text("utf-8"))["components"]}
    for folder in sorted((root / "components").glob("[!.]*")):
        if folder.name not in digests:
            yield folder, "a content that no mixture pins"


def _models(store: Store) -> Iterator[tuple[Path, str]]:
    """Tiny models are named by the contents that they were built from (`trainers.base_model`)."""
    names = set()
    for saved in saved_mixtures(store):
        joined = "".join(sorted(c.digest for c in saved.spec.components))
        names.add(hashlib.sha256(joined.encode()).hexdigest()[:12])
    for folder in sorted((store.root / "models").glob("tiny-*")):
        if folder.name.rpartition("-")[0].rpartition("-")[2] not in names:
            yield folder, "a model of texts that no mixture pins"


def _runs(store: Store) -> Iterator[tuple[Path, str]]:
    rows = {row["run_id"]: row for row in store.rows("SELECT run_id, status, config FROM runs")}
    needed = {row["run_id"] for row in store.rows("SELECT run_id FROM mixtures WHERE run_id IS NOT NULL")}
    needed |= {run for run, row in rows.items() if row["status"] == "running"}
    open_runs = list(needed)
    folders = set(needed)
    while open_runs:
        config = json.loads((rows.get(open_runs.pop()) or {}).get("config") or "{}")
        used = [run for run in config.get("runs") or () if run not in folders]
        folders |= {*used, PurePath(str(config.get("reference") or "")).name}
        open_runs += used
    for folder in sorted((store.root / "runs").glob("*")):
        ours = RUN_FOLDER.fullmatch(folder.name)
        if ours and folder.name not in folders and ours[1] not in needed:
            yield folder, "a run that made no mixture"


def _leftovers(root: Path) -> Iterator[tuple[Path, str]]:
    before = time.time() - LEFTOVER_SECONDS
    for pattern in ("spill-*", "materialised/components/.writing-*", "materialised/*.tmp"):
        for path in sorted(root.glob(pattern)):
            if path.stat().st_mtime < before:
                yield path, "left behind by a command that was killed"


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)

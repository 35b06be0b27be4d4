"""What in a store's folder no mixture needs: materialised files, tiny models, run folders, embeddings, leftovers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixture.registry.names import saved_mixtures
from mixture.store import Store, forgotten, layout, registered

# What a command is writing right now looks like what a killed one left behind.
LEFTOVER_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Unneeded:
    """A file or folder that can go: its path in the store's folder, its size in bytes, and why."""

    path: str
    num_bytes: int
    why: str


def gc(store: Store, *, dry_run: bool = False) -> list[Unneeded]:
    """Remove what no mixture needs; returns what it was. With `dry_run`, only say what would go.

    All of it comes back when a command needs it again, at the cost of its time.

    Kept: the collections themselves, what belongs to any saved mixture (a tag always means one), the run folders of
    runs that made a mixture, of the runs these rest on, and of runs that are not finished and can go on. A reference's
    embeddings and the branches of learners towards a target are kept for runs that are not finished alone: these must
    find their own to end with the same bits. Embeddings that mining and dedup keep go by space, those that no command
    has read or written for a day.
    """
    root = store.work
    found = [
        *_materialised(store),
        *_models(store),
        *_runs(store),
        *_embeddings(store),
        *_spaces(root),
        *_branches(store),
        *_matches(store),
        *_leftovers(root),
    ]
    result = [Unneeded(str(path.relative_to(root)), size_of(path), why) for path, why in found]
    for path, _ in () if dry_run else found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return result


def _materialised(store: Store) -> Iterator[tuple[Path, str]]:
    mixtures = {row["mixture"] for row in store.rows("SELECT mixture FROM mixtures")}
    running = store.rows("SELECT mixture, config FROM runs WHERE status = 'running'")
    at_work = {row["mixture"] for row in running}
    at_work |= {phase["mixture"] for row in running for phase in _config(row).get("phases", ())}
    digests = {row["digest"] for row in store.rows("SELECT DISTINCT digest FROM mixture_weights")}
    root = layout.materialised(store.work)
    for file in layout.specs(root):
        if file.stem not in mixtures | at_work:
            yield file, "a mixture that was not saved"
        elif file.stem in at_work:
            digests |= {c["digest"] for c in json.loads(file.read_text("utf-8"))["components"]}
    gone = {digest for _, digest in forgotten.counts(store)}
    for folder in layout.components(root):
        if folder.name not in digests:
            yield folder, "a content that no mixture pins"
        elif folder.name in gone:  # a kill may have left it
            yield folder, "a content with rows that are forgotten"


def _models(store: Store) -> Iterator[tuple[Path, str]]:
    pinned = {layout.texts_id(c.digest for c in saved.spec.components) for saved in saved_mixtures(store)}
    for folder, texts in layout.tiny_models(store.work).items():
        if texts not in pinned:
            yield folder, "a model of texts that no mixture pins"


def _runs(store: Store) -> Iterator[tuple[Path, str]]:
    configs = {row["run_id"]: _config(row) for row in store.rows("SELECT run_id, config FROM runs")}
    waiting = [row["run_id"] for row in store.rows("SELECT run_id FROM mixtures WHERE run_id IS NOT NULL")]
    waiting += [row["run_id"] for row in store.rows("SELECT run_id FROM runs WHERE status = 'running'")]
    needed = set()
    while waiting:
        run = waiting.pop()
        if run not in needed:
            needed.add(run)
            config = configs.get(run, {})
            reference = layout.run_of(str(config.get("reference") or ""))
            waiting += [*(config.get("runs") or ()), *([reference] if reference else [])]
    for folder, run in layout.runs(store.work).items():
        if run not in needed:
            yield folder, "a run that made no mixture"


def _embeddings(store: Store) -> Iterator[tuple[Path, str]]:
    running = [_config(row) for row in store.rows("SELECT config FROM runs WHERE status = 'running'")]
    used = {config.get("reference_embeddings") for config in running if config.get("reference")}
    for folder in layout.kept_embeddings(store.work):
        # None: a run that an older version began does not say which it uses.
        if not used & {folder.name, None}:
            yield folder, "a reference's embeddings that no unfinished run uses"


def _spaces(root: Path) -> Iterator[tuple[Path, str]]:
    """A command that uses a space touches its files all the while (`embeddings.kept`)."""
    before = time.time() - LEFTOVER_SECONDS
    for folder in layout.spaces(root):
        if max((path.stat().st_mtime for path in folder.iterdir()), default=0.0) < before:
            yield folder, "embeddings that no command used for a day"


def _branches(store: Store) -> Iterator[tuple[Path, str]]:
    folder = layout.branches(store.work)
    running = [_config(row) for row in store.rows("SELECT config FROM runs WHERE status = 'running'")]
    if folder.is_dir() and not any("target" in config for config in running):
        yield folder, "branches that no unfinished run uses"


def _matches(store: Store) -> Iterator[tuple[Path, str]]:
    today = registered.suites_key(registered.test_suites(store))
    for file, suites in layout.counted_matches(store.work).items():
        if suites != today:
            yield file, "counts of rows that match other test suites than today's"


def _config(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(row["config"] or "{}"))


def _leftovers(root: Path) -> Iterator[tuple[Path, str]]:
    before = time.time() - LEFTOVER_SECONDS
    for path in layout.leftovers(root):
        if path.stat().st_mtime < before:
            yield path, "left behind by a command that was killed"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)

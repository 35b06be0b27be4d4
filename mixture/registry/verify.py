"""Is what the mixtures pin still there, and whole? Contents in the store, data files, materialised files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mixture.errors import StoreError
from mixture.progress import Progress, silent
from mixture.registry.names import Mixture, SavedMixture, resolve, saved_mixtures
from mixture.specs import Part
from mixture.store import Store, files, layout


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was. A `fault` is damage; without it, it is something to know.

    what: content, data file or materialised
    """

    what: str
    name: str
    says: str
    fault: bool


@dataclass(frozen=True)
class Verified:
    """What was looked at, by kind, and what was found."""

    checked: dict[str, int]
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.fault]


class _Content(NamedTuple):
    """What a component pins: a part of a collection, with a digest."""

    part: Part
    digest: str


@dataclass
class _Pinned:
    """A content that mixtures pin: what they call it, the snapshots they were made at, their names, whether all were
    imported."""

    name: str
    snapshots: set[int]
    mixtures: list[str]
    imported: bool = True


def verify(store: Store, mixture: Mixture | None = None, *, progress: Progress = silent) -> Verified:
    """Check one mixture, or all of them and every data file of the store.

    A content is there when the store's rows, hashed again, give the digest that the mixture pins: today's rows, those
    of an older version of the store, or else the materialised files. Files are compared with their sizes, row counts
    and hashes (`mixture.store.files`).
    """
    mixtures = saved_mixtures(store) if mixture is None else [resolve(store, mixture)]
    collections = None
    if mixture is not None:
        collections = [c.collection for c in mixtures[0].spec.components]
    found: list[Finding] = []
    data = files.data_files(store, collections)
    pinned = _pinned(mixtures)
    if mixture is not None:
        # Made from an older mixture it pins content that the store had then, not when this one was made.
        everywhere = _pinned(saved_mixtures(store))
        for content, known in pinned.items():
            known.snapshots |= everywhere[content].snapshots
    folders = _components(layout.materialised(store.work), pinned if mixture is not None else None)
    total = len(data) + len(folders) + len(pinned)
    for done, file in enumerate(data):
        progress(done, total, file.path)
        fault = files.fault(store, file)
        if fault is not None:
            found.append(Finding("data file", file.path, fault, True))
    whole = set()
    for done, folder in enumerate(folders, start=len(data)):
        progress(done, total, folder.name[:12])
        faults = _component_faults(folder)
        found += faults
        if not faults:
            whole.add(folder.name)
    found += _contents(store, pinned, whole)
    progress(total, total, "")
    checked = {
        "mixtures": len(mixtures),
        "contents": len(pinned),
        "data files": len(data),
        "materialised": len(folders),
    }
    return Verified(checked, found)


def require_whole(result: Verified) -> None:
    """Raise `StoreError` where something is damaged."""
    if result.faults:
        first = result.faults[0]
        raise StoreError(
            f"{len(result.faults)} damaged; the first: {first.what} {first.name} {first.says}\n"
            "restore the files from a copy, or ingest the collection anew into a new store"
        )


def _pinned(mixtures: Sequence[SavedMixture]) -> dict[_Content, _Pinned]:
    found: dict[_Content, _Pinned] = {}
    for mixture in mixtures:
        for c in mixture.spec.components:
            content = found.setdefault(_Content(c.part, c.digest), _Pinned(c.name, set(), []))
            content.mixtures.append(mixture.reference)
            content.imported &= mixture.imported_from is not None
            if mixture.snapshot is not None:
                content.snapshots.add(mixture.snapshot)
    return found


def _contents(store: Store, pinned: dict[_Content, _Pinned], whole: set[str]) -> list[Finding]:
    today = {part: files.digest(store, part) for part in dict.fromkeys(content.part for content in pinned)}
    found = []
    loose = [known.name for content, known in pinned.items() if not content.digest]
    if loose:
        says = "not pinned: imported without digests, and the store lacked these collections"
        found.append(Finding("content", ", ".join(sorted(loose)), says, False))
    for content, known in pinned.items():
        if content.digest and content.digest != today[content.part]:
            found.append(_elsewhere(store, content, known, content.digest in whole))
    return found


def _elsewhere(store: Store, content: _Content, known: _Pinned, materialised: bool) -> Finding:
    """What to say of a content that today's rows do not give."""
    named = f"{known.name} as pinned by {', '.join(known.mixtures[:3])}{', …' * (len(known.mixtures) > 3)}"
    if materialised:
        return Finding("content", named, "is no longer today's; its materialised files are whole", False)
    for snapshot in sorted(known.snapshots, reverse=True):
        try:
            with files.at_version(store, snapshot, content.part.selection) as old:
                if files.digest(old, content.part) == content.digest:
                    return Finding("content", named, f"is no longer today's; version {snapshot} holds it", False)
        except StoreError:
            continue
    if known.imported:
        return Finding("content", named, "is not in this store; the mixture was imported", False)
    return Finding("content", named, f"is gone: no rows give the digest {content.digest[:12]}", True)


def _components(root: Path, pinned: dict[_Content, _Pinned] | None) -> list[Path]:
    """The materialised components, or those of these contents."""
    digests = None if pinned is None else {content.digest for content in pinned}
    return [folder for folder in layout.components(root) if digests is None or folder.name in digests]


def _component_faults(folder: Path) -> list[Finding]:
    """What is wrong with the files of a materialised component. One that an older toolkit wrote has no hashes."""
    name = folder.name[:12]
    try:
        facts = json.loads((folder / "component.json").read_text("utf-8"))
        recorded, collection = facts.get("files", {}), facts["collection"]
    except (OSError, ValueError, KeyError, AttributeError):
        return [Finding("materialised", f"{name}/component.json", "cannot be read", True)]
    found = []
    for file in ("examples.arrow", "passages.arrow"):
        path, shown = folder / file, f"{name}/{file} of {collection}"
        if not path.is_file():
            found.append(Finding("materialised", shown, "is missing", True))
        elif file in recorded and files.sha256(path) != recorded[file]:
            found.append(Finding("materialised", shown, "its bytes have changed since they were written", True))
    return found

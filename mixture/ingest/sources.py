"""What the user points at (files, folders, patterns, URIs, hub ids) as sorted units, each with its collection.

A unit is what is read and stored as a whole: a file, a folder in a layout that is read as a whole (BEIR, MS MARCO, a
saved dataset), a file behind a URI, a file or dataset of the hub.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from mixture.errors import UsageError
from mixture.ingest import hub, remote
from mixture.ingest.detect import folder_format, look
from mixture.ingest.formats import EXTENSIONS, FOLDERS, READERS, REMOTE, check_name
from mixture.ingest.hub import HubPart, HubSource
from mixture.ingest.remote import RemoteFile

HUB_FOLDER = "data"  # where a dataset repository keeps its shards; the name to use is that of the folder above
SHARD = re.compile(r"(^|.*[-_.])\d+-of-\d+")
LANGUAGE_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
# Two or three letters at the end of a file name that say which part of the data it is, not its language.
NOT_LANGUAGES = frozenset({"all", "dev", "max", "min", "neg", "new", "old", "out", "pos", "raw", "set", "tmp", "val"})


@dataclass(frozen=True)
class SourceUnit:
    """Something to ingest as a whole: where it is, the collection it belongs to, its language where its name says it,
    and its format.

    `discover` finds the format, so that nobody looks at the content again. It is None for a file that is of no known
    format, and for one of the hub, which may not be on this machine yet: then the reader looks.
    """

    place: Path | RemoteFile | HubPart
    collection: str
    language: str | None = None
    format: str | None = None

    @property
    def location(self) -> str:
        """The path or URI as users see it and the store records it."""
        return str(self.place)


def discover(
    sources: Sequence[Path | str | HubSource], name: str | None, *, format: str | None = None
) -> list[SourceUnit]:
    """The units behind files, folders, glob patterns, URIs and hub ids, sorted by collection and location.

    A folder of files is one collection, named after the folder; each of its sub-folders is another, with all that
    lies below. A folder that is read as a whole is one unit and one collection. A file given by itself is named after
    its own stem (`xquad.zh.jsonl`: collection xquad, language zh), a shard such as `train-00000-of-00001.parquet`
    after its folder (after the one above if that is `data`). Files behind a URI (`s3://bucket/folder`) follow the
    same rules; a hub dataset is named after its repository.
    `name` replaces the collection's name; several files or folders then become one collection, but a folder of
    collections does not. `format` is taken for every unit, whatever its content looks like.

    Raises UsageError when a source does not exist or holds no data file, when `name` is given for a folder of several
    collections, when one file would be in two collections or cannot be opened, and when there is no such format or not
    for this source.
    """
    check_name(format)
    found: dict[object, SourceUnit] = {}
    for source in sources:
        units = _units(source, format)
        if not units:
            raise UsageError(f"no data files in {source} (hidden files, README, LICENSE and *.md do not count)")
        if name is not None:
            units = _renamed(units, name, source)
        for unit in units:
            # Links and other spellings of a path are the same file.
            key = unit.place.resolve() if isinstance(unit.place, Path) else unit.location
            earlier = found.setdefault(key, unit)
            if earlier.collection != unit.collection:
                raise UsageError(
                    f"{unit.location} would be in two collections, {earlier.collection!r} and {unit.collection!r}; "
                    "give it once, or give `name`"
                )
    if not found:
        raise UsageError("no sources; give a file, a folder, a glob pattern, a URI or a hub id")
    for unit in found.values():
        if any("\ud800" <= letter <= "\udfff" for letter in unit.location):
            raise UsageError(f"the name {unit.location!r} is not UTF-8; rename the file")
    return sorted(found.values(), key=lambda unit: (unit.collection, unit.location))


def _units(source: Path | str | HubSource, format: str | None) -> list[SourceUnit]:
    if isinstance(source, HubSource):
        return _hub_units(source, format)
    text = str(source)
    if remote.is_uri(text):
        if format is not None and format not in REMOTE:
            known = " or ".join(REMOTE)
            raise UsageError(f"{text}: only {known} is read from a URI, not {format}; copy the files here first")
        return _remote_units(text, format)
    if Path(text).exists() or glob.has_magic(text):
        return [unit for path in _matches(text) for unit in _local_units(path, format)]
    if not hub.looks_like_hub_id(text) or Path(text).suffix.lower() in EXTENSIONS:
        raise UsageError(f"no such file or folder: {text}")
    try:
        return _hub_units(HubSource(text), format)
    except UsageError as error:
        raise UsageError(f"no such file or folder: {text}; and {error}") from None


def _matches(source: str) -> list[Path]:
    path = Path(source)
    if path.exists():
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 - absolute patterns
    return [path for path in matches if path.is_dir() or _is_data(path)]


def _hub_units(source: HubSource, format: str | None) -> list[SourceUnit]:
    collection = source.hub_id.rpartition("/")[2]
    return [
        SourceUnit(part, collection, split_name(PurePath(part.file))[1] if part.file else None, format)
        for part in hub.find(source)
    ]


def _remote_units(uri: str, format: str | None) -> list[SourceUnit]:
    base, files = remote.list_files(uri)
    units = []
    for file in files:
        path = PurePath(file.path)
        below = path.relative_to(base).parts
        if not _counts(path.name):
            continue
        file_format = format or remote.format_of(path)
        if len(files) == 1 and uri.rstrip("/").endswith(path.name):
            units.append(_single(file, path, file_format))
        else:
            units.append(_member(file, path, base / below[0] if len(below) > 1 else base, file_format))
    return units


def _local_units(path: Path, format: str | None) -> Iterator[SourceUnit]:
    if not path.is_dir():
        yield _single(path, path, format or look(path)[0])
        return
    if whole := _whole(path, format):
        yield SourceUnit(path, _folder_name(path), format=whole)
        return
    if format is not None and format not in READERS and not any(_whole(p, format) for p in path.rglob("*")):
        FOLDERS[format].data_files(path)  # raises, saying what such a folder holds
    for entry in sorted(path.iterdir()):
        for place, place_format in _below(entry, format):
            yield _member(place, place, entry if entry.is_dir() else path, place_format)


def _below(path: Path, format: str | None) -> Iterator[tuple[Path, str | None]]:
    """The files and the folders that are read as a whole, at a path and below, each with its format."""
    if path.is_dir():
        if path.name.startswith("."):
            return
        if whole := _whole(path, format):
            yield path, whole
            return
        for entry in sorted(path.iterdir()):
            yield from _below(entry, format)
    elif _is_data(path) and (format is None or format in READERS):
        yield path, format or look(path)[0]


def _whole(folder: Path, format: str | None) -> str | None:
    """The format in which a folder is read as a whole; None for another. Raises UsageError for one of which a file is
    missing or no split is clear, so that this is said before anything is stored."""
    if not folder.is_dir():
        return None
    name = folder_format(folder) if format is None else format
    layout = FOLDERS.get(name or "")
    if layout is None or not layout.is_one(folder):
        return None
    layout.data_files(folder)
    return name


def _single(place: Path | RemoteFile, file: PurePath, format: str | None) -> SourceUnit:
    stem, language = split_name(file)
    if SHARD.fullmatch(stem):
        return _member(place, file, file.parent, format)
    return SourceUnit(place, stem, language, format)


def _member(place: Path | RemoteFile, file: PurePath, folder: PurePath, format: str | None) -> SourceUnit:
    stem, language = split_name(file)
    name = _folder_name(folder)
    if name == HUB_FOLDER and SHARD.fullmatch(stem):
        name = _folder_name((folder.absolute() if isinstance(folder, Path) else folder).parent)
    return SourceUnit(place, name, language, format)


def _is_data(path: Path) -> bool:
    return path.is_file() and _counts(path.name)


def _counts(name: str) -> bool:
    documents = name.upper().startswith(("README", "LICENSE")) or name.lower().endswith(".md")
    return not name.startswith(".") and not documents


def _folder_name(folder: PurePath) -> str:
    # A link keeps its own name; only "." and ".." have to be looked up.
    if isinstance(folder, Path) and folder.name in ("", ".."):
        return folder.resolve().name
    return folder.name


def split_name(path: PurePath) -> tuple[str, str | None]:
    """A file's stem without data extensions, and the language tag at its end, if it has one.

    >>> split_name(Path("xquad.zh.jsonl.gz"))
    ('xquad', 'zh')
    >>> split_name(Path("nq.dev.jsonl"))
    ('nq.dev', None)
    """
    stem = path.name
    while (suffix := Path(stem).suffix).lower() in EXTENSIONS:
        stem = stem.removesuffix(suffix)
    base, dot, tag = stem.rpartition(".")
    if base and dot and LANGUAGE_TAG.fullmatch(tag) and tag not in NOT_LANGUAGES:
        return base, tag
    return stem, None


def _renamed(units: Sequence[SourceUnit], name: str, source: Path | str | HubSource) -> list[SourceUnit]:
    folders = sorted({unit.collection for unit in units})
    place = str(source)
    if len(folders) > 1 and (Path(place).is_dir() or remote.is_uri(place)):
        listed = ", ".join(folders[:8]) + (", …" if len(folders) > 8 else "")
        raise UsageError(
            f"one name {name!r} for the {len(folders)} collections of {source}: {listed}; leave `name` out"
        )
    return [replace(unit, collection=name) for unit in units]

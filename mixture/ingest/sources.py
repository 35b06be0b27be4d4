"""What the user points at (files, folders, patterns, URIs, hub ids) as sorted units, each with its collection.

A unit is what is read and stored as a whole: a file, a folder in a layout that is read as a whole (BEIR, MS MARCO, a
saved dataset), a file behind a URI, a file or dataset of the hub.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from mixture.errors import UsageError
from mixture.ingest import hub, remote, splits
from mixture.ingest.detect import folder_format, look
from mixture.ingest.formats import EXTENSIONS, FOLDERS, READERS, REMOTE, check_name
from mixture.ingest.hub import HubPart, HubSource
from mixture.ingest.memory import InMemory, is_rows, table_from
from mixture.ingest.remote import RemoteFile

HUB_FOLDER = "data"  # where a dataset repository keeps its shards; the name to use is that of the folder above
SHARD = re.compile(r"(^|.*[-_.])\d+-of-\d+")
LANGUAGE_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
# Two or three letters at the end of a file name that say which part of the data it is, not its language.
NOT_LANGUAGES = frozenset({"all", "dev", "max", "min", "neg", "new", "old", "out", "pos", "raw", "set", "tmp", "val"})


@dataclass(frozen=True)
class SourceUnit:
    """Something to ingest as a whole: where it is, the collection it belongs to, its language where its name says it,
    its format, and the part (train, validation, test) that a file's name or folder says, or that was asked of a folder.

    `discover` finds the format, so that nobody looks at the content again. It is None for a file that is of no known
    format, and for one of the hub, which may not be on this machine yet: then the reader looks.
    """

    place: Path | RemoteFile | HubPart | InMemory
    collection: str
    language: str | None = None
    format: str | None = None
    split: str | None = None

    @property
    def location(self) -> str:
        """The path or URI as users see it and the store records it."""
        return str(self.place)


Source: TypeAlias = Path | str | HubSource | Any
"""A path, pattern, URI or hub id; or rows in memory (`memory.is_rows`)."""


def discover(
    sources: Sequence[Source], name: str | None, *, format: str | None = None, split: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[SourceUnit]:  # fmt: skip
    """The units behind files, folders, glob patterns, URIs and hub ids, sorted by collection and location.

    A folder of files is one collection, named after the folder; each of its sub-folders is another, with all that
    lies below, unless its name is that of a part. Files whose names differ in more than a number, a language or a part
    (train, test) are not taken for one collection: `name` says that they are. A folder that is read as a whole is one
    unit and one collection. A file given by itself is named after its own stem (`xquad.zh.jsonl`: collection xquad,
    language zh), a shard such as `train-00000-of-00001.parquet` after its folder (after the one above if that is
    `data`). Files behind a URI (`s3://bucket/folder`) follow the same rules; a hub dataset is named after its
    repository. `name` replaces the collection's name; several files or folders then become one collection, but a folder
    of collections does not. `format` is taken for every unit, whatever its content looks like.

    Of files named or foldered train, validation (dev) or test, those to train on are taken: train, else the only part
    there is if it is not test; `split` asks for others ("dev", "train,dev", "all"). `note` is told what is left out.

    Raises UsageError when a source does not exist or holds no data file, when `name` is given for a folder of several
    collections, when one file would be in two collections or cannot be opened, when files are too unlike to be one
    collection, when no part to train on is clear, and when there is no such format or not for this source.
    """
    check_name(format)
    wanted = splits.wanted_splits(split)
    found: dict[object, SourceUnit] = {}
    for source in sources:
        units = _units(source, format, split) if not is_rows(source) else [_in_memory(source, name, split)]
        if not units:
            raise UsageError(f"no data files in {source} (hidden files, README, LICENSE and *.md do not count)")
        for unit in units:
            if any("\ud800" <= letter <= "\udfff" for letter in unit.location):
                raise UsageError(f"the name {unit.location!r} is not UTF-8; rename the file")
        if name is None and isinstance(source, str | Path) and Path(source).is_dir():
            _check_alike(units, source)
        if name is not None:
            units = _renamed(units, name, source)
        for unit in units:
            # Links and other spellings of a path are the same file.
            key = unit.place.resolve() if isinstance(unit.place, Path) else unit.location
            if isinstance(unit.place, InMemory) and key in found:
                raise UsageError(f"two tables in memory for collection {unit.collection!r}; join them, or ingest the "
                                 "second by itself with `append`")  # fmt: skip
            earlier = found.setdefault(key, unit)
            if earlier.collection != unit.collection:
                raise UsageError(
                    f"{unit.location} would be in two collections, {earlier.collection!r} and {unit.collection!r}; "
                    "give it once, or give `name`"
                )
    if not found:
        raise UsageError("no sources; give a file, a folder, a glob pattern, a URI or a hub id")
    collections: dict[str, list[SourceUnit]] = {}
    for unit in sorted(found.values(), key=lambda unit: (unit.collection, unit.location)):
        # nq-train.jsonl and nq-dev.jsonl, given one by one, are parts of one thing.
        own = splits.split_of(unit.collection) is not None
        collections.setdefault(splits.family(unit.collection) if own else unit.collection, []).append(unit)
    return [unit for units in collections.values() for unit in _of_split(units, wanted, note)]


def _of_split(units: list[SourceUnit], wanted: frozenset[str] | None, note: Callable[[str], None]) -> list[SourceUnit]:
    """Those of a collection's units to read. Units that say no part are read unless one is asked for."""
    parts = {unit.split for unit in units if unit.split is not None and _has_part(unit)}
    if splits.TRAIN in parts:  # beside it also dev_faq.jsonl says its part
        units = [unit if unit.split or _is_folder(unit) else replace(unit, split=_any_part(unit)) for unit in units]
        parts |= {unit.split for unit in units if unit.split is not None and _has_part(unit)}
    if not parts:
        files = [u for u in units if isinstance(u.place, Path | RemoteFile) and not _is_folder(u)]
        if files and wanted is not None and not wanted & {splits.ALL, splits.TRAIN}:
            raise UsageError(f"{files[0].location}: its name says no part such as train or test, so it is not known to "
                             f"be {' or '.join(sorted(wanted))}; leave `split` out")  # fmt: skip
        return units
    plain = [unit for unit in units if not _has_part(unit)]
    if wanted is None and parts == {splits.TEST} and not plain:
        raise UsageError(f"{units[0].location} is named as test data, which is not to be trained on; "
                         "if you do want it, give `split=test`")  # fmt: skip
    if wanted is None and plain and splits.TRAIN not in parts:
        chosen: set[str] = set()
    else:
        chosen = splits.choose(parts, units[0].collection, wanted)
    read_whole = wanted is None or splits.ALL in wanted
    kept = [unit for unit in units if (unit.split in chosen if _has_part(unit) else read_whole or _is_folder(unit))]
    left = [unit for unit in units if unit not in kept]
    collection = kept[0].collection
    if left:
        names = ", ".join("/".join(Path(unit.location).parts[-2:]) for unit in left[:5]) + ", …" * (len(left) > 5)
        found = ", ".join(sorted({unit.split or "of no part" for unit in left}))
        note(f"{collection}: left out {names} ({found}); `split=all` takes them in")
    elif wanted is None and chosen and splits.TRAIN not in chosen:
        note(f"{collection}: {kept[0].location} is named {', '.join(sorted(chosen))}; there is no file for training")
    return kept


def _has_part(unit: SourceUnit) -> bool:
    """Whether the unit's split is one that its name says; a folder reads its own."""
    return unit.split is not None and not _is_folder(unit)


def _any_part(unit: SourceUnit) -> str | None:
    return splits.split_of(split_name(PurePath(unit.location))[0], sure=frozenset(splits.SPLITS))


def _is_folder(unit: SourceUnit) -> bool:
    return isinstance(unit.place, Path) and unit.place.is_dir()


def _check_alike(units: Sequence[SourceUnit], source: Path | str) -> None:
    """Raise UsageError when a collection would be made of files of different names."""
    names: dict[str, dict[str, str]] = {}
    for unit in units:
        if isinstance(unit.place, Path) and unit.place.is_file():
            stem = split_name(unit.place)[0]
            names.setdefault(unit.collection, {}).setdefault(splits.family(stem), unit.place.name)
    for collection, families in names.items():
        files = [file for family, file in sorted(families.items()) if family]
        if len(files) > 1:
            listed = ", ".join(files[:6]) + ", …" * (len(files) > 6)
            raise UsageError(
                f"the files of {source} would be one collection {collection!r}, but their names are different: "
                f"{listed}; give them one by one (FOLDER/*) for a collection each, or give `name` for one collection"
            )


def _in_memory(source: Any, name: str | None, split: str | None) -> SourceUnit:
    if name is None:
        raise UsageError("rows in memory have no name; give the collection's in `name`")
    return SourceUnit(InMemory(table_from(source, split), name, split), name, format="table")


def _units(source: Path | str | HubSource, format: str | None, split: str | None) -> list[SourceUnit]:
    if isinstance(source, HubSource):
        return _hub_units(source, format)
    text = str(source)
    if remote.is_uri(text):
        if format is not None and format not in REMOTE:
            known = " or ".join(REMOTE)
            raise UsageError(f"{text}: only {known} is read from a URI, not {format}; copy the files here first")
        return _remote_units(text, format)
    if Path(text).exists() or glob.has_magic(text):
        return [unit for path in _matches(text) for unit in _local_units(path, format, split)]
    if not hub.looks_like_hub_id(text) or Path(text).suffix.lower() in EXTENSIONS:
        raise UsageError(f"no such file or folder: {text}")
    try:
        return _hub_units(HubSource(text, split=split or splits.TRAIN), format)
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
        if not _counts(path.name):
            continue
        file_format = format or remote.format_of(path)
        if len(files) == 1 and uri.rstrip("/").endswith(path.name):
            units.append(_single(file, path, file_format))
        else:
            units.append(_below_folder(file, path, base, file_format))
    return units


def _local_units(path: Path, format: str | None, split: str | None) -> Iterator[SourceUnit]:
    if not path.is_dir():
        yield _single(path, path, format or look(path)[0])
        return
    if whole := _whole(path, format, split):
        yield SourceUnit(path, _folder_name(path), format=whole, split=split)
        return
    if format is not None and format not in READERS and not any(_whole(p, format, split) for p in path.rglob("*")):
        FOLDERS[format].data_files(path, split)  # raises, saying what such a folder holds
    for entry in sorted(path.iterdir()):
        for place, place_format in _below(entry, format, split):
            unit = _below_folder(place, place, path, place_format)
            yield replace(unit, split=split) if place.is_dir() else unit


def _below_folder(place: Path | RemoteFile, file: PurePath, base: PurePath, format: str | None) -> SourceUnit:
    """A file somewhere below a folder: its collection is the first sub-folder, unless that is called after a part."""
    folders = file.relative_to(base).parts[:-1] if file != base else ()
    named = [splits.SPLITS.get(name.lower()) for name in folders]
    own = base / folders[0] if folders and named[0] is None else base
    if isinstance(place, Path) and place.is_dir():
        own = base / file.relative_to(base).parts[0]
    unit = _member(place, file, own, format)
    part = next((name for name in reversed(named) if name), None)
    return replace(unit, split=part or unit.split or splits.split_of(own.name, sure=frozenset()))


def _below(path: Path, format: str | None, split: str | None) -> Iterator[tuple[Path, str | None]]:
    """The files and the folders that are read as a whole, at a path and below, each with its format."""
    if path.is_dir():
        if path.name.startswith("."):
            return
        if whole := _whole(path, format, split):
            yield path, whole
            return
        for entry in sorted(path.iterdir()):
            yield from _below(entry, format, split)
    elif _is_data(path) and (format is None or format in READERS):
        yield path, format or look(path)[0]


def _whole(folder: Path, format: str | None, split: str | None) -> str | None:
    """The format in which a folder is read as a whole; None for another. Raises UsageError for one of which a file is
    missing or no split is clear, so that this is said before anything is stored."""
    if not folder.is_dir():
        return None
    name = folder_format(folder) if format is None else format
    layout = FOLDERS.get(name or "")
    if layout is None or not layout.is_one(folder):
        return None
    layout.data_files(folder, split)
    return name


def _single(place: Path | RemoteFile, file: PurePath, format: str | None) -> SourceUnit:
    stem, language = split_name(file)
    part = splits.split_of(stem)
    # `train.jsonl` says no name of its own, nor does `test/data.jsonl`; `data.jsonl` may.
    in_part = _folder_name(file.parent).lower() in splits.SPLITS
    if SHARD.fullmatch(stem) or ((part or in_part) and not splits.family(stem)):
        return _member(place, file, file.parent, format)
    return SourceUnit(place, stem, language, format, part)


def _member(place: Path | RemoteFile, file: PurePath, folder: PurePath, format: str | None) -> SourceUnit:
    stem, language = split_name(file)
    name = _folder_name(folder)
    part = splits.SPLITS.get(name.lower())
    if (name == HUB_FOLDER and SHARD.fullmatch(stem)) or part:
        name = _folder_name((folder.absolute() if isinstance(folder, Path) else folder).parent)
    return SourceUnit(place, name, language, format, splits.split_of(stem) or part)


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

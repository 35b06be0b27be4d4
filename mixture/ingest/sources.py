"""What the user points at (files, folders, glob patterns) as a sorted list of files, each with its collection."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixture.errors import UsageError

EXTENSIONS = frozenset({".gz", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".tab", ".parquet", ".pq"})
HUB_FOLDER = "data"  # where a dataset repository keeps its shards; the name to use is that of the folder above
SHARD = re.compile(r"(^|.*[-_.])\d+-of-\d+")
LANGUAGE_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
# Two or three letters at the end of a file name that say which part of the data it is, not its language.
NOT_LANGUAGES = frozenset({"all", "dev", "max", "min", "neg", "new", "old", "out", "pos", "raw", "set", "tmp", "val"})


@dataclass(frozen=True)
class SourceFile:
    """A file to ingest: the collection it belongs to, and its language where the file name says it."""

    path: Path
    collection: str
    language: str | None


def discover(sources: Sequence[Path | str], name: str | None) -> list[SourceFile]:
    """The data files behind files, folders and glob patterns, sorted by collection and path.

    A folder of files is one collection, named after the folder; each of its sub-folders is another, with all that
    lies below. A file given by itself is named after its own stem (`xquad.zh.jsonl`: collection xquad, language zh),
    a shard such as `train-00000-of-00001.parquet` after its folder (after the one above if that is `data`).
    `name` replaces the collection's name; several files or folders then become one collection, but a folder of
    collections does not.

    Raises UsageError when a source does not exist or holds no data file, when `name` is given for a folder of several
    collections, and when one file would be in two collections.
    """
    found: dict[Path, SourceFile] = {}
    for source in sources:
        files = [file for path in _matches(str(source)) for file in _files(path)]
        if not files:
            raise UsageError(f"no data files in {source} (hidden files, README, LICENSE and *.md do not count)")
        if name is not None:
            files = _renamed(files, name, source)
        for file in files:
            # Links and other spellings of a path are the same file.
            earlier = found.setdefault(file.path.resolve(), file)
            if earlier.collection != file.collection:
                raise UsageError(
                    f"{file.path} would be in two collections, {earlier.collection!r} and {file.collection!r}; "
                    "give it once, or give --name"
                )
    if not found:
        raise UsageError("no sources; give a file, a folder or a glob pattern")
    return sorted(found.values(), key=lambda file: (file.collection, str(file.path)))


def _matches(source: str) -> list[Path]:
    path = Path(source)
    if path.exists():
        return [path]
    if not glob.has_magic(source):
        raise UsageError(f"no such file or folder: {source}")
    matches = [Path(match) for match in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 - absolute patterns
    return [path for path in matches if path.is_dir() or _is_data(path)]


def _files(path: Path) -> Iterator[SourceFile]:
    if not path.is_dir():
        stem, language = split_name(path)
        yield _member(path, path.parent) if SHARD.fullmatch(stem) else SourceFile(path, stem, language)
        return
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from (_member(file, entry) for file in _below(entry))
        elif _is_data(entry):
            yield _member(entry, path)


def _member(file: Path, folder: Path) -> SourceFile:
    stem, language = split_name(file)
    name = _folder_name(folder)
    if name == HUB_FOLDER and SHARD.fullmatch(stem):
        name = _folder_name(folder.absolute().parent)
    return SourceFile(file, name, language)


def _below(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _below(entry)
        elif _is_data(entry):
            yield entry


def _is_data(path: Path) -> bool:
    name = path.name
    documents = name.upper().startswith(("README", "LICENSE")) or name.lower().endswith(".md")
    return path.is_file() and not name.startswith(".") and not documents


def _folder_name(folder: Path) -> str:
    # A link keeps its own name; only "." and ".." have to be looked up.
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def split_name(path: Path) -> tuple[str, str | None]:
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


def _renamed(files: Sequence[SourceFile], name: str, source: Path | str) -> list[SourceFile]:
    folders = sorted({file.collection for file in files})
    if len(folders) > 1 and Path(source).is_dir():
        listed = ", ".join(folders[:8]) + (", …" if len(folders) > 8 else "")
        raise UsageError(
            f"one name {name!r} for the {len(folders)} collections of {source}: {listed}; leave --name out"
        )
    return [replace(file, collection=name) for file in files]

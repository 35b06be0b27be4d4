"""A unit of ingest, whatever it is: the hash by which a store knows it again, and its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyarrow.fs import LocalFileSystem

from mixture.ingest.columns import Columns
from mixture.ingest.formats import FOLDERS
from mixture.ingest.hub import HubPart, read_part
from mixture.ingest.mapping import column_map, mapping_text
from mixture.ingest.memory import InMemory, read_memory, sha256_of_table
from mixture.ingest.read import read_items
from mixture.ingest.reading import Reading
from mixture.ingest.remote import RemoteFile, read_remote
from mixture.ingest.sources import SourceUnit
from mixture.rows import RawExample, Reject


def sha256_of(unit: SourceUnit) -> str:
    """64 hexadecimal digits that change when what the unit holds changes.

    A file: the SHA-256 of its bytes, wherever it lies on this machine. A folder: of the sorted relative paths and
    hashes of those of its files that are read. A remote file: of its URI, size and time of change, as its bytes would
    have to be fetched. The hub: of repository, commit, file and what is chosen of them; from the mirror: of contents.
    """
    place = unit.place
    if isinstance(place, InMemory):
        return sha256_of_table(place.table)
    if isinstance(place, RemoteFile):
        if isinstance(place.filesystem, LocalFileSystem):
            return _of_file(Path(place.path))
        return _of_text(place.uri, str(place.size_bytes), str(place.modified_ns))
    if isinstance(place, HubPart):
        return _of_hub(place)
    if place.is_dir():
        return _of_files(place, FOLDERS[unit.format or ""].data_files(place, unit.split))
    return _of_file(place)


def read_unit(unit: SourceUnit, reading: Reading | None = None) -> Iterator[Columns | RawExample | Reject]:
    """Stream the rows of a unit, as blocks of columns where its format allows it. `reading` says which column is which
    and notes what they were taken for; a Reject of a folder says in which of its files (`Reject.file`).

    Raises UsageError, before the first row, for what cannot be read at all (see `read_file` and `hub.read_part`), and
    MixtureError when a remote place cannot be reached any more.
    """
    if isinstance(unit.place, InMemory):
        return read_memory(unit.place, reading or Reading())
    if isinstance(unit.place, RemoteFile):
        return read_remote(unit.place, unit.format, reading)
    if isinstance(unit.place, HubPart):
        return read_part(unit.place, unit.format, reading)
    return read_items(unit.place, format=unit.format, reading=reading or Reading(split=unit.split))


def _of_hub(part: HubPart) -> str:
    source = part.source
    columns = mapping_text(column_map(source.columns))
    if part.file is None:
        chosen = (source.config or "", source.split, columns)
        if part.mirror is None:
            return _of_text(source.hub_id, str(part.revision), *chosen)
        visible = [file for file in part.mirror.rglob("*") if file.is_file() and not _hidden(file, part.mirror)]
        return _of_text(_of_files(part.mirror, visible), *chosen)
    if part.mirror is None:
        return _of_text(source.hub_id, str(part.revision), part.file, columns)
    content = _of_file(part.mirror / part.file)
    return _of_text(content, columns) if columns else content


def _hidden(file: Path, root: Path) -> bool:
    return any(name.startswith(".") for name in file.relative_to(root).parts)


def _of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_files(folder: Path, files: Iterable[Path]) -> str:
    names = sorted((file.relative_to(folder).as_posix(), file) for file in files)
    return _of_text(*(part for name, file in names for part in (name, _of_file(file))))


def _of_text(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

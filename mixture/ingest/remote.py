"""Files behind a URI (`s3://bucket/prefix`, or any that `pyarrow.fs.FileSystem.from_uri` takes), in the formats that
can be read from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as fs

from mixture.errors import UsageError
from mixture.ingest.damage import survive
from mixture.ingest.formats import FORMATS, REMOTE
from mixture.ingest.labels import by_query
from mixture.ingest.reading import Reading
from mixture.ingest.table_rows import first_line
from mixture.rows import RawExample, Reject

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote file system. `uri` is what users see: it holds no key, secret or option."""

    uri: str
    path: str
    size_bytes: int
    modified_ns: int | None
    filesystem: fs.FileSystem = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.uri


def is_uri(source: str) -> bool:
    """Whether a source is a URI rather than a path."""
    return URI.match(source) is not None


def list_files(uri: str) -> tuple[PurePosixPath, list[RemoteFile]]:
    """The folder that a URI names and the files in it and below, sorted by path; names that start with "." or "_" do
    not count. A URI that is no folder names the one file, or all files and folders whose names start like it.

    Raises UsageError when the URI is not understood, the place cannot be reached, or nothing is there.
    """
    shown = _shown(uri)
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
        # Of a URI that is a prefix, "nq/tr", what is listed is its folder.
        path = path.rstrip("/") or path
        info = filesystem.get_file_info(path)
        base = path if info.type is fs.FileType.Directory else str(PurePosixPath(path).parent)
        if info.type is fs.FileType.File:
            found = [info]
        elif info.type is fs.FileType.Directory:
            found = list(_below(filesystem, base, ""))
        else:  # of a bucket that does not exist nothing is listed: what starts like its name is other buckets
            found = list(_below(filesystem, base, path)) if "/" in path else []
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"cannot list {shown}: {first_line(error)}; check the URI and the credentials") from None
    if not found:
        raise UsageError(f"nothing is at {shown}; give the URI of a {' or '.join(REMOTE)} file or of a folder of them")
    files = [
        RemoteFile(shown + info.path[len(path) :], info.path, info.size, info.mtime_ns, filesystem) for info in found
    ]
    return PurePosixPath(base), sorted(files, key=lambda file: file.path)


def format_of(path: PurePath) -> str:
    """The format of a remote file: the one that its name says, else the first that can be read from a URI. To look at
    the content would be a request for each file."""
    named = (name for name in REMOTE if path.suffix.lower() in FORMATS[name].extensions)
    return next(named, next(iter(REMOTE)))


def read_remote(
    file: RemoteFile, format: str | None = None, reading: Reading | None = None
) -> Iterator[RawExample | Reject]:
    """Rows of a remote file, a part of it at a time."""
    reading = reading or Reading()
    read = REMOTE[format or format_of(PurePath(file.path))]
    return by_query(survive(read(file.path, reading, file.filesystem)), reading.min_label)


def _below(filesystem: fs.FileSystem, folder: str, prefix: str) -> Iterator[fs.FileInfo]:
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if not info.path.startswith(prefix) or info.base_name.startswith((".", "_")):
            continue
        if info.type is fs.FileType.Directory:
            yield from _below(filesystem, info.path, "")
        elif info.type is fs.FileType.File and info.size:  # some stores keep folders as empty objects
            yield info


def _shown(uri: str) -> str:
    parts = urlsplit(uri)
    # In abfs://container@account the part before the "@" is no secret; a key and its secret have a colon.
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, host if ":" in user else parts.netloc, parts.path.rstrip("/"), "", ""))

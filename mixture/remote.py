"""A materialised folder in a bucket: `mixture export --materialised s3://bucket/prefix` writes it, and training fetches
what its mixture needs. Loads no duckdb.

A component's files never change, but for a teacher's scores; one that has the right size is not copied again. A
mixture's spec goes up last: where it is, all is.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import pyarrow.fs as fs

from mixture.errors import UsageError
from mixture.materialised import SCORES
from mixture.store import layout, place

_AT_ONCE = 2**24  # bytes


def is_remote(name: object) -> bool:
    return str(name).startswith(place.S3)


def sent(folder: Path, to: str, mixture: str) -> str:
    """Copy a materialised folder's mixture to `to`, what is there already left out; `to` as it is written in full."""
    to = place.checked(to)
    target = place.file_system(to)
    components = {part["digest"] for part in _components(layout.spec(folder, mixture).read_bytes())}
    first = [file for digest in sorted(components) for file in sorted(layout.component(folder, digest).glob("*"))]
    then = [file for file in [folder / "mixture.json", *sorted(folder.glob("cards/*"))] if file.is_file()]
    with place.reached(to):
        there = _sizes(target, layout.component(Path(), "").as_posix())
        for file in [*first, *then, layout.spec(folder, mixture)]:
            name = file.relative_to(folder).as_posix()
            if there.get(name) != file.stat().st_size or file.name == SCORES:
                with file.open("rb") as source, target.open_output_stream(name) as sink:
                    while part := source.read(_AT_ONCE):
                        sink.write(part)
    return to


def fetched(place_: str, mixture: str | None = None) -> tuple[Path, str]:
    """A folder of this machine's cache with what the mixture needs, and the mixture's id.

    mixture: its id or the beginning, where there are several. Raises `UsageError` where there is none, or several.
    """
    place_ = place.checked(place_)
    source = place.file_system(place_)
    with place.reached(place_):
        found = [Path(info.path) for info in _files(source, "", recursive=False)]
    chosen = layout.chosen([path.stem for path in found if layout.is_spec(path.name)], mixture, place_)
    folder = layout.fetched(hashlib.sha256(place_.encode()).hexdigest()[:12])
    spec = layout.spec(Path(), chosen).as_posix()
    with place.reached(place_):
        with source.open_input_stream(spec) as stream:
            told = stream.read()
        for digest in sorted({part["digest"] for part in _components(told)}):
            sizes = _sizes(source, layout.component(Path(), digest).as_posix())
            if not sizes:
                raise UsageError(f"{place_} lacks the rows {digest} of mixture {chosen}; export it again")
            for name, size in sizes.items():
                own = folder / name
                if not own.is_file() or own.stat().st_size != size or own.name == SCORES:
                    _download(source, name, own)
        _download(source, spec, folder / spec)
    return folder, chosen


def _components(spec: bytes) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(spec)["components"]
    return found


def _files(files: fs.FileSystem, folder: str, *, recursive: bool = True) -> list[fs.FileInfo]:
    selector = fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    return [info for info in files.get_file_info(selector) if info.type == fs.FileType.File]


def _sizes(files: fs.FileSystem, folder: str) -> dict[str, int]:
    return {info.path: info.size for info in _files(files, folder)}


def _download(source: fs.FileSystem, name: str, own: Path) -> None:
    """Whole or not at all; several processes may do it at once."""
    own.parent.mkdir(parents=True, exist_ok=True)
    scratch = own.with_name(f".{own.name}-{uuid.uuid4().hex[:8]}")
    try:
        with source.open_input_stream(name) as stream, scratch.open("wb") as sink:
            while part := stream.read(_AT_ONCE):
                sink.write(part)
        scratch.replace(own)
    finally:
        scratch.unlink(missing_ok=True)

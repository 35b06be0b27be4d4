"""A materialised folder in a bucket: `mixture export --materialised s3://bucket/prefix` writes it, and training fetches
what its mixture needs. Loads no duckdb.

A component's files never change, but for a teacher's scores; one that has the right size is not copied again. A
mixture's spec goes up last: where it is, all is.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as fs

from mixture.errors import UsageError
from mixture.materialised import SCORES
from mixture.store import layout, place

FILES = ("component.json", "examples.arrow", "passages.arrow")
_AT_ONCE = 2**24  # bytes


def is_remote(name: object) -> bool:
    return str(name).startswith("s3:/")  # a Path has one slash


def sent(folder: Path, to: object, mixture: str) -> str:
    """Copy a materialised folder's mixture to `to`, what is there already left out; `to` as it is written in full."""
    where, target = _opened(to)
    components = {part["digest"] for part in _components(layout.spec(folder, mixture).read_bytes())}
    first = [file for digest in sorted(components) for file in sorted(layout.component(folder, digest).glob("[!.]*"))]
    then = [file for file in [folder / "mixture.json", *sorted(folder.glob("cards/*"))] if file.is_file()]
    with place.reached(where):
        there = _sizes(target, layout.component(Path(), "").as_posix())
        for file in [*first, *then, layout.spec(folder, mixture)]:
            name = file.relative_to(folder).as_posix()
            if there.get(name) != file.stat().st_size or file.name == SCORES:
                _upload(file, target, name)
        for digest in components:  # scores that the store has no more
            name = (layout.component(Path(), digest) / SCORES).as_posix()
            if name in there and not (folder / name).is_file():
                target.delete_file(name)
    return where


def chosen(place_: object, mixture: str | None = None) -> str:
    """The id of the mixture of this id, or that begins so, or the only one. Raises `UsageError` where there is none, or
    several."""
    where, source = _opened(place_)
    with place.reached(where):
        found = [Path(info.path) for info in _files(source, "", recursive=False)]
    return layout.chosen([path.stem for path in found if layout.is_spec(path.name)], mixture, where)


def fetched(place_: object) -> Path:
    """The folder of this machine's cache for what is fetched from a place."""
    return layout.fetched(hashlib.sha256(_opened(place_)[0].encode()).hexdigest()[:12])


def fetch(place_: object, mixture: str) -> None:
    """Copy to `fetched` what a mixture, by its id, needs and is not there. Raises `UsageError` where the place lacks a
    part of it."""
    where, source = _opened(place_)
    folder, spec = fetched(place_), layout.spec(Path(), mixture).as_posix()
    with place.reached(where), source.open_input_stream(spec) as stream:
        told = stream.read()
    for digest in sorted({part["digest"] for part in _components(told)}):
        component = layout.component(Path(), digest)
        with place.reached(where):
            sizes = _sizes(source, component.as_posix())
        if lacking := [name for name in FILES if (component / name).as_posix() not in sizes]:
            raise UsageError(f"{where} lacks {', '.join(lacking)} of {digest}, of mixture {mixture}; export it again")
        for name, size in sizes.items():
            own = folder / name
            if not own.is_file() or own.stat().st_size != size or own.name == SCORES:
                _download(where, source, name, own)
        if (component / SCORES).as_posix() not in sizes:
            (folder / component / SCORES).unlink(missing_ok=True)
    _download(where, source, spec, folder / spec)


def _opened(place_: object) -> tuple[str, fs.FileSystem]:
    where = place.checked(place.S3 + str(place_).removeprefix("s3:").lstrip("/"))
    return where, place.file_system(where)


def _components(spec: bytes) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(spec)["components"]
    return found


def _files(files: fs.FileSystem, folder: str, *, recursive: bool = True) -> list[fs.FileInfo]:
    selector = fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    return [info for info in files.get_file_info(selector) if info.type == fs.FileType.File]


def _sizes(files: fs.FileSystem, folder: str) -> dict[str, int]:
    return {info.path: info.size for info in _files(files, folder)}


def _upload(file: Path, target: fs.FileSystem, name: str) -> None:
    sink = target.open_output_stream(name)
    try:
        with file.open("rb") as source:
            while part := source.read(_AT_ONCE):
                sink.write(part)
    except BaseException:
        with suppress(OSError):
            sink.close()  # which makes an object of what was written
            target.delete_file(name)
        raise
    sink.close()


def _download(where: str, source: fs.FileSystem, name: str, own: Path) -> None:
    with place.reached(where):
        stream = source.open_input_stream(name)
    with stream:
        write_whole(own, iter(lambda: _read(where, stream), b""))


def write_whole(file: Path, parts: Iterable[bytes]) -> None:
    """Whole or not at all, whoever else writes it at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}")
    try:
        with scratch.open("wb") as sink:
            for part in parts:
                sink.write(part)
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _read(where: str, stream: pa.NativeFile) -> bytes:
    with place.reached(where):
        found: bytes = stream.read(_AT_ONCE)
        return found

"""Datasets of the Hugging Face hub: single files of a repository, or what the library `datasets` makes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture.errors import MixtureError, UsageError, unknown_name
from mixture.ingest.columns import Columns
from mixture.ingest.damage import BadRow, StreamDamaged, start_of, survive
from mixture.ingest.labels import by_query
from mixture.ingest.mapping import Given
from mixture.ingest.read import read_items
from mixture.ingest.reading import Reading
from mixture.ingest.shapes import Shape
from mixture.ingest.splits import TRAIN, choose_split
from mixture.ingest.table_rows import first_line, row_example
from mixture.rows import RawExample, Reject

MIRROR = "MIXTURE_HUB_MIRROR"  # names a folder with <hub id>/<files of the repository>, which is asked first
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class HubSource:
    """A dataset repository, `owner/name`, and what of it to read.

    files:   files that our own readers read; without them the rows come through `datasets` in streaming mode
    config, split: which of the repository's configurations and splits (only without `files`)
    columns: the user's word on theirs, where they do not say what they hold: {"query": "Title", "positive": "Body"}
    """

    hub_id: str
    config: str | None = None
    files: tuple[str, ...] = ()
    split: str = TRAIN
    columns: Given | None = None


@dataclass(frozen=True)
class HubPart:
    """One unit of a hub source: one of its files, or all of it where there are none. Found at `mirror` (the
    repository's folder there) or on the hub at the commit `revision`."""

    source: HubSource
    file: str | None
    mirror: Path | None
    revision: str | None

    def __str__(self) -> str:
        source = self.source
        if self.file is not None:
            return f"hf://datasets/{source.hub_id}/{self.file}"
        return f"hf://datasets/{source.hub_id}" + (f" {source.config}" if source.config else "") + f" {source.split}"


def looks_like_hub_id(text: str) -> bool:
    """Whether a text can be `owner/name`. Many relative paths can."""
    return HUB_ID.fullmatch(text) is not None


def find(source: HubSource) -> list[HubPart]:
    """The units of a source: one for each of its files, else one.

    Looks in the mirror, then on the hub, whose newest commit is pinned. Raises UsageError when neither has the
    repository (or the hub cannot be reached), and for a file that the repository does not have.
    """
    mirror = _mirrored(source.hub_id)
    revision = None
    if mirror is not None:
        have = [file for file in source.files if (mirror / file).is_file()]
    else:
        revision, have = _on_hub(source.hub_id)
    if missing := [file for file in source.files if file not in have]:
        raise UsageError(f"hub dataset {source.hub_id!r} has no file {missing[0]!r}" + (f" in {mirror}" * bool(mirror)))
    return [HubPart(source, file, mirror, revision) for file in source.files or (None,)]


def read_part(
    part: HubPart, format: str | None = None, reading: Reading | None = None
) -> Iterator[Columns | RawExample | Reject]:
    """Rows of a unit, as blocks of columns where its format allows it. `format` overrides what a file looks like.

    Raises UsageError, before the first row, when the repository, its configuration or split cannot be read, and
    MixtureError when the connection breaks.
    """
    reading = reading or Reading(part.source.columns)
    if part.file is not None:
        return read_items(_local(part), format=format, reading=reading)
    if format is not None:
        raise UsageError(f"{part}: format {format!r} is for files; the library datasets finds the format by itself")
    return by_query(survive(_rows(_stream(part), part, reading)), reading.min_label)


def _mirrored(hub_id: str) -> Path | None:
    root = os.environ.get(MIRROR)
    folder = Path(root, hub_id) if root else None
    return folder if folder is not None and folder.is_dir() else None


def _on_hub(hub_id: str) -> tuple[str | None, list[str]]:
    """The newest commit and the names of its files."""
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().dataset_info(hub_id)
    except Exception as error:  # the client's errors and those of its HTTP library have no common root
        mirror = os.environ.get(MIRROR)
        raise UsageError(
            f"no hub dataset {hub_id!r}: not on the hub ({first_line(error)[:200]}) and not in "
            + (f"${MIRROR} {mirror}" if mirror else f"${MIRROR}, which is not set")
        ) from None
    return info.sha, [sibling.rfilename for sibling in info.siblings or []]


def _local(part: HubPart) -> Path:
    if part.file is None:
        raise ValueError("only for a unit that is a file")
    if part.mirror is not None:
        return part.mirror / part.file
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.hf_hub_download(part.source.hub_id, part.file, repo_type="dataset", revision=part.revision)
        )
    except Exception as error:  # as above
        raise MixtureError(f"cannot download {part}, run the command again: {first_line(error)}") from error


def _stream(part: HubPart) -> Iterable[Mapping[str, Any]]:
    import datasets  # imports much, and only this needs it

    source = part.source
    place = str(part.mirror or source.hub_id)
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(place, source.config, revision=part.revision, streaming=True)
    except (ValueError, OSError) as error:
        # "Config name is missing. Please pick one among …", with an example of code after it.
        message = " ".join(str(error).partition("Example of usage")[0].split())
        raise UsageError(f"hub dataset {source.hub_id!r}: {message}") from None
    if source.split in splits:
        found: Iterable[Mapping[str, Any]] = splits[source.split]
        return found
    if source.split == TRAIN:
        return choose_split(splits, part)
    raise unknown_name(f"split of {source.hub_id}", source.split, splits)


def _rows(values: Iterable[Mapping[str, Any]], part: HubPart, reading: Reading) -> Iterator[RawExample | Reject]:
    shape: Shape | None = None
    wanted: dict[str, str] = {}
    for row, value in _numbered(values, part):
        if shape is None:
            try:
                names = {name: name.strip().lower() for name in value}
                shape = reading.table(list(names.values()), text_only=all(isinstance(v, str) for v in value.values()))
            except BadRow as bad:
                yield Reject(row, str(bad), start_of(", ".join(value)))
                return
            wanted = {name: short for name, short in names.items() if short in shape.names}
        yield row_example({short: value[name] for name, short in wanted.items()}, shape, row)


def _numbered(values: Iterable[Mapping[str, Any]], part: HubPart) -> Iterator[tuple[int, Mapping[str, Any]]]:
    row = 0
    try:
        for row, value in enumerate(values, start=1):
            yield row, value
    except (pa.ArrowException, ValueError) as error:
        reason = f"the data is damaged here, no row from here on can be read: {first_line(error)}"
        raise StreamDamaged(reason, row + 1) from None
    except OSError as error:
        raise MixtureError(f"{part} cannot be read any more, run the command again: {first_line(error)}") from error

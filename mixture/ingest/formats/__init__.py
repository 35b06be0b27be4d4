"""Readers, one small module each: a path in, rows (or the reasons why not) out, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from mixture.errors import UsageError
from mixture.ingest.format import Folder, Format, Reader
from mixture.suites.layout import PACKED

# Where two formats are equally sure of a file or a folder, the one that stands first is taken.
MODULES = (
    "beir",
    "array",
    "jsonl",
    "msmarco",
    "delimited",
    "parquet",
    "arrow",
    "excel",
)
FORMATS: Mapping[str, Format] = {
    format.name: format for module in MODULES for format in import_module(f"{__name__}.{module}").FORMATS
}
READERS: Mapping[str, Reader] = {name: format.read for name, format in FORMATS.items() if format.read}
FOLDERS: Mapping[str, Folder] = {name: format.folder for name, format in FORMATS.items() if format.folder}
REMOTE = {name: format.read_remote for name, format in FORMATS.items() if format.read_remote}
EXTENSIONS = frozenset(filter(None, PACKED)).union(*(format.extensions for format in FORMATS.values()))


def check_name(format: str | None) -> None:
    """Raise UsageError, with the names there are, for a format that does not exist. None is no name and passes."""
    if format is not None and format not in FORMATS:
        raise UsageError(f"`format` is {format!r}; allowed: {', '.join(sorted(FORMATS))}")

"""What the commands share: which store, and whether results are printed as JSON."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from mixture.errors import UsageError
from mixture.store import Store
from mixture.store.catalog import spellings

StoreOption = Annotated[str | None, typer.Option("--store", help=f"The store: {spellings()} [$MIXTURE_STORE]")]
DataOption = Annotated[str | None, typer.Option(
    "--data", help="Where the files of a new store in PostgreSQL go: s3://bucket/prefix, or a folder that all machines "
    "share")]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would happen, and change nothing")]
EngineOption = Annotated[str, typer.Option("--engine", help="What runs the tasks: {mixture.engine:ENGINES}")]
KeepOption = Annotated[bool, typer.Option(
    "--keep-embeddings/--no-keep-embeddings", help="Keep a model's embeddings in the store's folder, for the next "
    "call; a killed one goes on from them")]  # fmt: skip
PrecisionOption = Annotated[str, typer.Option(
    "--precision", help="Of kept embeddings: {mixture.embeddings:PRECISIONS}")]  # fmt: skip
CardsOption = Annotated[Path | None, typer.Option("--cards", help="A folder of your own datacards")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of batches and models")]
UndoOption = Annotated[bool, typer.Option("--undo", help="Take back what the newest such command did")]
LimitOption = Annotated[int, typer.Option("--limit", min=0, help="Rows that --dry-run shows with their texts; 0: all")]


def _page(file: Path | None) -> Path | None:
    """A wrong place is refused before the work, not after it."""
    from mixture.whole import checked_place

    return None if file is None else checked_place(file.expanduser())


ReportOption = Annotated[Path | None, typer.Option(
    "--report", metavar="FILE.html", help="Write a page on what was found and dropped", callback=_page)]  # fmt: skip


def open_store(store: str | None, *, create: bool = False, data: str | None = None) -> Store:
    """The store of a command: its --store, $MIXTURE_STORE, or ./mixture-store."""
    return Store.open(named_store(store), create=create, data=data)


def named_store(store: str | None) -> str:
    """Where the store of a command is."""
    return store if store is not None else os.environ.get("MIXTURE_STORE") or "mixture-store"


def assigned(texts: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE texts as a dictionary. VALUE is a number or a boolean as in TOML, `none` for None, else a text.

    >>> assigned(["max_ratio=0.9", "language=de", "length=none"])
    {'max_ratio': 0.9, 'language': 'de', 'length': None}
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in values:
            raise UsageError(f"{name!r} is given twice" if equals else f"{text!r}; write NAME=VALUE")
        try:
            values[name] = None if value == "none" else tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = value
    return values


def numbers(option: str, text: str | None) -> list[float] | None:
    """`0.5,0.3` as numbers; None where nothing is given.

    >>> numbers("--weights", "0.5, 0.3")
    [0.5, 0.3]
    """
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} is {text!r}; allowed: numbers with commas between them, as 0.5,0.3,0.2") from None


def whole_numbers(option: str, text: str | None) -> list[int] | None:
    """`0,1,5` as whole numbers; None where nothing is given.

    >>> whole_numbers("--keep", "0, 1,5")
    [0, 1, 5]
    """
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} is {text!r}; allowed: whole numbers with commas between them, as 0,1,5") from None


def span(option: str, text: str | None) -> tuple[int, int] | None:
    """`10:100` as two whole numbers; None where nothing is given.

    >>> span("--ranks", "10:100")
    (10, 100)
    """
    try:
        first, last = (None, None) if text is None else map(int, text.split(":"))
    except ValueError:
        raise UsageError(f"{option} is {text!r}; allowed: two whole numbers, as 10:100") from None
    return None if first is None or last is None else (first, last)

"""The commands about what is in a store, and about its collections as wholes; `cli.py` adds them to its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixture.console.options import JsonOption, StoreOption, open_store
from mixture.console.output import print_json, print_rows
from mixture.console.sentences import counted

if TYPE_CHECKING:
    from mixture.registry.status import CollectionStatus, Status

app = typer.Typer()
SHOWN_LANGUAGES = 2
NARROW = 80
MOST_CELLS = 20
UNITS = ("B", "KB", "MB", "GB", "TB")


@app.command()
def status(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show what is in the store: collections, test suites, mixtures, runs, disk."""
    from mixture.registry.status import status

    with open_store(store) as lake:
        found = status(lake)
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


def _show(found: Status) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if found.collections:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in _row(found.collections[0]):
            number = name in ("examples", "negatives", "prompts", "taken out")
            table.add_column(name, justify="right" if number else "left", no_wrap=True)
        for collection in found.collections:
            table.add_row(*(Text(value) for value in _row(collection).values()))
        Console(width=max(NARROW, shutil.get_terminal_size().columns)).print(table)
    for line in _lines(found):
        sys.stdout.write(line + "\n")


def _row(of: CollectionStatus) -> dict[str, str]:
    languages = list(of.languages)
    more = len(languages) - SHOWN_LANGUAGES
    share = f"{of.with_negatives / of.examples:.0%}" if of.with_negatives else "none"
    return {
        "collection": _short(of.collection, MOST_CELLS),
        "examples": f"{of.examples:,}",
        "negatives": share,
        "languages": ", ".join(languages[:SHOWN_LANGUAGES]) + (f" +{more}" if more > 0 else ""),
        "prompts": str(len(of.prompts) or "none"),
        "card": "yes" if of.card else "none",
        "taken out": f"{sum(of.taken_out.values()):,}",
    }


def _short(text: str, cells: int) -> str:
    """Cut to so many columns of a terminal; letters of some scripts take two."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + "…"


def _lines(found: Status) -> list[str]:
    total = sum(c.examples for c in found.collections)
    files, rejected = (sum(getattr(c, what) for c in found.collections) for what in ("files", "rejected"))
    reasons: dict[str, int] = {}
    for collection in found.collections:
        for reason, count in collection.taken_out.items():
            reasons[reason] = reasons.get(reason, 0) + count
    lines = [
        ("collections", f"{len(found.collections)} with {counted(total, 'example')} from {counted(files, 'file')}; "
                        f"{counted(rejected, 'row')} refused"),
        ("taken out", _listed(counted(count, reason) for reason, count in reasons.items())),
        ("test suites", _listed(f"{suite} ({count:,})" for suite, count in found.suites.items())),
        ("mixtures", f"{found.mixtures}" + (f", the newest: {', '.join(found.newest)}" if found.newest else "")),
        ("runs", _listed(f"{count} {status}" for status, count in found.runs.items())),
        ("disk", f"{_size(sum(found.disk.values()))} in {found.store}"),
    ]  # fmt: skip
    if found.removed:
        lines.append(("removed", f"{', '.join(found.removed)}; mixture remove --undo brings back"))
    if not found.collections:
        lines.append(("next", "mixture ingest FILE"))
    return [f"{name:<12} {text}" for name, text in lines]


def _listed(texts: Any) -> str:
    return ", ".join(texts) or "none"


def _size(num_bytes: float) -> str:
    power = 0
    while num_bytes >= 1000 and power + 1 < len(UNITS):
        num_bytes, power = num_bytes / 1000, power + 1
    return f"{num_bytes:.3g} {UNITS[power]}"


@app.command()
def remove(
    collections: Annotated[list[str] | None, typer.Argument(help="The collections to remove")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring back what the newest remove took out")] = False,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Take collections out of the store. Mixtures that pin them stay whole; --undo brings them back."""
    from mixture import jobs

    with open_store(store) as lake:
        changes = jobs.remove(lake, collections or (), undo=undo)
    _show_changes(changes, "back" if undo else "removed", as_json)


@app.command()
def rename(
    old: Annotated[str | None, typer.Argument(help="A collection")] = None,
    new: Annotated[str | None, typer.Argument(help="Its new name")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take back the newest renaming")] = False,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Call a collection otherwise. Mixtures keep the name that they pin, and stay whole."""
    from mixture import jobs

    with open_store(store) as lake:
        change = jobs.rename(lake, old, new, undo=undo)
    print_rows([{"collection": change.collection, "renamed_to": change.renamed_to, "examples": change.examples}],
               as_json=as_json)  # fmt: skip


def _show_changes(changes: Sequence[Any], what: str, as_json: bool) -> None:
    print_rows([{"collection": change.collection, what: change.examples} for change in changes], as_json=as_json)
    for change in changes:
        if change.only_kept_here:
            sys.stderr.write(f"dedup took {counted(change.only_kept_here, 'example')} out of other collections since "
                             f"{change.collection} had them; mixture dedup --undo puts back its newest\n")  # fmt: skip

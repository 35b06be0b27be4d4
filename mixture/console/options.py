"""What the commands share: which store, and whether results are printed as JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mixture.store import Store

StoreOption = Annotated[Path | None, typer.Option("--store", help="The store's folder [$MIXTURE_STORE]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
# The store named before the command's own name.
chosen: dict[str, Path] = {}


def open_store(store: Path | None, *, create: bool = False) -> Store:
    """The store of a command: its own --store, the one named before it, $MIXTURE_STORE, or ./mixture-store."""
    folder = store or chosen.get("store") or Path(os.environ.get("MIXTURE_STORE") or "mixture-store")
    return Store.open(folder, create=create)

"""What the commands share: which store, and whether results are printed as JSON."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from mixture.store import Store
from mixture.store.catalog import spellings

StoreOption = Annotated[str | None, typer.Option("--store", help=f"The store: {spellings()} [$MIXTURE_STORE]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
# The store named before the command's own name.
chosen: dict[str, str] = {}


def open_store(store: str | None, *, create: bool = False) -> Store:
    """The store of a command: its own --store, the one named before it, $MIXTURE_STORE, or ./mixture-store."""
    named = store if store is not None else chosen.get("store")
    return Store.open(named if named is not None else os.environ.get("MIXTURE_STORE") or "mixture-store", create=create)

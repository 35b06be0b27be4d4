"""The data side: the store of collections and mixtures. Never imports torch or trainers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixture.errors import MixtureError, StoreError, UsageError

if TYPE_CHECKING:
    from mixture.store import Store

__all__ = ["MixtureError", "Store", "StoreError", "UsageError"]


def __getattr__(name: str) -> Any:
    """`mixture.Store` on first use: a machine that only reads materialised folders needs no duckdb."""
    if name == "Store":
        from mixture.store import Store

        return Store
    raise AttributeError(f"module 'mixture' has no attribute {name!r}")

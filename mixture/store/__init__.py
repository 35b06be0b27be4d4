"""The lake: DuckDB as engine, DuckLake as format. The only place that imports duckdb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixture.store.connect import Store

__all__ = ["Store"]


def __getattr__(name: str) -> Any:
    """`Store` on first use: `mixture.store.layout` is asked on machines without duckdb."""
    if name == "Store":
        from mixture.store.connect import Store

        return Store
    raise AttributeError(f"module 'mixture.store' has no attribute {name!r}")

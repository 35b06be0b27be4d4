"""The data side: the store of collections and mixtures. Never imports torch or trainers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixture.errors import MixtureError, StoreError, UsageError

if TYPE_CHECKING:
    from mixture.registry import SavedMixture
    from mixture.specs import MixtureSpec
    from mixture.store import Store

__all__ = ["MixtureError", "MixtureSpec", "SavedMixture", "Store", "StoreError", "UsageError"]
_HOME = {"MixtureSpec": "mixture.specs", "SavedMixture": "mixture.registry", "Store": "mixture.store"}


def __getattr__(name: str) -> Any:
    """Loaded on first use: a machine that only reads materialised folders needs no duckdb."""
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in ("jobs", "registry"):
        return importlib.import_module(f"mixture.{name}")
    raise AttributeError(f"module 'mixture' has no attribute {name!r}")

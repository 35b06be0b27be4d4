"""What the shell offers after Tab: mixtures and collections of the store, and datacards. Read only; on any trouble
nothing is offered, since nobody asked for an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mixture.console.options import named_store

MIXTURES = """SELECT name FROM mixtures UNION SELECT name || ':' || version FROM mixtures
              UNION SELECT tag FROM mixture_tags ORDER BY 1"""
COLLECTIONS = "SELECT collection AS name FROM collections ORDER BY 1"


def mixtures(ctx: Any, incomplete: str) -> list[str]:
    """Names, name:version and tags that begin so; a version only where its name is written."""
    found = _begun(lambda: _asked(ctx, MIXTURES), incomplete)
    return (
        found if ":" in incomplete else [name for name in found if ":" not in name or name.startswith(incomplete + ":")]
    )


def collections(ctx: Any, incomplete: str) -> list[str]:
    return _begun(lambda: _asked(ctx, COLLECTIONS), incomplete)


def cards(ctx: Any, incomplete: str) -> list[str]:
    from mixture.cards import load_cards

    return _begun(lambda: list(load_cards()), incomplete)


def _begun(names: Callable[[], list[str]], incomplete: str) -> list[str]:
    try:
        return [name for name in names() if name.startswith(incomplete)]
    except Exception:  # whatever it is, the line being typed is no place to say it
        return []


def _asked(ctx: Any, query: str) -> list[str]:
    """The names that a query gives, of the store that the command line names so far."""
    from mixture.store import Store
    from mixture.store.catalog import catalog_of

    catalog = catalog_of(named_store(ctx.params.get("store") or (ctx.default_map or {}).get("store")))
    if not catalog.exists():
        return []
    with Store(catalog) as store:  # not Store.open, which brings an older store up to date
        return [str(name) for name in store.sql(query)["name"].to_pylist()]

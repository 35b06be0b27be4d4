"""Collections removed and renamed. Mixtures that pin them keep what they pin, and train on."""

from __future__ import annotations

from mixture.arguments import Names, listed
from mixture.errors import UsageError
from mixture.jobs.ingest import check_collection_name
from mixture.store import Store
from mixture.store.change import Change, bring_back, remove_collections, rename_collection, take_back_name


def remove(store: Store, collections: Names = (), *, undo: bool = False) -> list[Change]:
    """Take collections out of the store: examples, negatives, rejects, what dedup took out, the files they came from.

    Mixtures that pin them stay whole and can be trained on. Files ingested again are read anew.

    undo: bring back what the newest `remove` took out, as it was; then no collections are named
    """
    names = listed(collections)
    if undo == bool(names):
        raise UsageError("name the collections to remove, or give `undo` alone to bring back those removed last")
    if not undo:
        return remove_collections(store, names)
    back = bring_back(store)
    if not back:
        raise UsageError("nothing to bring back: no collection was removed since, or it is back already")
    return back


def rename(store: Store, old: str | None = None, new: str | None = None, *, undo: bool = False) -> Change:
    """Call a collection otherwise; all that hangs on it follows. Its files are known under the new name.

    Mixtures keep the name that they pin, stay whole and can be trained on.

    undo: give the collection that was renamed last its old name back; then no names are given
    """
    if undo != (old is None) or undo != (new is None):
        raise UsageError("give the collection's name and its new one, or `undo` alone to take back the last renaming")
    if old is not None and new is not None:
        check_collection_name(new)
        return rename_collection(store, old, new)
    back = take_back_name(store)
    if back is None:
        raise UsageError("nothing to take back: no collection was renamed since, or it has its old name back already")
    return back

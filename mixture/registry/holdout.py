"""Rows held out of a mixture: a share of each component that neither proxy nor fine-tuning sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import UsageError
from mixture.holdout import FEWEST
from mixture.registry import slices
from mixture.registry.slices import Slice, slice_of
from mixture.specs import Component, MixtureSpec
from mixture.store import Store, forgotten, read
from mixture.text.form import normalise_text

TRAIN, HELD_OUT = "train", "held out"


def held_out(query: str, share: float) -> bool:
    """Whether a row with this query is held out: a hash of the query says so, up to case and punctuation, so that equal
    queries of two collections are on one side."""
    digest = hashlib.sha256(normalise_text(query).encode()).digest()
    return int.from_bytes(digest[1:8], "big") < share * 2**56


def hold_out(store: Store, spec: MixtureSpec, share: float) -> tuple[MixtureSpec, dict[str, Component]]:
    """The mixture without the rows that are held out, and what is: components of weight 0, by the name of the component
    in the new mixture that they are held out of.

    Both are slices that the store keeps. A component that has fewer than `FEWEST` rows to hold out stays whole.

    Raises `UsageError` where no component has enough.
    """
    parts = held_apart(store, spec, share).values()
    return MixtureSpec(tuple(kept for kept, _ in parts)), {kept.name: out for kept, out in parts if out is not None}


def held_apart(store: Store, spec: MixtureSpec, share: float) -> dict[str, tuple[Component, Component | None]]:
    """The same by the name of the component in `spec`: what is trained on, and what is held out or None."""
    forgotten.refuse(store, spec)
    found: dict[str, tuple[Component, Component | None]] = {}
    for c in spec.components:
        parts = _parts(store, c, share)
        if parts is None:
            found[c.name] = c, None
            continue
        frozen = slices.freeze(store, parts, c.miners)
        train, rest = (frozen[name] for name in (slices.names_of(store, [part]).pop() for part in parts))
        found[c.name] = replace(train, weight=c.weight, loss_weight=c.loss_weight), rest
    if all(out is None for _, out in found.values()):
        raise UsageError(f"`holdout` is {share:g}, and no collection has {FEWEST} rows to hold out; hold out more")
    return found


def _parts(store: Store, c: Component, share: float) -> Sequence[Slice] | None:
    """The component's rows to train on and its rows held out; None where these are too few."""
    if read.digest(store, c.part) != c.digest:
        raise UsageError(f"{c.name} has changed since the mixture was made; create the mixture anew to hold rows out")
    query = "SELECT example_id, query FROM examples WHERE collection = $collection"
    values = {"collection": c.collection}
    if c.selection is not None:
        query += " AND example_id IN (SELECT example_id FROM selected_examples WHERE selection = $selection)"
        values["selection"] = c.selection
    rows = store.read(f"{query} ORDER BY example_id", values)
    out = pa.array([held_out(text, share) for text in rows["query"].to_pylist()], pa.bool_())
    count = out.true_count
    if count < FEWEST or count == len(out):
        return None
    ids, before = rows["example_id"], "" if c.slice is None else f"{c.slice}, "
    what = f"whose query's hash says so, a share of {share:g}"
    return (
        slice_of(c.collection, f"{before}{TRAIN}", f"all but those {what}", ids.filter(pc.invert(out))),
        slice_of(c.collection, f"{before}{HELD_OUT}", f"those {what}", ids.filter(out)),
    )

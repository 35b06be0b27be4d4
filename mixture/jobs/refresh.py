"""A mixture's weights on today's contents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixture.errors import UsageError
from mixture.registry import Pins, SavedMixture, facts_today, holding, lineage, slices
from mixture.registry.lineage import Ancestor
from mixture.specs import Component, MixtureSpec, Part
from mixture.store import Store
from mixture.store.removed import todays_names
from mixture.weights import normalise


@dataclass(frozen=True)
class Refreshed:
    """A mixture on today's contents, these as they were pinned, and what is worth knowing of it."""

    spec: MixtureSpec
    pins: Pins
    remarks: tuple[str, ...]


def refreshed(store: Store, saved: SavedMixture) -> Refreshed:
    """The weights of a mixture on what its collections hold today. Of a slice it has the examples that are there; the
    store then keeps that slice. What has no examples any more is left out, and the others keep their proportions.

    Raises `UsageError` where nothing with a weight is left.
    """

    def work(connection: Any) -> tuple[Pins, dict[str, Component], list[str]]:
        snapshot, names = store.snapshot(), todays_names(store, saved.spec.components)
        found = {c.name: _today(store, connection, c, names.get(c.collection)) for c in saved.spec.components}
        made = {name: part for name, part in found.items() if part is not None}
        pinned = {part.name: part for part in made.values()}
        pins = Pins(snapshot, pinned, facts_today(store, list(pinned.values())))
        return pins, made, [name for name, part in found.items() if part is None]

    pins, made, gone = store.transaction(work)
    weights = {c.name: c.weight for c in saved.spec.components if c.name in made}
    if not any(weights.values()):
        raise UsageError(f"no collection of {saved.reference} with a weight has examples today")
    scaled = normalise(weights) if gone else weights
    own = {c.name: c for c in saved.spec.components}
    parts = [replace(part, weight=scaled[name], loss_weight=own[name].loss_weight) for name, part in made.items()]
    remarks = [f"left out, since no example of it is left: {', '.join(gone)}"] if gone else []
    return Refreshed(MixtureSpec(tuple(parts)), pins, (*remarks, *_learned(store, saved)))


def _today(store: Store, connection: Any, c: Component, collection: str | None) -> Component | None:
    """Today's content of a component whose collection is now called so; None where it has no examples."""
    if collection is None:
        return None
    if c.slice is None:
        part = Part(collection, None, c.miners)
        (found,) = store.rows("SELECT count(*) AS n FROM examples WHERE collection = ?", [collection])
        return slices.pinned(store, part) if found["n"] else None
    ids = store.read(
        """SELECT example_id FROM selected_examples WHERE selection = ? AND example_id IN
               (SELECT example_id FROM examples WHERE collection = ?) ORDER BY example_id""",
        [c.selection, collection],
    )["example_id"]
    if not len(ids):
        return None
    (known,) = store.rows(
        "SELECT any_value(rule) AS rule, any_value(num_examples) AS n FROM selections WHERE selection = ?",
        [c.selection],
    )
    if known["n"] == len(ids) and collection == c.collection:
        return slices.pinned(store, c.part, c.slice)
    made = slices.slice_of(collection, c.slice, known["rule"] or "", ids)
    (frozen,) = slices.frozen(store, connection, [made], c.miners).values()
    return frozen


def _learned(store: Store, saved: SavedMixture) -> list[str]:
    """Whether the weights come from runs that drew forgotten rows."""
    line = lineage.log(store, saved)
    known = {one.id: one.reference or one.id for one in _ancestors([line])}
    learned = holding.learned_with(store, list(known))
    if not learned:
        return []
    names = ", ".join(known[one] for one in learned)
    return [f"the weights of {names} were learned with rows that are forgotten; learn them anew for weights that do "
            "not depend on these"]  # fmt: skip


def _ancestors(some: Sequence[Ancestor]) -> list[Ancestor]:
    return [*some, *(above for one in some for above in _ancestors(one.parents))]

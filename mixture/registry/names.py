"""Mixtures in the store: save under a name, tag, resolve a reference, list, show."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from mixture.arguments import is_name
from mixture.errors import UsageError, unknown_name
from mixture.registry import slices
from mixture.specs import Component, MixtureSpec, Part
from mixture.store import Store, files, forgotten, read
from mixture.store.query import quote
from mixture.store.surface import meant
from mixture.store.write import append
from mixture.weights import normalise

MOST_LETTERS = 100
ID_LIKE = re.compile(r"[0-9a-f]{4,12}")
# Values are written into the queries on the way of `mixture show`: for a parameter DuckDB imports pandas where it is
# installed, which takes longer than all the rest; for times with a zone pyarrow does, hence the number.
# Without the specs, which together are large, and which the lake reads all of to find one.
COLUMNS = """mixture, name, version, parents, run_id, snapshot, epoch_us(created_at) AS microseconds, note,
            imported_from"""


@dataclass(frozen=True)
class SavedMixture:
    """A mixture and what hangs beside it."""

    spec: MixtureSpec
    name: str
    version: int
    parents: tuple[str, ...]
    run_id: str | None
    snapshot: int | None
    created_at: datetime
    note: str | None
    imported_from: str | None = None

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.version}"


Mixture: TypeAlias = SavedMixture | str
"""A mixture that was saved, or what names it: an id or its beginning, a name, name:version, a tag."""


@dataclass(frozen=True)
class PinnedFacts:
    """What is known of a component's content beside its digest; None where it is not known.

    rule: how the examples of a slice were chosen; None for a whole collection
    """

    num_examples: int | None
    prompts: tuple[str, ...] | None
    rule: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where an imported mixture comes from, and what it says of its collections. They may be none of the store's."""

    source: str
    facts: Mapping[str, PinnedFacts]


@dataclass(frozen=True)
class Pins:
    """Contents of the store at one snapshot, by name: components of weight 0, and what they hold."""

    snapshot: int
    components: dict[str, Component]
    facts: dict[str, PinnedFacts]

    @property
    def sizes(self) -> dict[str, int]:
        return {name: known.num_examples for name, known in self.facts.items() if known.num_examples is not None}


def pin(store: Store, names: Sequence[str] = (), *, min_examples: int = 1) -> dict[str, Component]:
    """Today's content of the named collections (default: all) as components of weight 0, with their digests.

    A collection with fewer than `min_examples` is left out, unless it was named: then it is a `UsageError`.
    """
    return pin_all(store, names, min_examples=min_examples).components


def pin_all(
    store: Store, names: Sequence[str] = (), sliced: Sequence[slices.Slice] = (), *, known_slices: Collection[str] = (),
    min_examples: int = 1, miners: tuple[str, ...] | None = None,
) -> Pins:  # fmt: skip
    """Today's content of the named collections, of slices, which the store then keeps (`slices.freeze`), and of slices
    that it knows by name. Where nothing is named: of all collections. miners: whose negatives (`specs.Part`).

    All of it is read at one snapshot, and kept only where nobody else wrote meanwhile: else it is read again.
    """
    if min_examples < 1:
        raise UsageError(f"`min_examples` is {min_examples}; allowed: 1 or more")

    def work(connection: Any) -> Pins:
        snapshot = store.snapshot()
        found = slices.frozen(store, connection, sliced, miners) if sliced else {}
        found |= slices.pin_named(store, known_slices)
        if names or not (sliced or known_slices):
            found = _pin(store, names, min_examples, miners) | found
        return Pins(snapshot, found, facts_today(store, list(found.values())))

    if sliced:
        return store.transaction(work)
    with store.reading():
        return work(store.connection)


def _pin(store: Store, names: Sequence[str], min_examples: int, miners: tuple[str, ...] | None) -> dict[str, Component]:
    infos = read.collections(store, names)
    small = [i.collection for i in infos if i.num_examples < min_examples]
    if names and small:
        raise UsageError(f"fewer than {min_examples} examples in: {', '.join(small)}")
    kept = [i for i in infos if i.collection not in small]
    if not kept:
        raise UsageError(f"no collection with {min_examples} examples or more; ingest some first")
    return {i.collection: slices.pinned(store, Part(i.collection, None, miners)) for i in kept}


def weighted(components: Mapping[str, Component], weights: Mapping[str, float]) -> MixtureSpec:
    """Components with these weights, scaled to sum 1. A name that is not a component is a `UsageError`."""
    for name in weights:
        if name not in components:
            raise unknown_name("collection", name, components)
    scaled = normalise(weights)
    return MixtureSpec(tuple(replace(components[name], weight=w) for name, w in scaled.items()))


def save(
    store: Store, spec: MixtureSpec, name: str, *, parents: Sequence[str] = (), run_id: str | None = None,
    note: str | None = None, origin: Origin | None = None, pins: Pins | None = None,
) -> SavedMixture:  # fmt: skip
    """Save under `name` as its next version. Where the newest version has the same id, nothing is written.

    parents: ids of the mixtures that it was made from
    origin:  for an imported mixture
    pins:    what it was made of, where that was just read: the mixture then names their snapshot

    Raises `UsageError` for a name that could not be referred to, or that is a tag, and for slices that overlap.
    """
    check_name("mixture name", name)
    slices.check_disjoint(store, spec)

    def work(connection: Any) -> int:
        # The versions are read in the transaction that adds one: of two that save at once, one is repeated.
        found = connection.execute("SELECT mixture, version FROM mixtures WHERE name = ? ORDER BY version", [name])
        versions = found.fetchall()
        if versions and versions[-1][0] == spec.id:
            return int(versions[-1][1])
        if connection.execute("SELECT 1 FROM mixture_tags WHERE tag = ?", [name]).fetchone():
            raise UsageError(f"{name!r} is a tag; give the mixture another name")
        version = versions[-1][1] + 1 if versions else 1
        if not connection.execute("SELECT 1 FROM mixture_weights WHERE mixture = ?", [spec.id]).fetchone():
            append(connection, "mixture_weights", _weight_rows(spec, facts))
        row = {"mixture": spec.id, "name": name, "version": version, "spec": spec.to_json(), "parents": list(parents),
               "run_id": run_id, "snapshot": snapshot, "created_at": datetime.now(UTC), "note": note,
               "imported_from": None if origin is None else origin.source, "num_components": len(spec.components),
               "heaviest": heaviest.name, "heaviest_weight": heaviest.weight}  # fmt: skip
        append(connection, "mixtures", [row])
        return int(version)

    heaviest = max(spec.components, key=lambda c: c.weight)
    facts = _facts(store, spec, origin, parents, pins)
    snapshot = store.snapshot() if pins is None else pins.snapshot
    files.record_hashes(store, [c.collection for c in spec.components])
    version = store.transaction(work)
    return resolve(store, f"{name}:{version}")


def tag(store: Store, mixture: Mixture, name: str) -> SavedMixture:
    """Let the tag `name` refer to a mixture, from now on; where it referred before stays in the table mixture_tags.

    Raises `UsageError` for a tag that could not be referred to, or that is a mixture's name.
    """
    check_name("tag", name)
    saved = resolve(store, mixture)

    def work(connection: Any) -> None:
        if connection.execute("SELECT 1 FROM mixtures WHERE name = ?", [name]).fetchone():
            raise UsageError(f"{name!r} is the name of a mixture; choose another tag")
        newest = connection.execute(_newest_of(name)).fetchone()
        if newest is None or newest[0] != saved.spec.id:
            row = {"tag": name, "mixture": saved.spec.id, "set_at": datetime.now(UTC)}
            append(connection, "mixture_tags", [row])

    store.transaction(work)
    return saved


def _newest_of(tag: str) -> str:
    """The query for the mixture that a tag refers to now."""
    return f"SELECT mixture FROM mixture_tags WHERE tag = {quote(tag)} ORDER BY set_at DESC LIMIT 1"


def check_name(kind: str, name: str) -> None:
    """Raise `UsageError` for a name that could not be referred to: the rule of all names, and nothing like an id."""
    if not is_name(name) or not name[0].isalpha() or len(name) > MOST_LETTERS or ID_LIKE.fullmatch(name):
        raise UsageError(f"{kind} {name!r}: use a letter, then letters, digits, '.', '_' or '-', of any script, at "
                         f"most {MOST_LETTERS}, and nothing like an id")  # fmt: skip


def resolve(store: Store, reference: Mixture) -> SavedMixture:
    """The mixture that a REF means, by the rules of `mixture.store.surface.meant`; a saved one means itself.

    Raises `UsageError` where it means none.
    """
    if isinstance(reference, SavedMixture):
        return reference
    (row,) = store.rows(
        f"SELECT {COLUMNS}, problem FROM ({meant(quote(reference))}) LEFT JOIN mixtures USING (mixture, name, version)"
    )
    if row["problem"] is not None:
        raise UsageError(row["problem"])
    return _saved(row, _spec(store, row["mixture"]))


def tags(store: Store) -> dict[str, list[str]]:
    """The tags of each mixture that has any, by its id."""
    found: dict[str, list[str]] = {}
    rows = store.rows("SELECT tag, arg_max(mixture, set_at) AS mixture FROM mixture_tags GROUP BY tag ORDER BY tag")
    for row in rows:
        found.setdefault(row["mixture"], []).append(row["tag"])
    return found


def saved_mixtures(store: Store) -> list[SavedMixture]:
    """Every version of every mixture, in the order in which they were saved."""
    rows = store.rows(f"SELECT {COLUMNS}, spec FROM mixtures ORDER BY created_at, name, version")
    return [_saved(row, MixtureSpec.from_json(row["spec"])) for row in rows]


def _spec(store: Store, mixture: str) -> MixtureSpec:
    """A saved mixture's components: from its rows of weights, which lie together, else from the JSON beside its name.

    Either way they must give the mixture's id.
    """
    columns = "collection, digest, weight, loss_weight, slice_of, selection, miners"
    rows = store.rows(f"SELECT {columns} FROM mixture_weights WHERE mixture = {quote(mixture)}")
    with contextlib.suppress(UsageError):
        spec = MixtureSpec(tuple(map(_component, rows)))
        if spec.id == mixture:
            return spec
    return MixtureSpec.from_json(store.rows("SELECT spec FROM mixtures WHERE mixture = ?", [mixture])[0]["spec"])


def _component(row: Mapping[str, Any]) -> Component:
    whole, name = row["slice_of"], row["collection"]
    label = None if whole is None else name[len(whole) + 1 : -1]
    miners = None if row["miners"] is None else tuple(row["miners"])
    return Component(whole or name, row["digest"], row["weight"], row["loss_weight"], label, row["selection"], miners)


def listing(store: Store) -> list[dict[str, Any]]:
    """Every saved mixture, newest first: reference, id, tags, collections, heaviest, created, parents, and how many
    forgotten rows it holds."""
    rows = store.rows(
        """SELECT name || ':' || version AS reference, mixture AS id, num_components AS collections, heaviest,
                  heaviest_weight, parents, strftime(created_at, '%Y-%m-%d %H:%M') AS created, note
           FROM mixtures ORDER BY created_at DESC, name"""
    )
    tagged = tags(store)
    gone = forgotten.by_mixture(store)
    return [{"reference": r.pop("reference"), "id": r["id"], "tags": tagged.get(r["id"], [])}
            | r | {"forgotten": gone.get(r.pop("id"), 0)} for r in rows]  # fmt: skip


def describe(store: Store, mixture: SavedMixture) -> dict[str, Any]:
    """A mixture as plain values: what `mixture show` prints. Sizes are those of the time it was made;
    `missing` are the collections that the store does not hold, `forgotten` the numbers of forgotten rows by component.
    Where the mixture has slices, each component says what it is a slice of, and by which rule; where it pins miners,
    whose negatives it takes."""
    facts = pinned_facts(store, mixture.spec)
    held = read.names(store)
    sliced = any(c.slice is not None for c in mixture.spec.components)
    mined = any(c.miners is not None for c in mixture.spec.components)
    components = [
        {"collection": c.name, "weight": c.weight, "loss_weight": c.loss_weight,
         "num_examples": facts[c.name].num_examples, "digest": c.digest[:12]}
        | ({"slice_of": c.collection if c.slice else None, "rule": facts[c.name].rule} if sliced else {})
        | ({"miners": None if c.miners is None else list(c.miners)} if mined else {})
        for c in sorted(mixture.spec.components, key=lambda c: (-c.weight, c.name))
    ]  # fmt: skip
    return {
        "id": mixture.spec.id,
        "reference": mixture.reference,
        "tags": tags(store).get(mixture.spec.id, []),
        "created_at": mixture.created_at,
        "parents": list(mixture.parents),
        "run_id": mixture.run_id,
        "snapshot": mixture.snapshot,
        "imported_from": mixture.imported_from,
        "note": mixture.note,
        "missing": sorted({c.collection for c in mixture.spec.components} - held),
        "forgotten": forgotten.held_by(store, mixture.spec.components),
        "components": components,
    }


def pinned_facts(store: Store, spec: MixtureSpec) -> dict[str, PinnedFacts]:
    """Sizes and prompts of a saved mixture's components by name, as they were when it was made."""
    found = {name: known for (name, _), known in _recorded(store, f"mixture = {quote(spec.id)}").items()}
    return {c.name: found.get(c.name, PinnedFacts(None, None)) for c in spec.components}


def _recorded(store: Store, condition: str, params: Sequence[Any] | None = None) -> dict[tuple[str, str], PinnedFacts]:
    """What saved mixtures say of their components, by name and digest."""
    rows = store.rows(
        f"SELECT collection, digest, num_examples, prompts, selection FROM mixture_weights WHERE {condition}", params
    )
    rules = _rules(store) if any(row["selection"] for row in rows) else {}
    return {
        (r["collection"], r["digest"]): PinnedFacts(
            r["num_examples"], None if r["prompts"] is None else tuple(r["prompts"]), rules.get(r["selection"])
        )
        for r in rows
    }


def _rules(store: Store) -> dict[str, str]:
    """How the examples of each selection were chosen: the first rule, where several came to the same examples."""
    rows = store.rows("SELECT selection, rule FROM selections ORDER BY created_at DESC")
    return {row["selection"]: row["rule"] for row in rows}


def _weight_rows(spec: MixtureSpec, facts: Mapping[str, PinnedFacts]) -> list[dict[str, Any]]:
    return [
        {"mixture": spec.id, "collection": c.name, "digest": c.digest, "weight": c.weight,
         "loss_weight": c.loss_weight, "num_examples": facts[c.name].num_examples, "prompts": facts[c.name].prompts,
         "slice_of": None if c.slice is None else c.collection, "selection": c.selection,
         "miners": None if c.miners is None else list(c.miners)}
        for c in spec.components
    ]  # fmt: skip


def _facts(
    store: Store, spec: MixtureSpec, origin: Origin | None, parents: Sequence[str], pins: Pins | None
) -> dict[str, PinnedFacts]:
    """What a spec's contents hold: as its origin says, else as saved mixtures of the same content have it, else as
    it was pinned, or as the collections are today."""
    saved = _recorded(
        store, "list_contains(?, digest) AND digest <> '' OR list_contains(?, mixture)",
        [[c.digest for c in spec.components], list(parents)],
    )  # fmt: skip
    found = {c.name: (origin.facts.get(c.name) if origin else None) or saved.get((c.name, c.digest))
             for c in spec.components}  # fmt: skip
    unknown = [c for c in spec.components if found[c.name] is None]
    today = pins.facts if pins is not None else {}
    if pins is None and origin is None and any(c.digest for c in unknown):
        today = facts_today(store, unknown)
    return {
        c.name: found[c.name] or (today.get(c.name) if c.digest else None) or PinnedFacts(None, None)
        for c in spec.components
    }


def facts_today(store: Store, components: Sequence[Component]) -> dict[str, PinnedFacts]:
    """What the components hold today, by name; without those that the store does not hold."""
    sizes = slices.sizes(store, components)
    stored = store.rows("SELECT collection, prompts FROM collections")
    prompts = {row["collection"]: tuple(row["prompts"] or ()) for row in stored}
    rules = _rules(store) if any(c.selection for c in components) else {}
    return {
        c.name: PinnedFacts(sizes[c.name], prompts[c.collection], rules.get(c.selection or ""))
        for c in components
        if c.name in sizes and c.collection in prompts
    }


def _saved(row: Mapping[str, Any], spec: MixtureSpec) -> SavedMixture:
    return SavedMixture(
        spec=spec,
        name=row["name"],
        version=row["version"],
        parents=tuple(row["parents"] or ()),
        run_id=row["run_id"],
        snapshot=row["snapshot"],
        created_at=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=row["microseconds"]),
        note=row["note"],
        imported_from=row["imported_from"],
    )

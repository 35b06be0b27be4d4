"""Mixtures in the store: save under a name, resolve a reference, list, show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mixture.errors import UsageError, unknown_name
from mixture.specs import Component, MixtureSpec, normalise
from mixture.store import Store, read
from mixture.store.write import append

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
ID_LIKE = re.compile(r"[0-9a-f]{4,12}")


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

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.version}"


def pin(store: Store, names: Sequence[str] = (), *, min_examples: int = 1) -> dict[str, Component]:
    """Today's content of the named collections (default: all) as components of weight 0, with their digests.

    A collection with fewer than `min_examples` is left out, unless it was named: then it is a `UsageError`.
    """
    if min_examples < 1:
        raise UsageError(f"--min-examples is {min_examples}; allowed: 1 or more")
    # One transaction: counts and digests are of one snapshot.
    return store.transaction(lambda _: _pin(store, names, min_examples))


def _pin(store: Store, names: Sequence[str], min_examples: int) -> dict[str, Component]:
    infos = read.collections(store, names)
    small = [i.collection for i in infos if i.num_examples < min_examples]
    if names and small:
        raise UsageError(f"fewer than {min_examples} examples in: {', '.join(small)}")
    kept = [i for i in infos if i.collection not in small]
    if not kept:
        raise UsageError(f"no collection with {min_examples} examples or more; ingest some first")
    return {i.collection: Component(i.collection, read.digest(store, i.collection), 0.0) for i in kept}


def weighted(components: Mapping[str, Component], weights: Mapping[str, float]) -> MixtureSpec:
    """Components with these weights, scaled to sum 1. A name that is not a component is a `UsageError`."""
    for name in weights:
        if name not in components:
            raise unknown_name("collection", name, components)
    scaled = normalise(weights)
    return MixtureSpec(tuple(Component(name, components[name].digest, w) for name, w in scaled.items()))


def save(
    store: Store, spec: MixtureSpec, name: str, *, parents: Sequence[str] = (), run_id: str | None = None,
    note: str | None = None,
) -> SavedMixture:  # fmt: skip
    """Save under `name` as its next version. Where the newest version has the same id, nothing is written."""
    if not NAME.fullmatch(name) or ID_LIKE.fullmatch(name):
        raise UsageError(
            f"mixture name {name!r}: use a letter, then letters, digits, '.', '_' or '-', and nothing like an id"
        )

    def work(connection: Any) -> int:
        found = connection.execute("SELECT mixture, version FROM mixtures WHERE name = ? ORDER BY version", [name])
        versions = found.fetchall()
        if versions and versions[-1][0] == spec.id:
            return int(versions[-1][1])
        version = versions[-1][1] + 1 if versions else 1
        if not connection.execute("SELECT 1 FROM mixture_weights WHERE mixture = ?", [spec.id]).fetchone():
            append(connection, "mixture_weights", _weight_rows(spec, sizes))
        row = {"mixture": spec.id, "name": name, "version": version, "spec": spec.to_json(), "parents": list(parents),
               "run_id": run_id, "snapshot": snapshot, "created_at": datetime.now(UTC), "note": note}  # fmt: skip
        append(connection, "mixtures", [row])
        return int(version)

    sizes = _sizes(store)
    snapshot = store.snapshot()
    version = store.transaction(work)
    return resolve(store, f"{name}:{version}")


def resolve(store: Store, reference: str) -> SavedMixture:
    """A mixture by id, unique prefix of an id, `name`, `name:version` or `name:latest`."""
    name, _, version = reference.partition(":")
    rows = store.rows("SELECT * FROM mixtures WHERE name = ? ORDER BY version", [name])
    if rows:
        if version in ("", "latest"):
            return _saved(rows[-1])
        matching = [r for r in rows if str(r["version"]) == version]
        if not matching:
            raise UsageError(f"mixture {name!r} has versions 1 to {rows[-1]['version']}, not {version!r}")
        return _saved(matching[0])
    if not version and re.fullmatch(r"[0-9a-f]{1,12}", reference):
        rows = store.rows("SELECT * FROM mixtures WHERE starts_with(mixture, ?) ORDER BY created_at", [reference])
        ids = {r["mixture"] for r in rows}
        if len(ids) == 1:
            return _saved(rows[0])
        if len(ids) > 1:
            raise UsageError(f"{reference!r} begins {len(ids)} mixture ids: {', '.join(sorted(ids))}")
    names = {r["name"] for r in store.rows("SELECT DISTINCT name FROM mixtures")}
    raise unknown_name("mixture", name, names)


def listing(store: Store) -> list[dict[str, Any]]:
    """Every saved mixture, newest first: reference, id, collections, heaviest, created, parents."""
    return store.rows(
        """SELECT m.name || ':' || m.version AS reference, m.mixture AS id, count(*) AS collections,
                  arg_max(w.collection, w.weight) AS heaviest, max(w.weight) AS heaviest_weight,
                  m.parents AS parents, strftime(m.created_at, '%Y-%m-%d %H:%M') AS created, m.note AS note
           FROM mixtures m JOIN mixture_weights w USING (mixture)
           GROUP BY m.name, m.version, m.mixture, m.parents, m.created_at, m.note
           ORDER BY m.created_at DESC, m.name"""
    )


def describe(store: Store, mixture: SavedMixture) -> dict[str, Any]:
    """A mixture as plain values: what `mixture show` prints. Sizes are those of the time it was made."""
    sizes = {r["collection"]: r["num_examples"] for r in store.rows(
        "SELECT collection, num_examples FROM mixture_weights WHERE mixture = ?", [mixture.spec.id])}  # fmt: skip
    components = [
        {"collection": c.collection, "weight": c.weight, "loss_weight": c.loss_weight,
         "num_examples": sizes.get(c.collection), "digest": c.digest[:12]}
        for c in sorted(mixture.spec.components, key=lambda c: (-c.weight, c.collection))
    ]  # fmt: skip
    return {
        "id": mixture.spec.id,
        "reference": mixture.reference,
        "created_at": mixture.created_at,
        "parents": list(mixture.parents),
        "run_id": mixture.run_id,
        "snapshot": mixture.snapshot,
        "note": mixture.note,
        "components": components,
    }


def _weight_rows(spec: MixtureSpec, sizes: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [
        {"mixture": spec.id, "collection": c.collection, "digest": c.digest, "weight": c.weight,
         "loss_weight": c.loss_weight,
         "num_examples": sizes.get((c.collection, c.digest), sizes.get((c.collection, "")))}
        for c in spec.components
    ]  # fmt: skip


def _sizes(store: Store) -> dict[tuple[str, str], int]:
    """Examples by (collection, digest) as saved mixtures have them, and today's under an empty digest."""
    today = {(i.collection, ""): i.num_examples for i in read.collections(store)}
    saved = store.rows("SELECT DISTINCT collection, digest, num_examples FROM mixture_weights")
    return today | {(r["collection"], r["digest"]): r["num_examples"] for r in saved}


def _saved(row: dict[str, Any]) -> SavedMixture:
    return SavedMixture(
        spec=MixtureSpec.from_json(row["spec"]),
        name=row["name"],
        version=row["version"],
        parents=tuple(row["parents"] or ()),
        run_id=row["run_id"],
        snapshot=row["snapshot"],
        created_at=row["created_at"],
        note=row["note"],
    )

"""Making mixtures: of today's collections and slices of them, or from another mixture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

from mixture import registry, transfers
from mixture.arguments import Names, listed, named
from mixture.errors import UsageError, unknown_name
from mixture.jobs.contamination import lines, matches_of, refuse_test_rows
from mixture.jobs.refresh import refreshed
from mixture.jobs.repeats import seen
from mixture.registry import Mixture, Pins, SavedMixture, slices
from mixture.registry.slices import Slice
from mixture.store import Store, read
from mixture.weights import temperature_weights, unimax_weights


@dataclass(frozen=True)
class Temperature:
    """Weights as size^(1/T): 1 is proportional to size, infinite uniform (`mixture.weights.temperature_weights`)."""

    value: float


@dataclass(frozen=True)
class UniMax:
    """Equal weights, but no collection repeated more than `max_epochs` times in a run that draws `budget` examples,
    its steps × batch size (`mixture.weights.unimax_weights`)."""

    max_epochs: float
    budget: int


@dataclass(frozen=True)
class Sql:
    """The weights that a SELECT over the store gives: columns collection and weight, or its only two, in this order."""

    query: str


Weights: TypeAlias = str | Mapping[str, float] | Path | Temperature | UniMax | Sql
"""A name of `RULES`, collection -> weight, a JSON file of such, or a rule."""
RULES = {"uniform": Temperature(math.inf), "proportional": Temperature(1.0)}


@dataclass(frozen=True)
class CreatedMixture(SavedMixture):
    """A mixture that was just made.

    remarks: what is worth knowing of it, a sentence each: what was left out, is small or is there twice
    """

    remarks: tuple[str, ...] = ()


def create(
    store: Store, name: str, *, weights: Weights = "uniform", collections: Names = (), slices: Names = (),
    where: Names = (), selections: Names = (), miners: Names = (), min_examples: int = 1, source: Mixture | None = None,
    fixed: Mapping[str, float] | None = None, dropped: Names = (), blend: tuple[Mixture, float] | None = None,
    refresh: bool = False, allow_contaminated: bool = False,
) -> CreatedMixture:  # fmt: skip
    """Make a mixture of today's collections or slices of them, or from another mixture with changes; save it as `name`.

    weights:      how the components are weighed
    collections:  default: those that `weights` names, or all; none beside slices
    slices:       COLLECTION:COLUMN, a component for each value, such as xquad:language
    where:        SQL conditions on examples, a component for each collection that has some
    selections:   files of collection, example_id: CSV, Parquet or JSON
    miners:       only negatives of these, those of the first one first: names of miners or minings, and "provided" for
                  what came with the files. Without any, all that there are
    min_examples: smaller collections and slices are left out
    source:       the mixture to change, in this order: components of `dropped` are left out, those of `fixed` get
                  their weight while the others share the rest, `blend` mixes in another mixture with its share
    refresh:      first bring `source` to what its collections and slices hold today, with the weights that it has
    allow_contaminated: also where components have rows of a registered test suite (`jobs.matches`)

    A mixture that equals the newest of its name is not saved again. Raises `UsageError` for names that mean nothing,
    for a source together with what weighs or slices, and for test data.
    """
    given = (listed(collections), listed(slices), listed(where), listed(selections), listed(miners))
    if (source is None) == bool(fixed or listed(dropped) or blend or refresh):
        raise UsageError("`source` and its changes go together: `fixed`, `dropped`, `blend`, `refresh`")
    earlier = _references(store)
    if source is None:
        made, remarks = _made(store, name, weights, given, min_examples, allow_contaminated)
        budget = weights.budget if isinstance(weights, UniMax) else None
        return _with_remarks(made, [*_test_rows(store, made), *remarks, *_seen(store, made, budget),
                                    *_existed(earlier, made)])  # fmt: skip
    if any(given) or weights != "uniform":
        raise UsageError("`source` takes `fixed`, `dropped`, `blend` and `refresh` alone; to weigh or slice, create "
                         "without it")  # fmt: skip
    made, remarks = _changed(store, name, source, fixed or {}, listed(dropped), blend, refresh, allow_contaminated)
    return _with_remarks(made, [*_test_rows(store, made), *remarks, *_seen(store, made), *_existed(earlier, made)])


def select(
    store: Store, mixture: Mixture, name: str, *, top: float | None = None, temperature: float | None = None,
    reweight: Mixture | None = None, loss_reweight: bool = False, blend: tuple[Mixture, float] | None = None,
    floor: float | None = None,
) -> SavedMixture:  # fmt: skip
    """Make a mixture from another one, in one way, and save it as `name` (`mixture.transfers`).

    top:           the heaviest percent of the collections, equally weighted
    temperature:   weights as weight^(1/T)
    reweight:      the weights of another mixture of the same collections
    loss_reweight: drawn equally, the losses weighed
    blend:         another mixture and its share
    floor:         the least weight of a collection
    """
    if sum(given is not None for given in (top, temperature, reweight, blend, floor)) + loss_reweight != 1:
        raise UsageError("give one of `top`, `temperature`, `reweight`, `loss_reweight`, `blend`, `floor`")
    parent, other = registry.resolve(store, mixture), None
    if reweight is not None:
        other = registry.resolve(store, reweight)
        spec = transfers.reweight(parent.spec, other.spec)
        note = f"{parent.reference} with the weights of {other.reference}"
    elif blend is not None:
        other, share = registry.resolve(store, blend[0]), blend[1]
        spec = transfers.blend(parent.spec, other.spec, share)
        note = f"{1 - share:g} of {parent.reference}, {share:g} of {other.reference}"
    elif top is not None:
        if 0 < top < 1:
            raise UsageError(f"`top` is {top:g}, which is {top:g} % of the collections; did you mean {100 * top:g}?")
        spec, note = transfers.select_top(parent.spec, top), f"top {top:g} % of {parent.reference}"
    elif temperature is not None:
        spec, note = transfers.temper(parent.spec, temperature), f"{parent.reference} at temperature {temperature:g}"
    elif floor is not None:
        spec, note = transfers.with_floor(parent.spec, floor), f"{parent.reference} with a floor of {floor:g}"
    else:
        spec, note = transfers.loss_reweight(parent.spec), f"losses weighed as {parent.reference}"
    parents = [made_from.spec.id for made_from in (parent, other) if made_from is not None]
    return registry.save(store, spec, name, parents=parents, note=note)


def _made(
    store: Store, name: str, weights: Weights, given: tuple[list[str], list[str], list[str], list[str], list[str]],
    min_examples: int, allow_contaminated: bool,
) -> tuple[SavedMixture, list[str]]:  # fmt: skip
    collections, columns, conditions, files, miners = given
    rule = named("weights", weights, RULES) if isinstance(weights, str) else weights
    explicit = {} if isinstance(rule, Temperature | UniMax) else _explicit(store, rule)
    sliced = [part for text in columns for part in slices.by_column(store, text)]
    sliced += [part for text in conditions for part in slices.by_predicate(store, text)]
    sliced += [part for file in files for part in slices.from_file(store, Path(file).expanduser())]
    bare = _without_negatives(store, miners)
    pins = _pinned(store, collections, sliced, explicit, min_examples, tuple(miners) or None)
    chosen = _by_rule(rule, pins.sizes) if isinstance(rule, Temperature | UniMax) else explicit
    spec = registry.weighted(pins.components, chosen)
    if not allow_contaminated:
        refuse_test_rows(store, spec.components)
    made = registry.save(store, spec, name, note=_note(weights, pins.sizes), pins=pins)
    remarks = remarks_on(store, made, pins.sizes, asked_for=bool(collections), min_examples=min_examples)
    if bare := bare & {c.collection for c in made.spec.components}:
        remarks.append(f"without negatives of {', '.join(miners)}: {', '.join(sorted(bare))}")
    return made, remarks


def _without_negatives(store: Store, miners: Sequence[str]) -> set[str]:
    """The collections that have no negatives of these miners; empty where none are named. A miner that the store does
    not know is a UsageError."""
    if not miners:
        return set()
    held: dict[str, set[str]] = {}
    for row in store.rows("SELECT DISTINCT miner, collection FROM negatives"):
        held.setdefault(row["miner"], set()).add(row["collection"])
    for miner in miners:
        if miner not in held:
            raise unknown_name("miner", miner, held)
    return read.names(store) - set().union(*(held[miner] for miner in miners))


def _test_rows(store: Store, made: SavedMixture) -> list[str]:
    """Test data that was allowed in."""
    return [f"test data: {line}" for line in lines(matches_of(store, made.spec.components))]


def _with_remarks(made: SavedMixture, remarks: Sequence[str]) -> CreatedMixture:
    return CreatedMixture(**{field.name: getattr(made, field.name) for field in fields(made)}, remarks=tuple(remarks))


def _references(store: Store) -> dict[str, list[str]]:
    """The names and versions of each mixture, by its id."""
    found: dict[str, list[str]] = {}
    for row in store.rows("SELECT mixture, name || ':' || version AS reference FROM mixtures ORDER BY created_at"):
        found.setdefault(row["mixture"], []).append(row["reference"])
    return found


def _existed(earlier: Mapping[str, list[str]], made: SavedMixture) -> list[str]:
    """Whether there was an equal mixture before."""
    same = earlier.get(made.spec.id, [])
    if made.reference in same:
        return [f"nothing was saved: {made.reference} is this mixture already"]
    return [f"the same contents and weights as {', '.join(same)}"] if same else []


def remarks_on(
    store: Store, made: SavedMixture, sizes: Mapping[str, int], *, asked_for: bool, min_examples: int
) -> list[str]:  # fmt: skip
    """What is left out, empty or there twice in a mixture of today's collections.

    asked_for: the collections were named one by one; then what is left out was meant to be
    """
    own = {c.collection for c in made.spec.components}
    held = {info.collection: info.num_examples for info in read.collections(store)}
    sliced = any(c.slice is not None for c in made.spec.components)
    small = [name for name, size in held.items() if name not in own and size < min_examples]
    others = [name for name in held if name not in own and name not in small]
    by_digest: dict[str, list[str]] = {}
    for c in made.spec.components:
        by_digest.setdefault(c.digest, []).append(c.name)
    remarks = []
    if not (asked_for or sliced):
        if others:
            remarks.append(f"left out, since the weights do not name them: {', '.join(others)}")
        if small:
            what = "empty" if min_examples == 1 else f"fewer than {min_examples} examples"
            remarks.append(f"left out, {what}: {', '.join(small)}")
    remarks += [f"equal in content, so drawn {len(same)} times as often: {', '.join(same)}"
                for same in by_digest.values() if len(same) > 1]  # fmt: skip
    return remarks


def _seen(store: Store, made: SavedMixture, budget: int | None = None) -> list[str]:
    """How often training sees the collections that it repeats most."""
    sizes = {name: facts.num_examples for name, facts in registry.pinned_facts(store, made.spec).items()}
    known = {name: size for name, size in sizes.items() if size}
    return [seen(made.spec.weights, known, budget)] if known else []


def _kept(rule: UniMax, sizes: Mapping[str, int]) -> bool:
    """Whether the budget can be drawn without repeating any collection more often than allowed."""
    return rule.budget <= rule.max_epochs * sum(sizes.values())


def _explicit(store: Store, weights: Mapping[str, float] | Path | Sql) -> Mapping[str, float]:
    if isinstance(weights, Sql):
        return _query_weights(store, weights.query)
    if isinstance(weights, Path):
        return _read_weights(weights.expanduser())
    return weights


def _by_rule(rule: Temperature | UniMax, sizes: Mapping[str, int]) -> dict[str, float]:
    if isinstance(rule, UniMax):
        return unimax_weights(sizes, rule.budget, rule.max_epochs)
    return temperature_weights(sizes, rule.value)


def _note(weights: Weights, sizes: Mapping[str, int]) -> str | None:
    if isinstance(weights, Sql):
        return f"weights from SQL: {' '.join(weights.query.split())}"
    if isinstance(weights, Path):
        return f"weights from {weights.name}"
    if isinstance(weights, Temperature):
        return f"weights as size^(1/{weights.value:g})"
    if isinstance(weights, UniMax):
        if _kept(weights, sizes):
            return f"UniMax, {weights.max_epochs:g} epochs at most in {weights.budget} examples"
        total = sum(sizes.values())
        return (f"UniMax, but {weights.max_epochs:g} epochs at most cannot be kept: {weights.budget:,} examples are "
                f"drawn from {total:,}, {weights.budget / total:.3g} times each")  # fmt: skip
    return "weights as sizes" if weights == "proportional" else None


def _pinned(
    store: Store, collections: Sequence[str], sliced: Sequence[Slice], weights: Mapping[str, float],
    min_examples: int, miners: tuple[str, ...] | None,
) -> Pins:  # fmt: skip
    """Slices, and whole collections beside them. Without slices, the collections that are weighed, or all."""
    large = [part for part in sliced if len(part.example_ids) >= min_examples]
    if sliced and not large:
        raise UsageError(f"no slice has {min_examples} examples or more")
    own = slices.names_of(store, large)
    named = list(collections) or [name for name in weights if name not in own]
    return registry.pin_all(store, named, large, min_examples=min_examples, miners=miners)


def _read_weights(file: Path) -> dict[str, float]:
    try:
        body = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is no JSON: {error}"
        raise UsageError(f"{file}: {why}; `weights` takes a JSON object of collection to weight") from error
    body = body.get("domain_weights", body) if isinstance(body, dict) else body
    if not isinstance(body, dict):
        found = "list" if isinstance(body, list) else "single value"
        raise UsageError(f'{file}: a {found}; `weights` takes a JSON object, such as {{"nq": 2, "msmarco": 1}}')
    try:
        weights = {name: float(weight) for name, weight in body.items()}
    except (TypeError, ValueError):
        wrong = next(item for item in body.items() if not _is_number(item[1]))
        raise UsageError(f"{file}: the weight of {wrong[0]!r} is {wrong[1]!r}; allowed: a number") from None
    if not weights:
        raise UsageError(f"{file}: no weights in it")
    return weights


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str | int | float) and float(value) is not None
    except ValueError:
        return False


def _query_weights(store: Store, query: str) -> dict[str, float]:
    rows = store.sql(query)
    columns = rows.column_names
    if sorted(columns) == ["collection", "weight"]:
        rows = rows.select(["collection", "weight"])
    if len(columns) != 2:
        raise UsageError(f"`sql` gives the columns {', '.join(columns)}; allowed: collection and weight")
    weights: dict[str, float] = {}
    for name, weight in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        try:
            value = float(weight)
        except (TypeError, ValueError):
            raise UsageError(f"`sql` gives {name!r} the weight {weight!r}; allowed: a number") from None
        if not isinstance(name, str) or name in weights:
            raise UsageError(f"`sql` gives the collection {name!r} {'twice' if name in weights else ''}; "
                             "allowed: each collection once, by name")  # fmt: skip
        weights[name] = value
    if not weights:
        raise UsageError("`sql` gives no rows; try it with: mixture sql QUERY")
    return weights


def _changed(
    store: Store, name: str, source: Mixture, fixed: Mapping[str, float], dropped: Sequence[str],
    blend: tuple[Mixture, float] | None, refresh: bool, allow_contaminated: bool,
) -> tuple[SavedMixture, list[str]]:  # fmt: skip
    """The mixture `source` on today's contents, without some components, with weights set, with another mixture mixed
    in, in this order; and what is worth knowing of it."""
    parent = registry.resolve(store, source)
    spec, parents, changes = parent.spec, [parent.spec.id], []
    pins, remarks = None, list[str]()
    if refresh:
        new = refreshed(store, parent)
        spec, pins, remarks = new.spec, new.pins, list(new.remarks)
        changes.append("on today's contents")
    if dropped:
        spec = transfers.without(spec, dropped)
        changes.append(f"without {', '.join(dropped)}")
    if fixed:
        spec = transfers.with_fixed(spec, fixed)
        changes.append(f"{', '.join(f'{part} at {weight:g}' for part, weight in fixed.items())}")
    if blend is not None:
        other, share = registry.resolve(store, blend[0]), blend[1]
        spec = transfers.blend(spec, other.spec, share)
        parents.append(other.spec.id)
        changes.append(f"{share:g} of {other.reference}")
    if not allow_contaminated:
        refuse_test_rows(store, spec.components)
    note = f"{parent.reference}, {', '.join(changes)}"
    return registry.save(store, spec, name, parents=parents, note=note, pins=pins), remarks

"""Making mixtures: of today's collections and slices of them, or from another mixture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mixture import registry, transfers
from mixture.arguments import Names, listed, named
from mixture.errors import UsageError
from mixture.jobs.contamination import refuse_test_rows
from mixture.registry import Mixture, Pins, SavedMixture, slices
from mixture.registry.slices import Slice
from mixture.store import Store
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


def create(
    store: Store, name: str, *, weights: Weights = "uniform", collections: Names = (), slices: Names = (),
    where: Names = (), selections: Names = (), min_examples: int = 1, source: Mixture | None = None,
    fixed: Mapping[str, float] | None = None, dropped: Names = (), blend: tuple[Mixture, float] | None = None,
    allow_contaminated: bool = False,
) -> SavedMixture:  # fmt: skip
    """Make a mixture of today's collections or slices of them, or from another mixture with changes; save it as `name`.

    weights:      how the components are weighed
    collections:  default: those that `weights` names, or all; none beside slices
    slices:       COLLECTION:COLUMN, a component for each value, such as xquad:language
    where:        SQL conditions on examples, a component for each collection that has some
    selections:   files of collection, example_id: CSV, Parquet or JSON
    min_examples: smaller collections and slices are left out
    source:       the mixture to change, in this order: components of `dropped` are left out, those of `fixed` get
                  their weight while the others share the rest, `blend` mixes in another mixture with its share
    allow_contaminated: also where components have rows of a registered test suite (`jobs.matches`)

    A mixture that equals the newest of its name is not saved again. Raises `UsageError` for names that mean nothing,
    for a source together with what weighs or slices, and for test data.
    """
    given = (listed(collections), listed(slices), listed(where), listed(selections))
    if (source is None) == bool(fixed or listed(dropped) or blend):
        raise UsageError("`source` and its changes go together: `fixed`, `dropped`, `blend`")
    if source is None:
        return _made(store, name, weights, given, min_examples, allow_contaminated)
    if any(given) or weights != "uniform":
        raise UsageError("`source` takes `fixed`, `dropped` and `blend` alone; to weigh or slice, create without it")
    return _changed(store, name, source, fixed or {}, listed(dropped), blend, allow_contaminated)


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
    store: Store, name: str, weights: Weights, given: tuple[list[str], list[str], list[str], list[str]],
    min_examples: int, allow_contaminated: bool,
) -> SavedMixture:  # fmt: skip
    collections, columns, conditions, files = given
    rule = named("weights", weights, RULES) if isinstance(weights, str) else weights
    explicit = {} if isinstance(rule, Temperature | UniMax) else _explicit(store, rule)
    sliced = [part for text in columns for part in slices.by_column(store, text)]
    sliced += [part for text in conditions for part in slices.by_predicate(store, text)]
    sliced += [part for file in files for part in slices.from_file(store, Path(file).expanduser())]
    pins = _pinned(store, collections, sliced, explicit, min_examples)
    chosen = _by_rule(rule, pins.sizes) if isinstance(rule, Temperature | UniMax) else explicit
    spec = registry.weighted(pins.components, chosen)
    if not allow_contaminated:
        refuse_test_rows(store, spec.components)
    return registry.save(store, spec, name, note=_note(weights), pins=pins)


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


def _note(weights: Weights) -> str | None:
    if isinstance(weights, Sql):
        return f"weights from SQL: {' '.join(weights.query.split())}"
    if isinstance(weights, UniMax):
        return f"UniMax, {weights.max_epochs:g} epochs at most in {weights.budget} examples"
    return None


def _pinned(
    store: Store, collections: Sequence[str], sliced: Sequence[Slice], weights: Mapping[str, float],
    min_examples: int,
) -> Pins:  # fmt: skip
    """Slices, and whole collections beside them. Without slices, the collections that are weighed, or all."""
    large = [part for part in sliced if len(part.example_ids) >= min_examples]
    if sliced and not large:
        raise UsageError(f"no slice has {min_examples} examples or more")
    own = slices.names_of(store, large)
    named = list(collections) or [name for name in weights if name not in own]
    return registry.pin_all(store, named, large, min_examples=min_examples)


def _read_weights(file: Path) -> dict[str, float]:
    try:
        body = json.loads(file.read_text("utf-8"))
        weights = {str(k): float(v) for k, v in body.get("domain_weights", body).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{file}: not a JSON object of collection to weight ({error})") from error
    if not weights:
        raise UsageError(f"{file}: no weights in it")
    return weights


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
    blend: tuple[Mixture, float] | None, allow_contaminated: bool,
) -> SavedMixture:  # fmt: skip
    """The mixture `source` without some components, with weights set, with another mixture mixed in; in this order."""
    parent = registry.resolve(store, source)
    spec, parents, changes = parent.spec, [parent.spec.id], []
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
    return registry.save(store, spec, name, parents=parents, note=f"{parent.reference}, {', '.join(changes)}")

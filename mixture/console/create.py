"""The commands that make mixtures by hand; `cli.py` adds them to its own.

`create` makes one of today's collections and slices of them, or from another mixture with changes; `select` makes one
from another in one of the known ways.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mixture import registry, specs
from mixture.console.mixtures import show_mixture
from mixture.console.options import JsonOption, StoreOption, open_store
from mixture.errors import UsageError
from mixture.registry import SavedMixture, slices
from mixture.store import Store

app = typer.Typer()
NameArgument = Annotated[str, typer.Argument(help="The mixture's name")]


@app.command()
def create(
    name: NameArgument,
    uniform: Annotated[bool, typer.Option("--uniform", help="Equal weights (the default)")] = False,
    proportional: Annotated[bool, typer.Option("--proportional", help="Weights as sizes")] = False,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Weights as size^(1/T)")] = None,
    unimax: Annotated[float | None, typer.Option("--unimax", help="Equal, but so many epochs of each at most")] = None,
    budget: Annotated[int | None, typer.Option("--budget", help="With --unimax: steps x batch size of the run")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="JSON: collection to weight")] = None,
    sql: Annotated[str | None, typer.Option("--sql", help="A SELECT of collection and weight")] = None,
    collection: Annotated[list[str] | None, typer.Option(
        "--collection", help="Default: all, or none beside slices; again for more")] = None,
    slice_: Annotated[list[str] | None, typer.Option(
        "--slice", help="COLLECTION:COLUMN, a component for each value, as xquad:language; again for more")] = None,
    where: Annotated[list[str] | None, typer.Option(
        "--where", help="A SQL condition on examples, a component for each collection that has some")] = None,
    selection: Annotated[list[Path] | None, typer.Option(
        "--selection", help="A file of collection, example_id: CSV, Parquet or JSON")] = None,
    min_examples: Annotated[int, typer.Option("--min-examples", help="Leave out smaller collections")] = 1,
    source: Annotated[str | None, typer.Option("--from", metavar="REF", help="Change this mixture")] = None,
    fixed: Annotated[list[str] | None, typer.Option(
        "--set", help="With --from: COLLECTION=WEIGHT, the others share the rest; again for more")] = None,
    dropped: Annotated[list[str] | None, typer.Option(
        "--drop", help="With --from: leave a collection out; again for more")] = None,
    blend: Annotated[str | None, typer.Option(
        "--blend", help="With --from: REF:SHARE, another mixture and its share, mixed in last")] = None,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Make a mixture of today's collections or slices of them, or from another mixture with changes."""
    ways = (uniform, proportional, temperature is not None, unimax is not None, weights is not None, sql is not None)
    parts = (collection, slice_, where, selection)
    changes = (fixed, dropped, blend)
    if sum(ways) > 1:
        raise UsageError("give one of --uniform, --proportional, --temperature, --unimax, --weights, --sql")
    if (unimax is None) != (budget is None):
        raise UsageError("--unimax EPOCHS and --budget EXAMPLES go together; a run's budget is its steps x batch size")
    if (source is None) == any(changes):
        raise UsageError("--from REF and its changes go together: --set COLLECTION=WEIGHT, --drop COLLECTION, "
                         "--blend REF:SHARE")  # fmt: skip
    if source is not None and (any(ways) or any(parts)):
        raise UsageError("--from REF takes --set, --drop and --blend only; to weigh or slice, create without --from")
    with open_store(store) as lake:
        if source is not None:
            saved = _edited(lake, name, source, _weights_of(fixed or ()), dropped or (), blend)
        else:
            given = _read_weights(weights) if weights is not None else _query_weights(lake, sql) if sql else None
            sliced = [part for text in slice_ or () for part in slices.by_column(lake, text)]
            sliced += [part for text in where or () for part in slices.by_predicate(lake, text)]
            sliced += [part for file in selection or () for part in slices.from_file(lake, file)]
            pins = _pinned(lake, collection or (), sliced, given, min_examples)
            note = None if sql is None else f"weights from SQL: {' '.join(sql.split())}"
            if given is None:
                scale = 1.0 if proportional else temperature if temperature is not None else math.inf
                given = specs.temperature_weights(pins.sizes, scale)
                if unimax is not None and budget is not None:
                    given = specs.unimax_weights(pins.sizes, budget, unimax)
                    note = f"UniMax, {unimax:g} epochs at most in {budget} examples"
            saved = registry.save(lake, registry.weighted(pins.components, given), name, note=note, pins=pins)
        show_mixture(saved, lake, as_json)


def _pinned(
    lake: Store, collections: Sequence[str], sliced: Sequence[slices.Slice], given: Mapping[str, float] | None,
    min_examples: int,
) -> registry.Pins:  # fmt: skip
    """Slices, and whole collections beside them. Without slices, the collections that `given` weighs, or all."""
    large = [part for part in sliced if len(part.example_ids) >= min_examples]
    if sliced and not large:
        raise UsageError(f"no slice has {min_examples} examples or more")
    own = slices.names_of(lake, large)
    named = list(collections) or [name for name in given or () if name not in own]
    return registry.pin_all(lake, named, large, min_examples=min_examples)


def _read_weights(file: Path) -> dict[str, float]:
    try:
        body = json.loads(file.read_text("utf-8"))
        weights = {str(k): float(v) for k, v in body.get("domain_weights", body).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{file}: not a JSON object of collection to weight ({error})") from error
    if not weights:
        raise UsageError(f"{file}: no weights in it")
    return weights


def _query_weights(lake: Store, query: str) -> dict[str, float]:
    """The weights that a query gives: its columns collection and weight, or its only two, in this order."""
    rows = lake.sql(query)
    columns = rows.column_names
    if sorted(columns) == ["collection", "weight"]:
        rows = rows.select(["collection", "weight"])
    if len(columns) != 2:
        raise UsageError(f"--sql gives the columns {', '.join(columns)}; allowed: collection and weight")
    weights: dict[str, float] = {}
    for name, weight in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        try:
            value = float(weight)
        except (TypeError, ValueError):
            raise UsageError(f"--sql gives {name!r} the weight {weight!r}; allowed: a number") from None
        if not isinstance(name, str) or name in weights:
            raise UsageError(f"--sql gives the collection {name!r} {'twice' if name in weights else ''}; "
                             "allowed: each collection once, by name")  # fmt: skip
        weights[name] = value
    if not weights:
        raise UsageError("--sql gives no rows; try it with: mixture sql QUERY")
    return weights


def _weights_of(texts: Sequence[str]) -> dict[str, float]:
    """`agnews=0.3` -> {"agnews": 0.3}; a name may hold = itself, as those of slices do."""
    weights: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            if not name or name in weights:
                raise ValueError
            weights[name] = float(value)
        except ValueError:
            raise UsageError(
                f"--set is {text!r}; allowed: a collection and its weight, as agnews=0.3, each once"
            ) from None
    return weights


def _edited(
    lake: Store, name: str, source: str, fixed: Mapping[str, float], dropped: Sequence[str], blend: str | None
) -> SavedMixture:
    """The mixture `source` without some components, with weights set, with another mixture mixed in; in this order."""
    parent = registry.resolve(lake, source)
    spec, parents, said = parent.spec, [parent.spec.id], []
    if dropped:
        spec = specs.without(spec, dropped)
        said.append(f"without {', '.join(dropped)}")
    if fixed:
        spec = specs.with_fixed(spec, fixed)
        said.append(f"{', '.join(f'{part} at {weight:g}' for part, weight in fixed.items())}")
    if blend is not None:
        second, share = _parse_blend(blend)
        other = registry.resolve(lake, second)
        spec = specs.blend(spec, other.spec, share)
        parents.append(other.spec.id)
        said.append(f"{share:g} of {other.reference}")
    return registry.save(lake, spec, name, parents=parents, note=f"{parent.reference}, {', '.join(said)}")


@app.command()
def select(
    ref: Annotated[str, typer.Argument(help="A mixture")],
    name: Annotated[str, typer.Option("--name", help="The new mixture's name")],
    top: Annotated[float | None, typer.Option("--top", help="The heaviest percent of the collections, equally")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Weights as weight^(1/T)")] = None,
    reweight: Annotated[str | None, typer.Option("--reweight", help="The weights of another mixture")] = None,
    loss_reweight: Annotated[bool, typer.Option("--loss-reweight", help="Draw equally, weigh the losses")] = False,
    blend: Annotated[str | None, typer.Option("--blend", help="REF:SHARE, another mixture and its share")] = None,
    floor: Annotated[float | None, typer.Option("--floor", help="The least weight of a collection")] = None,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Make a mixture from another one, in one way."""
    if sum(given is not None for given in (top, temperature, reweight, blend, floor)) + loss_reweight != 1:
        raise UsageError("give one of --top, --temperature, --reweight, --loss-reweight, --blend, --floor")
    with open_store(store) as lake:
        parent, other = registry.resolve(lake, ref), None
        if reweight is not None:
            other = registry.resolve(lake, reweight)
            spec = specs.reweight(parent.spec, other.spec)
            note = f"{parent.reference} with the weights of {other.reference}"
        elif blend is not None:
            second, share = _parse_blend(blend)
            other = registry.resolve(lake, second)
            spec = specs.blend(parent.spec, other.spec, share)
            note = f"{1 - share:g} of {parent.reference}, {share:g} of {other.reference}"
        elif top is not None:
            spec, note = specs.select_top(parent.spec, top), f"top {top:g} % of {parent.reference}"
        elif temperature is not None:
            spec, note = specs.temper(parent.spec, temperature), f"{parent.reference} at temperature {temperature:g}"
        elif floor is not None:
            spec, note = specs.with_floor(parent.spec, floor), f"{parent.reference} with a floor of {floor:g}"
        else:
            spec, note = specs.loss_reweight(parent.spec), f"losses weighed as {parent.reference}"
        parents = [mixture.spec.id for mixture in (parent, other) if mixture is not None]
        show_mixture(registry.save(lake, spec, name, parents=parents, note=note), lake, as_json)


def _parse_blend(text: str) -> tuple[str, float]:
    """`tdro:2:0.3` -> (`tdro:2`, 0.3)."""
    second, _, share = text.rpartition(":")
    try:
        if second:
            return second, float(share)
    except ValueError:
        pass
    raise UsageError(f"--blend is {text!r}; allowed: another mixture and its share, as tdro:0.3 or tdro:2:0.3")

"""The commands that make mixtures by hand; `cli.py` adds them to its own.

`create` makes one of today's collections and slices of them, or from another mixture with changes; `select` makes one
from another in one of the known ways.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mixture.console import completion
from mixture.console.mixtures import show_mixture
from mixture.console.options import JsonOption, StoreOption, open_store
from mixture.errors import UsageError

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
        "--collection", help="Default: all, or none beside slices; repeatable",
        autocompletion=completion.collections)] = None,
    slice_: Annotated[list[str] | None, typer.Option(
        "--slice", help="COLLECTION:COLUMN, a component for each value, as xquad:language; repeatable")] = None,
    where: Annotated[list[str] | None, typer.Option(
        "--where", help="A SQL condition on examples, a component for each collection that has some")] = None,
    selection: Annotated[list[Path] | None, typer.Option(
        "--selection", help="A file of collection, example_id: CSV, Parquet or JSON")] = None,
    miners: Annotated[list[str] | None, typer.Option(
        "--miner", help="Negatives of this miner or mining alone, or provided for those of the files; repeatable, in "
        "order")] = None,
    min_examples: Annotated[int, typer.Option("--min-examples", help="Leave out smaller collections")] = 1,
    source: Annotated[str | None, typer.Option(
        "--from", metavar="REF", help="Change this mixture", autocompletion=completion.mixtures)] = None,
    fixed: Annotated[list[str] | None, typer.Option(
        "--set", help="With --from: COLLECTION=WEIGHT, the others share the rest; repeatable")] = None,
    dropped: Annotated[list[str] | None, typer.Option(
        "--drop", help="With --from: leave a collection out; repeatable",
        autocompletion=completion.collections)] = None,
    blend: Annotated[str | None, typer.Option(
        "--blend", help="With --from: REF:SHARE, another mixture and its share, mixed in last")] = None,
    refresh: Annotated[bool, typer.Option(
        "--refresh", help="With --from: its weights on what its collections and slices hold today")] = False,
    allow_contaminated: Annotated[bool, typer.Option(
        "--allow-contaminated", help="Also with rows of a registered test suite in it")] = False,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Make a mixture of today's collections or slices of them, or from another mixture with changes."""
    from mixture import jobs

    ways = (uniform, proportional, temperature is not None, unimax is not None, weights is not None, sql is not None)
    if sum(ways) > 1:
        raise UsageError("give one of --uniform, --proportional, --temperature, --unimax, --weights, --sql")
    if (unimax is None) != (budget is None):
        raise UsageError("--unimax EPOCHS and --budget EXAMPLES go together; a run's budget is its steps x batch size")
    changes, parts = (fixed, dropped, blend), (collection, slice_, where, selection, miners)
    if (source is None) == (any(changes) or refresh):
        raise UsageError("--from REF and its changes go together: --set COLLECTION=WEIGHT, --drop COLLECTION, "
                         "--blend REF:SHARE, --refresh")  # fmt: skip
    if source is not None and (any(ways) or any(parts)):
        raise UsageError("--from REF takes --set, --drop, --blend and --refresh only; to weigh or slice, create "
                         "without --from")  # fmt: skip
    rule: jobs.Weights = "proportional" if proportional else "uniform"
    if temperature is not None:
        rule = jobs.Temperature(temperature)
    elif unimax is not None and budget is not None:
        rule = jobs.UniMax(unimax, budget)
    elif weights is not None or sql is not None:
        rule = weights if weights is not None else jobs.Sql(str(sql))
    with open_store(store) as lake:
        made = jobs.create(
            lake, name, weights=rule, collections=collection or (), slices=slice_ or (), where=where or (),
            selections=selection or (), miners=miners or (), min_examples=min_examples, source=source,
            fixed=_weights_of(fixed or ()), dropped=dropped or (), blend=None if blend is None else _parse_blend(blend),
            refresh=refresh, allow_contaminated=allow_contaminated,
        )  # fmt: skip
        show_mixture(made, lake, as_json)
        sys.stderr.writelines(f"note: {remark}\n" for remark in made.remarks)


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


@app.command()
def select(
    ref: Annotated[str, typer.Argument(help="A mixture", autocompletion=completion.mixtures)],
    name: Annotated[str, typer.Option("--name", help="The new mixture's name")],
    top: Annotated[float | None, typer.Option("--top", help="The heaviest percent of the collections, equally")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Weights as weight^(1/T)")] = None,
    reweight: Annotated[str | None, typer.Option(
        "--reweight", help="The weights of another mixture", autocompletion=completion.mixtures)] = None,
    loss_reweight: Annotated[bool, typer.Option("--loss-reweight", help="Draw equally, weigh the losses")] = False,
    blend: Annotated[str | None, typer.Option("--blend", help="REF:SHARE, another mixture and its share")] = None,
    floor: Annotated[float | None, typer.Option("--floor", help="The least weight of a collection")] = None,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Make a mixture from another one, in one way."""
    from mixture import jobs

    with open_store(store) as lake:
        made = jobs.select(
            lake, ref, name, top=top, temperature=temperature, reweight=reweight, loss_reweight=loss_reweight,
            blend=None if blend is None else _parse_blend(blend), floor=floor,
        )  # fmt: skip
        show_mixture(made, lake, as_json)


def _parse_blend(text: str) -> tuple[str, float]:
    """`tdro:2:0.3` -> (`tdro:2`, 0.3)."""
    second, _, share = text.rpartition(":")
    try:
        if second:
            return second, float(share)
    except ValueError:
        pass
    raise UsageError(f"--blend is {text!r}; allowed: another mixture and its share, as tdro:0.3 or tdro:2:0.3")

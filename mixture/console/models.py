"""The commands that make a model of trained ones; `cli.py` adds them to its own."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mixture.console import completion
from mixture.console.options import JsonOption, StoreOption, numbers, open_store, whole_numbers
from mixture.console.progress import stages

app = typer.Typer()


@app.command()
def soup(
    ctx: typer.Context,
    models: Annotated[list[Path], typer.Argument(help="Folders of trained models with one start")],
    out: Annotated[Path, typer.Option("--out", help="The folder for their average")],
    weights: Annotated[str | None, typer.Option(
        "--weights", help="Of each model, in their order: 0.5,0.3,0.2; or dev: those that do best on --suite [equal]"
    )] = None,
    suite: Annotated[list[str] | None, typer.Option(
        "--suite", help="With --weights dev: a suite, or a folder of such, of which the learn half counts; repeatable"
    )] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Average trained models that began as one model, into a model; adapters with what they add to its weights."""
    from mixture.console.scores import show_soup

    with stages("tensors") as stage:
        shares = weights if weights == "dev" else numbers("--weights", weights)
        made = ctx.obj.soup(models, out=out, weights=shares, suites=suite or (), progress=stage("soup"))
    show_soup(asdict(made), as_json=as_json)


@app.command()
def shrink(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder or name of a trained model")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the smaller model")],
    layers: Annotated[int | None, typer.Option("--layers", help="How many layers are left")] = None,
    mix: Annotated[str | None, typer.Option(
        "--mix", help="The mixture on whose rows it is measured which layers can go",
        autocompletion=completion.mixtures)] = None,
    first: Annotated[bool, typer.Option(
        "--first", help="The first ones are left, without a search: for models trained with elastic_layers")] = False,
    keep: Annotated[str | None, typer.Option("--keep", help="These are left, without a search: 0,1,5")] = None,
    keep_last: Annotated[int | None, typer.Option(
        "--keep-last", help="So many of the last layers stay [1 with last-token pooling, else 0]")] = None,
    width: Annotated[float, typer.Option(
        "--width", help="Share of the inner channels of each layer's feed-forward part that is left")] = 1.0,
    rows: Annotated[int, typer.Option("--rows", help="Rows of each collection that are measured")] = 32,
    temperature: Annotated[float, typer.Option("--temperature", help="Scores are divided by it in the loss")] = 0.05,
    seed: Annotated[int, typer.Option("--seed", help="Of the rows that are measured")] = 42,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Take layers out of a trained model: a search tries it on a mixture's rows. Killed, the same command goes on.

    What each collection loses with each layer is kept in the table layer_losses.
    """
    from mixture.console.scores import show_shrunk

    kept = whole_numbers("--keep", keep)
    with nullcontext() if mix is None else open_store(store) as lake, stages("sets") as stage:
        made = ctx.obj.shrink(model, out=out, layers=layers, store=lake, mixture=mix, first=first, keep=kept,
                               keep_last=keep_last, width=width, rows=rows, temperature=temperature, seed=seed,
                               stage=stage)  # fmt: skip
    show_shrunk(asdict(made), as_json=as_json)

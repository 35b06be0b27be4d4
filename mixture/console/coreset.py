"""The command that chooses rows; `cli.py` adds it to its own."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from mixture import registry
from mixture.console import completion
from mixture.console.options import (
    EngineOption,
    JsonOption,
    KeepOption,
    PrecisionOption,
    SeedOption,
    StoreOption,
    open_store,
)
from mixture.console.output import print_json, print_rows
from mixture.console.progress import stages
from mixture.console.sentences import chosen, say
from mixture.console.terminal import in_options

app = typer.Typer()


@app.command()
def coreset(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The new mixture's name")],
    mix: Annotated[str, typer.Option(
        "--mix", help="The mixture whose rows are chosen from", autocompletion=completion.mixtures)],
    target: Annotated[list[str], typer.Option(
        "--target", help="A suite, its name, or a folder of such, whose learn half is taken; or a mixture; repeatable"
    )],
    budget: Annotated[float, typer.Option("--budget", help="Rows to choose; below 1 a share of them, as 0.1")],
    model: Annotated[str, typer.Option(
        "--model", help="Embeds the rows: a folder or name; static is a small table")] = "static",
    shares: Annotated[str, typer.Option(
        "--shares", help="What a collection gives: {mixture.jobs.coreset:SHARES}")] = "mixture",
    random: Annotated[bool, typer.Option(
        "--random", help="The baseline: as many rows, drawn at random; the target is measured alone")] = False,
    gradient_weight: Annotated[float, typer.Option(
        "--gradient-weight", help="How much a row counts for what it would teach; rewards rows that are wrong")] = 0.0,
    target_rows: Annotated[int, typer.Option("--target-rows", help="Of a larger target so many are drawn")] = 1000,
    solve: Annotated[int, typer.Option(
        "--solve", help="Exact transports that exchanges may take, with fewer rows than the target has")] = 50,
    processes: Annotated[int, typer.Option("--processes", help="That encode; with several GPUs one each")] = 1,
    keep_embeddings: KeepOption = True, precision: PrecisionOption = "float32", engine: EngineOption = "local",
    seed: SeedOption = None, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Choose the rows of a mixture that are nearest to a target, as a new mixture."""
    from mixture import jobs

    with open_store(store) as lake:
        with stages("rows") as stage:
            made = jobs.coreset(
                lake, mix, name, target=target, budget=budget, model=model,
                encoder=partial(ctx.obj.encode_with, processes=processes, engine=engine), shares=shares, random=random,
                gradient_weight=gradient_weight, target_rows=target_rows, solve=solve,
                seed=42 if seed is None else seed, keep_embeddings=keep_embeddings, precision=precision, stage=stage,
            )  # fmt: skip
        if as_json:
            facts = {name: value for name, value in asdict(made).items() if name != "mixture"}
            print_json(registry.describe(lake, made.mixture) | {"coreset": facts})
            return
    say(chosen(made.mixture.reference, asdict(made)))
    print_rows(made.rows, as_json=False, lines=1)
    sys.stderr.writelines(f"note: {in_options(remark)}\n" for remark in made.remarks)

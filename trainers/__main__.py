"""`python -m trainers FOLDER`: fine-tune on a materialised mixture, on a machine without the store and without duckdb.

`mixture export REF --materialised FOLDER` makes the folder; `torchrun … -m trainers FOLDER …` trains on several ranks.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mixture.console.progress import stages
from mixture.console.scores import show_trained
from mixture.console.terminal import PlainCommand
from mixture.progress import quiet
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.phases import read_phases
from trainers.jobs.folder import open_folder, train_on_folder
from trainers.parallel import ranks
from trainers.settings import resolve

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=PlainCommand)
def train(
    folder: Annotated[
        str, typer.Argument(help="What `mixture export REF --materialised FOLDER` wrote, or s3://bucket/prefix")
    ],
    model: Annotated[str, typer.Option("--model", help="A folder or name; tiny-qwen2 is built from the data")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the trained model")],
    mix: Annotated[str | None, typer.Option("--mix", help="The mixture's id, where the folder has several")] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option("--phase", help="ID:STEPS of a mixture in the folder; repeatable, trained on one after the other"),
    ] = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", help="Evaluated on at the end; repeatable")] = None,
    config: Annotated[str | None, typer.Option("--config", help="A shipped recipe or a TOML file")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Examples in a step")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting: name=value")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON")] = False,
) -> None:
    """Fine-tune a retriever on a materialised mixture, as `mixture train` does on one of the store."""
    phases = read_phases(phase or (), mixture=mix, steps=steps, assigned=settings or ())
    options = {"steps": sum(n for _, n in phases) or steps, "batch_size": batch_size}
    resolved = resolve(FinetuneSettings, config, options, settings or ())
    data = [(open_folder(folder, name), n) for name, n in phases] or open_folder(folder, mix)
    with stages("steps") if ranks.is_main() else nullcontext(quiet) as stage:
        made = train_on_folder(data, model, out=out, settings=resolved, suites=suite or (), progress=stage("training"))
    if ranks.is_main():
        show_trained(asdict(made), as_json=as_json)


if __name__ == "__main__":
    app()

"""The commands that look after a whole store; `cli.py` adds them to its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mixture.console.options import DataOption, JsonOption, StoreOption, open_store
from mixture.console.output import print_rows
from mixture.console.progress import bar
from mixture.errors import UsageError

app = typer.Typer()


@app.command()
def maintain(
    days: Annotated[float, typer.Option("--days", help="Keep the versions of the last days")] = 7.0,
    file_hours: Annotated[float, typer.Option(
        "--file-hours", help="Keep files that left every version so long, for those who read them")] = 24.0,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Make small files of the store large, and drop old versions that neither a mixture nor --undo needs."""
    from mixture import jobs

    with open_store(store) as lake, bar("maintain") as progress:
        done = jobs.maintain(lake, days=days, file_hours=file_hours, progress=progress)
    print_rows([asdict(done)], as_json=as_json)


@app.command("store")
def store_(
    action: Annotated[str, typer.Argument(metavar="copy", help="What to do with it: copy")],
    source: Annotated[str, typer.Argument(metavar="FROM", help="The store")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A new folder, or a name of a database")],
    data: DataOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Copy a store with its history to a place where none is: from a folder to PostgreSQL and S3, or back."""
    from mixture import jobs

    if action != "copy":
        raise UsageError(f"mixture store {action}: allowed is mixture store copy FROM TO")
    with open_store(source) as lake, bar("copy") as progress:
        copied = jobs.copy_store(lake, target, data=data, progress=progress)
    print_rows([asdict(copied)], as_json=as_json)

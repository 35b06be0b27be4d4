"""The commands about mixtures as artifacts; `cli.py` adds them to its own."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mixture import registry
from mixture.console import completion
from mixture.console.options import CardsOption, DataOption, JsonOption, StoreOption, open_store
from mixture.console.output import print_json, print_rows
from mixture.console.progress import bar
from mixture.console.sentences import made, refused, say
from mixture.errors import ForgottenRows, UsageError
from mixture.store import Store

# What a list needs is imported here, the rest by the command that needs it; what answers at once goes past
# `mixture.jobs`, which loads kernels.
app = typer.Typer()
# A table of a thousand takes longer to draw than to find, and nobody reads it.
LISTED = 100
RefArgument = Annotated[str, typer.Argument(
    help="An id or its beginning, a name, name:version, or a tag", autocompletion=completion.mixtures)]  # fmt: skip


@app.command("list")
def list_mixtures(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the mixtures, newest first."""
    with open_store(store) as lake:
        rows = registry.listing(lake)
    if as_json:
        print_json(rows)
        return
    shown = [row | {name: ", ".join(row[name] or ()) for name in ("tags", "parents")} for row in rows[:LISTED]]
    if not any(row["forgotten"] for row in shown):
        shown = [{name: value for name, value in row.items() if name != "forgotten"} for row in shown]
    print_rows(shown, as_json=False, drop=("parents", "heaviest_weight", "created", "collections"),
               whole=("reference",), lines=1)  # fmt: skip
    if len(rows) > LISTED:
        sys.stderr.write(f"{len(rows) - LISTED:,} older ones; --json prints all\n")


@app.command()
def show(
    ref: RefArgument,
    contamination: Annotated[bool, typer.Option(
        "--contamination", help="Search it for rows of test suites, and say what decontaminate took out")] = False,
    against: Annotated[list[str] | None, typer.Option(
        "--against", help="With --contamination: a registered suite, a list of test queries, a suite or its name; "
        "repeatable [all registered]")] = None,
    cards: CardsOption = None, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Show a mixture: its weights and where it comes from."""
    if not contamination and (against or cards):
        raise UsageError("--against and --cards go with --contamination")
    with open_store(store) as lake:
        mixture = registry.resolve(lake, ref)
        if not contamination:
            show_mixture(mixture, lake, as_json)
            return
        from mixture import jobs
        from mixture.console.statement import show_statement

        show_statement(jobs.contamination_statement(lake, mixture, against or (), cards=cards), as_json=as_json)


def show_mixture(mixture: registry.SavedMixture, lake: Store, as_json: bool) -> None:
    """Print a mixture, as `mixture show` does."""
    body = registry.describe(lake, mixture)
    if as_json:
        print_json(body)
        return
    say(made(body))
    print_rows(body["components"], as_json=False, drop=("digest", "loss_weight"), lines=1)
    if body["missing"]:
        sys.stdout.write(f"the store lacks {len(body['missing'])} of these collections: {', '.join(body['missing'])}\n")
    if body["forgotten"]:
        sys.stdout.write(refused(ForgottenRows(body["id"], body["forgotten"])) + "\n")


@app.command()
def diff(a: RefArgument, b: RefArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Compare two mixtures: weights, contents, prompts, and how each was made."""
    from mixture.registry.diff import diff

    with open_store(store) as lake:
        found = diff(lake, a, b)
    if as_json:
        print_json(found.to_dict())
        return
    columns = ("collection", "weight_a", "weight_b", "difference", "examples_a", "examples_b", "change")
    title = f"a: {found.a.reference}, b: {found.b.reference}"
    rows = [{name: row[name] for name in columns} for row in found.rows]
    print_rows(rows, as_json=False, title=title, drop=("examples_a", "examples_b"), lines=1)
    sys.stdout.writelines(line + "\n" for line in found.lines())


@app.command()
def tag(
    ref: RefArgument, name: Annotated[str, typer.Argument(metavar="TAG", help="A name of your own, as production")],
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let a tag refer to a mixture; it can be moved, and the table mixture_tags keeps where it was."""
    with open_store(store) as lake:
        mixture = registry.tag(lake, ref, name)
    print_rows([{"tag": name, "mixture": mixture.spec.id, "reference": mixture.reference}], as_json=as_json)


@app.command()
def log(ref: RefArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show where a mixture comes from, as a tree: parents, runs, imports."""
    from rich.console import Console

    from mixture.console.tree import as_tree
    from mixture.registry.lineage import log

    with open_store(store) as lake:
        found = log(lake, ref)
    if as_json:
        print_json(asdict(found))
    else:
        Console(width=None if sys.stdout.isatty() else 100_000).print(as_tree(found))


@app.command("verify")
def verify_store(
    ref: Annotated[str | None, typer.Argument(
        help="A mixture; default: all, and every data file", autocompletion=completion.mixtures)] = None,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Check that what mixtures pin is still there and whole: contents, data files, materialised files."""
    from mixture import jobs
    from mixture.registry.verify import require_whole

    with open_store(store) as lake, bar("verify") as progress:
        result = jobs.verify(lake, ref, progress=progress)
    if as_json:
        print_json(asdict(result))
    else:
        if result.findings:
            print_rows([asdict(finding) for finding in result.findings], as_json=False)
        counted = ", ".join(f"{count} {what}" for what, count in result.checked.items())
        sys.stdout.write(f"checked {counted}: {len(result.faults)} damaged\n")
    require_whole(result)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and remove nothing")] = False,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Remove what nothing needs: materialised files, tiny models, runs, embeddings. Never a collection or a mixture."""
    from mixture import jobs

    with open_store(store) as lake:
        found = jobs.gc(lake, dry_run=dry_run)
    print_rows([asdict(thing) for thing in found], as_json=as_json, title="would be removed" if dry_run else "removed")


@app.command()
def maintain(
    days: Annotated[float, typer.Option("--days", help="Keep the versions of the last days")] = 7.0,
    file_hours: Annotated[float, typer.Option(
        "--file-hours", help="Keep files that left every version so long, for those who read them")] = 24.0,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Merge small files of a store in a database, and drop old versions that neither a mixture nor --undo needs."""
    from mixture import jobs

    with open_store(store) as lake, bar("maintain") as progress:
        done = jobs.maintain(lake, days=days, file_hours=file_hours, progress=progress)
    print_rows([asdict(done)], as_json=as_json)


@app.command("store")
def store_(
    action: Annotated[str, typer.Argument(metavar="copy", help="What to do: copy")],
    source: Annotated[str, typer.Argument(metavar="FROM", help="A store, as --store names it")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A new folder, or a database without a store")],
    data: DataOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Copy a whole store with its history: from a folder to PostgreSQL and S3, or back. A stopped copy goes on."""
    from mixture import jobs

    if action != "copy":
        raise UsageError(f"mixture store {action}: write mixture store copy FROM TO")
    try:
        lake = open_store(source)
    except UsageError as error:
        raise UsageError(f"FROM: {error}") from error
    with lake, bar("copy") as progress:
        copied = jobs.copy_store(lake, target, data=data, progress=progress)
    print_rows([asdict(copied)], as_json=as_json)


@app.command()
def export(
    ref: RefArgument,
    fmt: Annotated[str | None, typer.Option("--format", help="mixture (the default), tdro or csv")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file; default: standard output")] = None,
    materialised: Annotated[str | None, typer.Option(
        "--materialised", help="A folder to train from, or s3://bucket/prefix")] = None,
    hf_dataset: Annotated[Path | None, typer.Option("--hf-dataset", help="A folder for a DatasetDict")] = None,
    flagembedding: Annotated[Path | None, typer.Option(
        "--flagembedding", help="A folder of JSON lines with scores, a file a collection")] = None,
    tevatron: Annotated[Path | None, typer.Option("--tevatron", help="A folder of JSON lines and a YAML file")] = None,
    ms_swift: Annotated[Path | None, typer.Option("--ms-swift", help="The same for ms-swift")] = None,
    llama_factory: Annotated[Path | None, typer.Option(
        "--llama-factory", help="The same for LLaMA-Factory, to train a reranker")] = None,
    batches: Annotated[int | None, typer.Option("--batches", help="The rows of so many batches, to --out")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="With --batches: examples in a step")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="With --batches: the training's seed")] = 42,
    holdout: Annotated[float, typer.Option("--holdout", help="With --batches: the training's holdout")] = 0.0,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write a mixture to a file, or with its data to a folder that trains without the store."""
    from mixture import jobs

    with open_store(store) as lake:
        written = jobs.export(lake, ref, format=fmt, out=out, materialised=materialised, hf_dataset=hf_dataset,
                              flagembedding=flagembedding, tevatron=tevatron, ms_swift=ms_swift,
                              llama_factory=llama_factory, batches=batches, batch_size=batch_size, seed=seed,
                              holdout=holdout)  # fmt: skip
    if written.text is not None:
        sys.stdout.write(written.text)
        return
    sys.stderr.writelines(f"note: {remark}\n" for remark in written.remarks)
    what = "file" if fmt is not None or out is not None else "folder"
    print_rows([{"mixture": written.mixture, what: str(written.path), **written.counts}], as_json=as_json)


@app.command()
def report(
    ref: RefArgument,
    against: Annotated[str | None, typer.Option(
        "--against", help="A mixture to compare with [its parent]", autocompletion=completion.mixtures)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file [report-NAME-VERSION.html]")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Steps of the training whose epochs are shown")] = 1000,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples in a step of that training")] = 64,
    fmt: Annotated[str, typer.Option("--format", help="html; with --chart png or svg")] = "html",
    chart: Annotated[str | None, typer.Option("--chart", help="One chart alone, by name: weights, epochs, …")] = None,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write a mixture's report: one page of charts and tables that opens anywhere, or one chart as a picture."""
    from mixture import jobs

    with open_store(store) as lake:
        result = jobs.report(
            lake, ref, out, against=against, steps=steps, batch_size=batch_size, format=fmt, chart=chart
        )
    row = {"mixture": result.mixture, "against": result.against, "file": str(result.file)}
    if as_json:
        print_json(row | {"charts": list(result.charts)})
    else:
        print_rows([row], as_json=False)


@app.command("import")
def import_mixture(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(
        help="A mixture's JSON, the tDRO release's JSON, or CSV; or the folder of a model that was trained elsewhere")],
    name: Annotated[str | None, typer.Option("--name", help="The mixture's name in this store")] = None,
    data: DataOption = None, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Save the mixture of a file, or the run that a model's folder tells of.

    A mixture may name collections that the store lacks; only training needs them. A run is kept as `train` would have:
    what it drew, and what it scored. It was trained without the store, by `python -m trainers`.
    """
    if file.is_dir():
        if name is not None:
            raise UsageError("--name names a mixture; a run has its own name")
        with open_store(store) as lake:
            trained = ctx.obj.import_run(lake, file)
        from mixture.console.scores import show_trained

        show_trained(asdict(trained), as_json=as_json)
        return
    if name is None:
        raise UsageError("give --name, the mixture's name in this store")
    from mixture import jobs

    with open_store(store, create=True, data=data) as lake:
        imported = jobs.import_(lake, file, name)
        show_mixture(imported, lake, as_json)

"""The commands that bring rows into a store and take some out again; `cli.py` adds them to its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mixture.console import completion
from mixture.console.options import (
    CardsOption,
    DataOption,
    DryRunOption,
    EngineOption,
    JsonOption,
    KeepOption,
    LimitOption,
    PrecisionOption,
    StoreOption,
    UndoOption,
)  # fmt: skip
from mixture.console.options import open_store as _open
from mixture.console.output import print_rows
from mixture.console.progress import bar
from mixture.errors import UsageError

app = typer.Typer()


@app.command()
def ingest(
    sources: Annotated[list[str] | None, typer.Argument(
        help="Files, folders, a folder of collections, patterns, s3:// URIs, hub ids; default: the card's own")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The collection's name")] = None,
    card: Annotated[str | None, typer.Option(
        "--card", help="The collection's datacard", autocompletion=completion.cards)] = None,
    cards: CardsOption = None,
    fmt: Annotated[str | None, typer.Option(
        "--format", help="{mixture.ingest.formats:FORMATS}; default: what the content looks like")] = None,
    columns: Annotated[list[str] | None, typer.Option(
        "--columns", metavar="ROLE=NAME,…", help="Which column is which: query=user_query,positive=doc,negative=bad; "
        "roles: {mixture.ingest.mapping:ROLES}; a name may be a path with dots")] = None,
    min_label: Annotated[float | None, typer.Option(
        "--min-label", help="The lowest label of a positive; default: labels are grades, and 0 is a negative")] = None,
    split: Annotated[str | None, typer.Option(
        "--split", help="Which parts named train, dev, test to read; several with commas, or all")] = None,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="Show how each file would be read, and two of its examples; store nothing")] = False,
    max_rejects: Annotated[str | None, typer.Option(
        "--max-rejects", help="Store nothing when more rows are refused: a number, or a share such as 1%")] = None,
    append: Annotated[bool, typer.Option("--append", help="Keep what a changed file gave before")] = False,
    data: DataOption = None, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Read collections into the store, whatever their format; damaged rows go to the table rejects.

    A file that changed replaces what it gave before, unless --append is given.
    """
    from mixture import jobs
    from mixture.console.ingest import print_preview, print_results

    if dry_run:
        notes: list[str] = []
        with bar("ingest") as progress:
            found = jobs.preview(sources or (), name=name, card=card, cards=cards, format=fmt, columns=columns,
                                 min_label=min_label, split=split, progress=progress, note=notes.append)  # fmt: skip
        print_preview(found, notes, as_json=as_json)
        if any(one.read.rows == one.read.refused for one in found):  # as without --dry-run: nothing read is no success
            raise typer.Exit(1)
        return
    failure = None
    with _open(store, create=True, data=data) as lake, bar("ingest") as progress:
        try:
            results = jobs.ingest(lake, sources or (), name=name, card=card, cards=cards, format=fmt, columns=columns,
                                  min_label=min_label, split=split, max_rejects=max_rejects, append=append,
                                  progress=progress)  # fmt: skip
        except jobs.NothingStored as error:
            results, failure = error.results, error
    print_results(results, as_json=as_json)
    if failure is not None:
        raise failure


@app.command()
def cards(
    name: Annotated[str | None, typer.Argument(
        help="One card, or: new NAME, or: check", autocompletion=completion.cards)] = None,
    new_name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="After new: the new card's name")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="With new: the file or folder to count")] = None,
    out: Annotated[Path, typer.Option("--out", help="With new: where the card goes")] = Path(),
    folder: CardsOption = None,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """List the datacards; show one beside what the store holds; `new NAME --from FILE` writes one; `check` checks all.

    A collection can therefore not be called new or check.
    """
    from mixture.cards import check_cards, load_cards
    from mixture.cards.draft import draft_card, write_card
    from mixture.console import cards

    if name == "new" and new_name is not None and source is not None:
        path = write_card(draft_card(new_name, source), out)
        print_rows([{"card": new_name, "file": str(path), "next": "write prompts, license and text"}], as_json=as_json)
    elif name == "new" or new_name is not None or source is not None:
        raise UsageError("a new card needs a name and its rows: mixture cards new NAME --from FILE_OR_FOLDER")
    elif name == "check":
        cards.show_checked(check_cards(folder), as_json=as_json)
    elif name is None:
        print_rows(cards.listing(load_cards(folder)), as_json=as_json)
    else:
        card = cards.card_of(name, load_cards(folder))
        try:
            with _open(store) as lake:
                facts = cards.facts_of(card, lake)
        except UsageError:
            if store:  # a store that was not asked for may be missing
                raise
            facts = None
        cards.show(card, facts, as_json=as_json)


@app.command()
def dedup(
    ctx: typer.Context,
    collections: Annotated[list[str] | None, typer.Argument(
        help="Default: all; their order is the priority", autocompletion=completion.collections)] = None,
    method: Annotated[str, typer.Option("--method", help="{mixture.dedup.methods:METHODS}")] = "simhash",
    distance: Annotated[int, typer.Option("--distance", help="Bits that may differ, 0 to 7; --verify decides")] = 3,
    key: Annotated[str, typer.Option("--key", help="pair (query and positive), query, or positive")] = "pair",
    verify: Annotated[float, typer.Option("--verify", help="Least n-gram Jaccard similarity; 0 for none")] = 0.8,
    model: Annotated[str | None, typer.Option(
        "--model", help="With semantic: a sentence-transformers model [BAAI/bge-large-en-v1.5]")] = None,
    similarity: Annotated[float | None, typer.Option(
        "--similarity", help="With semantic: least cosine of the embeddings [0.95]")] = None,
    processes: Annotated[int, typer.Option(
        "--processes", help="With semantic: that encode; with several GPUs one each")] = 1,
    across: Annotated[bool, typer.Option("--across", help="Compare the collections with each other too")] = False,
    keep_embeddings: KeepOption = True, precision: PrecisionOption = "float32",
    dry_run: DryRunOption = False, undo: UndoOption = False, limit: LimitOption = 5, engine: EngineOption = "local",
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Take near-equal examples out of each collection; the table removals says which and why."""
    from mixture import jobs
    from mixture.console.removals import show_removals

    if undo and collections:
        raise UsageError("--undo puts back all that the newest dedup took out; leave the collections away")
    with _open(store) as lake, bar("dedup") as progress:
        if undo:
            results = jobs.undo(lake, "dedup", dry_run=dry_run)
        else:
            results = jobs.dedup(lake, collections or (), method=method, distance=distance, key=key,
                                 verify=verify or None, model=model, similarity=similarity,
                                 encoder=partial(ctx.obj.encode_with, processes=processes, engine=engine),
                                 across=across, dry_run=dry_run, engine=engine, progress=progress,
                                 keep_embeddings=keep_embeddings, precision=precision)  # fmt: skip
    show_removals(results, ["duplicate"], dry_run=dry_run, undo=undo, limit=limit, as_json=as_json)


@app.command()
def decontaminate(
    collections: Annotated[list[str] | None, typer.Argument(
        help="Default: all", autocompletion=completion.collections)] = None,
    against: Annotated[list[str] | None, typer.Option(
        "--against", help="A list of test queries, or a suite or its name; default: all that are registered")] = None,
    distance: Annotated[int | None, typer.Option(
        "--distance", help="Edits forgiven at most, also in long queries [16, or as for this suite before]")] = None,
    passages: Annotated[bool | None, typer.Option(
        "--passages/--no-passages", help="Look for test passages in positives [yes, or as before]")] = None,
    passage_overlap: Annotated[float | None, typer.Option(
        "--passage-overlap", help="Least share of a test passage that a positive holds [0.5, or as before]")] = None,
    forget: Annotated[list[str] | None, typer.Option(
        "--forget", help="Unregister this suite, and do nothing else; repeatable")] = None,
    dry_run: DryRunOption = False, undo: UndoOption = False, limit: LimitOption = 5, engine: EngineOption = "local",
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Take out examples whose query is a test query, or nearly, or whose positive holds most of a test passage."""
    from mixture import jobs
    from mixture.console.removals import show_removals

    others = bool(against or collections) or (distance, passages, passage_overlap) != (None, None, None)
    if undo and (others or forget):
        raise UsageError("--undo puts back all that the newest decontaminate took out; it goes with --dry-run alone")
    if forget and (others or dry_run):
        raise UsageError("--forget unregisters suites; it goes with no other option")
    with _open(store) as lake, bar("decontaminate") as progress:
        if forget:
            forgotten = jobs.unregister(lake, forget)
        elif undo:
            results = jobs.undo(lake, "decontaminate", dry_run=dry_run)
        else:
            results = jobs.decontaminate(lake, against or (), collections or (), distance=distance,
                                         passages=passages, passage_overlap=passage_overlap, dry_run=dry_run,
                                         engine=engine, progress=progress)  # fmt: skip
    if forget:
        print_rows([{"forgotten": suite} for suite in forgotten], as_json=as_json)
        return
    reasons = ["test query", "test passage"]
    show_removals(results, reasons, dry_run=dry_run, undo=undo, limit=limit, as_json=as_json)

"""The command that withdraws data, and what it says; `cli.py` adds it to its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixture.console import completion
from mixture.console.options import DryRunOption, JsonOption, StoreOption, UndoOption, open_store
from mixture.console.output import print_json, print_rows
from mixture.console.progress import bar
from mixture.console.sentences import counted, say
from mixture.errors import UsageError

if TYPE_CHECKING:
    from mixture.jobs import Forgetting

app = typer.Typer()
SHOWN = 5
# Of a check, rows that are named.
MOST_ROWS = 10


@app.command()
def forget(
    ctx: typer.Context,
    what: Annotated[str | None, typer.Argument(
        help="A collection, a slice such as xquad[language=zh], or a file of collection, example_id",
        autocompletion=completion.collections)] = None,
    where: Annotated[str | None, typer.Option("--where", help="In place of WHAT: a SQL condition on examples")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Take the rows out, in one step")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="With --apply: why; kept in removals.note")] = None,
    check: Annotated[str | None, typer.Option(
        "--check", metavar="RUN", help="Draw all batches of a run, or of a model's folder, anew, and count forgotten "
        "rows; with WHAT those")] = None,
    dry_run: DryRunOption = False, undo: UndoOption = False, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Say what must be retrained when data is withdrawn; --apply takes it out for good.

    Mixtures that hold such rows are then trained on no more: mixture create NAME --from REF --refresh makes them anew.
    """
    if dry_run and apply:
        raise UsageError("--dry-run reports, --apply takes the rows out; give one of them")
    if check is not None and (apply or undo or dry_run or reason is not None):
        raise UsageError("--check looks at a run; it goes with WHAT or --where alone")
    if undo and dry_run:
        raise UsageError("--undo puts back all that the newest forget took out; it goes alone")
    with open_store(store) as lake, bar("forget") as progress:
        if check is not None:
            found = asdict(ctx.obj.check_forgotten(lake, check, what, where=where, progress=progress))
        else:
            from mixture import jobs

            result = jobs.forget(lake, what, where=where, apply=apply, undo=undo, reason=reason, progress=progress)
    if check is not None:
        _show_check(found, named=what is not None or where is not None, as_json=as_json)
    elif as_json:
        print_json(_plain(result))
    else:
        _show(result)


def _plain(result: Forgetting) -> dict[str, Any]:
    """All of it but the ids, with the runs that must be made again by their ids."""
    found = asdict(result)
    del found["example_ids"]
    return found | {"retrain": [run.run for run in result.retrain]}


def _show(result: Forgetting) -> None:
    total = sum(one.rows + one.out for one in result.collections)
    names = counted(len(result.collections), "collection")
    if result.done == "put back":
        stay = f"; {counted(result.gone, 'row')} that no file gives any more stay out" if result.gone else ""
        say(f"{counted(total, 'row')} of {names} put back{stay}")
        print_rows([{"collection": one.collection, "examples": one.examples, "put_back": one.rows}
                    for one in result.collections], as_json=False)  # fmt: skip
        return
    done = result.done == "forgotten"
    say(f"{counted(total, 'row')} of {names} {'forgotten' if done else 'would be forgotten; --apply does it'}")
    print_rows([{"collection": one.collection, "examples": one.examples, "rows": one.rows, "out already": one.out}
                for one in result.collections], as_json=False)  # fmt: skip
    held = [{"mixture": one.mixture, "id": one.id, "rows": sum(one.held.values()),
             "of": ", ".join(f"{name} {count:,}" for name, count in one.held.items()),
             "learned by": one.learned_by or ""} for one in result.mixtures if one.held]  # fmt: skip
    print_rows(held, as_json=False, title=f"mixtures that hold them, and {'are' if done else 'would be'} refused",
               drop=("id", "learned by"), lines=1)  # fmt: skip
    runs = [{"run": one.run, "kind": one.kind, "rows": one.rows, "draws": _between(one.at_least, one.at_most),
             "steps": one.steps, "batch size": one.batch_size,
             "seconds": None if one.seconds is None else round(one.seconds),
             "model": one.model or ""} for one in result.retrain]  # fmt: skip
    print_rows(runs, as_json=False, title="runs to make again: models and weights that may depend on them",
               drop=("batch size", "kind"), lines=1)  # fmt: skip
    sys.stdout.writelines(f"{line}\n" for line in _lines(result))


def _between(least: int | None, most: int | None) -> str:
    if least is None or most is None:
        return "not kept"
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _lines(result: Forgetting) -> Iterator[str]:
    done = result.done == "forgotten"
    if result.models:
        yield f"models that were evaluated and depend on them: {', '.join(result.models)}"
    if unknown := [f"{one.mixture} ({', '.join(one.unknown)})" for one in result.mixtures if one.unknown]:
        yield f"cannot be told, since the store never held the contents: {', '.join(unknown[:SHOWN])}"
    own = [one.collection for one in result.collections]
    for one in result.copies[:SHOWN]:
        yield (f"{one.collection} has rows with the same texts, which stay: {one.same_query:,} with an equal query, "
               f"{one.same_positive:,} with an equal positive, {one.as_negative:,} with it as a negative")  # fmt: skip
    if result.copies and not done:
        names = dict.fromkeys([*own, *(one.collection for one in result.copies)])
        yield f"look at near copies with: mixture dedup {' '.join(names)} --across --dry-run"
    if result.deleted:
        yield f"deleted: {counted(len(result.deleted), 'file')} of the store's folder that held the rows"
    if result.embeddings:
        yield (f"vectors of their texts may be in {counted(len(result.embeddings), 'folder')} of kept embeddings, as "
               f"{result.embeddings[0]}; delete these to be rid of them")  # fmt: skip
    refs = [one.mixture for one in result.mixtures if one.held]
    if refs:
        step = f"mixture create NAME --from {refs[0]} --refresh"
        yield f"next: {step}, then train again{'' if done else ', after --apply'}"


def _show_check(found: dict[str, Any], *, named: bool, as_json: bool) -> None:
    """named: the rows were said, and need not be forgotten."""
    if as_json:
        print_json(found)
        return
    rows = counted(found["rows"], "such row" if named else "forgotten row")
    say(f"{counted(found['steps'], 'batch')} of run {found['run']}, {counted(found['draws'], 'row')} drawn: "
        f"{counted(found['drawn'], 'draw')} of {rows}")  # fmt: skip
    sys.stdout.write(f"{found['compared']:,} of the batches are as the run recorded them; its mixtures hold "
                     f"{found['held']:,} of the rows\n")  # fmt: skip
    sys.stdout.write(
        f"draws of other rows with their texts ({found['with_texts']:,} of {found['rows']:,} are known): "
        f"{found['same_query']:,} with an equal query, {found['same_positive']:,} with an equal positive, "
        f"{found['same_negative']:,} negatives\n"
    )
    if found["by_row"]:
        print_rows(found["by_row"][:MOST_ROWS], as_json=False, title="the rows drawn most")

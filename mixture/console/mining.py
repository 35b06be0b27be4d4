"""The command that mines hard negatives; `cli.py` adds it to its own."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from mixture.console import completion, sentences
from mixture.console.options import (
    DryRunOption,
    EngineOption,
    JsonOption,
    KeepOption,
    PrecisionOption,
    ReportOption,
    SeedOption,
    StoreOption,
    UndoOption,
    assigned,
    open_store,
    span,
)
from mixture.console.output import print_rows
from mixture.console.progress import bar
from mixture.console.sentences import say
from mixture.console.terminal import in_options
from mixture.errors import UsageError

app = typer.Typer()


@app.command()
def mine(
    ctx: typer.Context,
    collections: Annotated[list[str] | None, typer.Argument(
        help="Default: all that have no negatives, or none of the name of --as",
        autocompletion=completion.collections)] = None,
    miner: Annotated[str, typer.Option(
        "--miner", help="{mixture.mining:MINERS}, or a sentence-transformers model for dense; dense and both alone are "
        "with BGE-large-en-1.5")] = "bm25",
    per_query: Annotated[int, typer.Option("--per-query", "--negatives", help="Negatives for each example")] = 8,
    depth: Annotated[int, typer.Option("--depth", help="Candidates looked at for each example")] = 100,
    max_ratio: Annotated[float | None, typer.Option(
        "--max-ratio", help="Most of the positive's score that a negative may have; 0 for any "
        "[0.95 with a model, bm25 any]")] = None,
    ranks: Annotated[str | None, typer.Option(
        "--ranks", help="10:100 for candidates after the first 10 and up to the 100th")] = None,
    margin: Annotated[float | None, typer.Option(
        "--margin", help="Least that a negative's score lies below the positive's")] = None,
    min_score: Annotated[float | None, typer.Option("--min-score", help="Least score of a negative")] = None,
    max_score: Annotated[float | None, typer.Option("--max-score", help="Most score of a negative")] = None,
    sample: Annotated[str, typer.Option(
        "--sample", help="Of the candidates that remain the best (top), or any (random)")] = "top",
    rescore: Annotated[str | None, typer.Option(
        "--rescore", help="A cross-encoder that scores the candidates anew; filters see its scores")] = None,
    judge: Annotated[str | None, typer.Option(
        "--judge", metavar="COMMAND", help="A program that reads JSON lines of query and passage and writes keep, drop "
        "or positive for each")] = None,
    pool: Annotated[list[str] | None, typer.Option(
        "--pool", help="Look in the passages of this collection too, or of a folder with a corpus.jsonl; repeatable",
    )] = None,
    name: Annotated[str | None, typer.Option(
        "--as", metavar="NAME", help="Keep it under this name, beside what the miner found before")] = None,
    processes: Annotated[int, typer.Option("--processes", help="That encode; with several GPUs one each")] = 1,
    filters: Annotated[list[str] | None, typer.Option(
        "--filter", help="NAME=VALUE, repeatable; VALUE none for none: {mixture.mining:FILTERS}")] = None,
    fill_random: Annotated[bool, typer.Option(
        "--fill-random/--no-fill-random", help="Random passages where the miner finds too few")] = True,
    replace: Annotated[bool, typer.Option(
        "--replace", help="Every example anew, in place of what this miner found; so are named collections")] = False,
    keep_embeddings: KeepOption = True, precision: PrecisionOption = "float32",
    index: Annotated[str, typer.Option(
        "--index", help="Search of a model's embeddings: {mixture.embeddings:INDEXES}; "
        "faiss:FACTORY, as faiss:IVF1024,Flat")] = "exact",
    dry_run: DryRunOption = False, undo: UndoOption = False, page: ReportOption = None,
    seed: SeedOption = None, engine: EngineOption = "local", store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Find hard negatives, with BM25 or with an encoder."""
    from mixture import jobs
    from mixture.jobs.mine import remarks

    if undo and (collections or replace or page):
        raise UsageError("--undo takes back all of the newest mine; it goes with --dry-run alone")
    with open_store(store) as lake, bar("mine") as progress:
        if undo:
            print_rows([asdict(r) for r in jobs.undo_mining(lake, dry_run=dry_run)], as_json=as_json,
                       title="would be taken back" if dry_run else None)  # fmt: skip
            return
        given = [*(filters or ()), *([] if max_ratio is None else [f"max_ratio={max_ratio or 'none'}"])]
        named = {"margin": margin, "min_score": min_score, "max_score": max_score}
        given += [f"{name}={value!r}" for name, value in named.items() if value is not None]
        results = jobs.mine(lake, collections or (), miner=miner, per_query=per_query, depth=depth,
                            ranks=span("--ranks", ranks), sample=sample, filters=assigned(given),
                            encoder=partial(ctx.obj.encode_with, processes=processes, engine=engine), rescore=rescore,
                            rescorer=ctx.obj.rescore_with, judge=judge,
                            pool=pool or (), name=name, fill_random=fill_random, seed=42 if seed is None else seed,
                            replace=replace, dry_run=dry_run, engine=engine, progress=progress,
                            keep_embeddings=keep_embeddings, precision=precision, index=index)  # fmt: skip
    rows = [result.row for result in results]
    if not (as_json or dry_run):
        say(sentences.mined(rows, name or miner, had_none=not collections))
    if not as_json:
        rows = [row | {"dropped": ", ".join(f"{n} {c:,}" for n, c in row["dropped"].items() if c)} for row in rows]
        if all(row["recall"] is None for row in rows):
            rows = [{name: value for name, value in row.items() if name != "recall"} for row in rows]
    if rows or as_json:
        print_rows(rows, as_json=as_json, title="would be mined" if dry_run else None)
    if page is not None:
        (sys.stderr if as_json else sys.stdout).write(f"report {jobs.mining_report(results, page, dry_run=dry_run)}\n")
    sys.stderr.writelines(f"{in_options(line)}\n" for line in remarks(results, per_query))

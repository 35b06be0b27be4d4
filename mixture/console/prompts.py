"""The command that chooses a prompt, and how it says what it chose; `cli.py` adds it to its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixture.console.options import JsonOption, StoreOption, open_store
from mixture.console.output import print_json
from mixture.console.progress import stages
from mixture.console.sentences import counted
from mixture.errors import UsageError

app = typer.Typer()
# Suites named of an adversary's weights, and letters of a prompt in a table.
NAMED, LETTERS = 2, 70


@app.command()
def prompts(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="One dense model by folder or name")],
    suite: Annotated[list[str] | None, typer.Option(
        "--suite", help="What it is chosen on: a folder in BEIR layout, one of such, or a name; repeatable")] = None,
    candidates: Annotated[list[str] | None, typer.Option(
        "--candidates", help="A file of prompts, one a line as it stands; .json: a list; .jsonl: a text or "
        '{"prompt": …} a line; or the word cards: those of the datacards; repeatable')] = None,
    half: Annotated[str, typer.Option(
        "--half", help="learn or all: the queries it is chosen on. A choice is a kind of training: report stays for "
        "the report")] = "learn",
    report: Annotated[list[str] | None, typer.Option(
        "--report", help="Other suites, to say what it brings there; repeatable [the report half of --suite]")] = None,
    objective: Annotated[str, typer.Option(
        "--objective", help="worst: the mean over suites if others counted more; mean; or least: of a single suite"
    )] = "worst",
    radius: Annotated[float, typer.Option(
        "--radius", help="With worst: how far the weights of suites may be from equal ones, in nats")] = 0.1,
    raw: Annotated[bool, typer.Option(
        "--raw", help="Worst and least of scores as such, where the hardest suite decides [of gains over no prompt]"
    )] = False,
    first_queries: Annotated[int, typer.Option(
        "--first-queries", help="Of each suite that all prompts are asked for; then the worse half goes, the others "
        "are asked for twice as many, and so on; 0: all at once")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="With --first-queries: which these are")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="A new folder for a copy of the model with it")] = None,
    processes: Annotated[int, typer.Option("--processes", help="That encode, one a GPU where there are some")] = 1,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Choose what stands before a model's queries, for the worst case over suites, and report on others.

    No prompt and the model's own are always candidates. A corpus is encoded once. Killed, the same command goes on.
    """
    if not suite:
        raise UsageError("name the suites to choose on: --suite FOLDER or NAME, repeatable")
    with open_store(store) as lake, stages("texts") as stage:
        found = ctx.obj.prompts(lake, model, suite, candidates=candidates or (), half=half, report=report or (),
                                objective=objective, radius=radius, relative=not raw, first_queries=first_queries,
                                seed=seed, out=out, processes=processes, stage=stage)  # fmt: skip
    show_choice(found.as_rows(), as_json=as_json)


def show_choice(found: Mapping[str, Any], *, as_json: bool, console: Console | None = None) -> None:
    """A choice (`trainers.PromptChoice.as_rows`): the candidates, the chosen one by suite, and the lines under them.
    Scores times 100."""
    if as_json:
        print_json(found)
        return
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    console.print(_candidates(found))
    console.print(_by_suite(found))
    for line in lines(found):
        console.print(Text(line))


def lines(found: Mapping[str, Any]) -> list[str]:
    """What was chosen, what that brings where it was chosen and elsewhere, and how to use it."""
    best, others = found["prompts"][0], len(found["prompts"]) - 1
    said = [f"chosen: {best['prompt']!r} ({', '.join(best['sources'])})"]
    if best["prompt"]:
        said.append(f"where it was chosen: {100 * best['gain']:+.2f} over no prompt; the best of {others + 1}, so that "
                    "some of it is luck")  # fmt: skip
    whole = [gain for gain in found["gains"] if gain["num_suites"] > 1 or len(found["reported_on"]) == 1]
    where = counted(len(found["reported_on"]), "suite")
    said += [f"on {where} where it was not: {_gain(gain)}" for gain in whole]
    if not found["gains"]:
        said.append("no other one does better, so that there is no gain to report")
    said.append(f"for a datacard: {found['card_line']}"
                + (f"  (trained with --set query_template={found['query_template']!r})"
                   if found["query_template"] else ""))  # fmt: skip
    if found["out"] is not None:
        said.append(f"the model with it: {found['out']}")
        if not best["prompt"]:
            said.append("a training of it puts none before queries with --set query_template=none")
    return said


def _gain(gain: Mapping[str, Any]) -> str:
    interval = "" if gain["low"] is None else f" [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
    p = f"p = {gain['p']:.2g}" if gain["p"] >= 0.001 else "p < 0.001"
    return (f"{100 * gain['score']:.2f}, {100 * gain['gain']:+.2f}{interval} against {gain['against']} "
            f"({counted(gain['num_queries'], 'query')}, {p})")  # fmt: skip


def _candidates(found: Mapping[str, Any]) -> Table:
    what = "scores" if not found["relative"] else "gains over no prompt"
    table = Table(title=f"nDCG@10; worst ({found['radius']:g} nats) and least of {what}", title_justify="left")
    table.add_column("prompt", overflow="fold")
    table.add_column("from", overflow="fold")
    for column in ("queries", "mean", "worst", "least"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("heaviest in the worst case", overflow="fold")
    sign = "+" if found["relative"] else ""
    for one in found["prompts"]:
        heaviest = sorted(one["weights"].items(), key=lambda item: -item[1])[:NAMED]
        told = one["dropped"] or ", ".join(f"{name} {weight:.2f}" for name, weight in heaviest)
        text = one["prompt"] if len(one["prompt"]) <= LETTERS else one["prompt"][: LETTERS - 1] + "…"
        table.add_row(
            Text(repr(text)), Text(_sources(one["sources"])), f"{one['num_queries']:,}", f"{100 * one['mean']:.2f}",
            f"{100 * one['worst']:{sign}.2f}", f"{100 * one['least']:{sign}.2f}", Text(told),
        )  # fmt: skip
    return table


def _sources(sources: Sequence[str]) -> str:
    more = f", {len(sources) - NAMED} more" if len(sources) > NAMED else ""
    return ", ".join(sources[:NAMED]) + more


def _by_suite(found: Mapping[str, Any]) -> Table:
    best = found["prompts"][0]
    none = next(one for one in found["prompts"] if not one["prompt"])
    table = Table(title="the chosen prompt, where it was chosen", title_justify="left")
    table.add_column("suite", overflow="fold")
    for column in ("no prompt", "chosen", "gain", "weight in the worst case"):
        table.add_column(column, justify="right")
    for suite in found["suites"]:
        before, after = none["scores"][suite], best["scores"][suite]
        table.add_row(Text(suite), f"{100 * before:.2f}", f"{100 * after:.2f}", f"{100 * (after - before):+.2f}",
                      f"{best['weights'][suite]:.3f}")  # fmt: skip
    return table

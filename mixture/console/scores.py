"""What a model scored on suites, and what a training made, as tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixture.console import sentences
from mixture.console.output import print_json, print_rows
from mixture.console.sentences import say

# Least width of a suite's name; what says less goes before a name is cut further.
NAME = 16
SPARE = ("seconds", "documents", "queries")


def show_trained(made: Mapping[str, Any], *, as_json: bool) -> None:
    """What a training made: the fields of `trainers.Trained`, and tables of its held-out loss and its
    scores where it was evaluated."""
    if as_json:
        print_json([made])
        return
    before = made["finished_at"]
    if before is not None:
        sys.stdout.write(f"already finished (run {made['run']}, {before.astimezone():%Y-%m-%d %H:%M})\n")
    told = {k: v for k, v in made.items() if k not in ("scores", "finished_at", "held_out", "phases")}
    if made["phases"]:
        told["mixture"] = ", ".join(f"{phase['mixture']}:{phase['steps']}" for phase in made["phases"])
    print_rows([told], as_json=False)
    if made["held_out"]:
        print_rows(made["held_out"], as_json=False, title="loss on held-out rows, before training and after")
    if made["scores"]:
        show_scores(made["scores"], f"searched: {', '.join(sorted({row['corpus'] for row in made['scores']}))}")


def show_soup(made: Mapping[str, Any], *, as_json: bool) -> None:
    """What a soup is made of: the fields of `trainers.Soup`."""
    if as_json:
        print_json([made])
        return
    say(sentences.averaged(made))
    print_rows(made["models"], as_json=False)


def show_shrunk(made: Mapping[str, Any], *, as_json: bool) -> None:
    """A smaller model, what removals cost, and whom: the fields of `trainers.Shrunk`."""
    if as_json:
        print_json([made])
        return
    say(sentences.shrunk(made))
    if not made["curve"]:
        return
    whole = made["curve"][0]["loss"]
    curve = [
        {"layers": made["num_layers"] - len(one["removed"]), "left out": ", ".join(map(str, one["removed"])) or "none",
         "loss": f"{one['loss']:.4f}", "rise": f"{one['loss'] - whole:+.4f}"}
        for one in made["curve"]
    ]  # fmt: skip
    print_rows(curve, as_json=False, title="the best found of each number of layers, loss in nats")
    rows = [
        {"collection": row["collection"], "weight": f"{row['weight']:.3f}", "rows": row["rows"],
         "before": f"{row['before']:.4f}", "after": f"{row['after']:.4f}"}
        | ({"depends most on layer": row["layer"], "without it": f"{row['rise']:+.4f}"} if "layer" in row else {})
        for row in made["collections"]
    ]  # fmt: skip
    print_rows(rows, as_json=False, title=f"the saved model: {made['loss']:.4f}")


def show_scores(results: Sequence[Mapping[str, Any]], caption: str, console: Console | None = None) -> None:
    """The table of `score_table` as wide as the terminal; under it what a reader must know of the numbers, and the
    prompts that queries had."""
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    console.print(score_table(results, console.width))
    console.print(Text(caption))
    for prompt in dict.fromkeys(result["prompt"] for result in results if result["prompt"]):
        names = [result["suite"] for result in results if result["prompt"] == prompt]
        # repr, because prompts hold line breaks and end in spaces that matter.
        console.print(Text(f"query prompt {prompt!r}: {', '.join(names)}"))


def score_table(results: Sequence[Mapping[str, Any]], width: int) -> Table:
    """One row a suite and, for two or more, their unweighted mean; also that of suites whose collection was trained on
    ("own") and of the others, where there are both. Scores times 100, as the field prints them.

    results: the fields of `trainers.evaluation.evaluate.SuiteResult` by name; `seconds` may be missing
    width:   of the terminal. Names of suites keep `NAME` letters: where that is too much, the columns of `SPARE` are
             left out one by one
    """
    metrics = list(dict.fromkeys(name for result in results for name in result["metrics"]))
    columns = ["documents", "queries", *metrics, *["seconds"] * any("seconds" in result for result in results)]
    longest = max((len(result["suite"]) for result in results), default=0)
    for spare in SPARE:
        if _width(columns) + min(NAME, longest) + 4 <= width:
            break
        columns = [column for column in columns if column != spare]
    table = Table()
    table.add_column("suite", overflow="fold", min_width=min(NAME, longest, max(5, width - _width(columns) - 4)))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for result in results:
        table.add_row(Text(result["suite"]), *(_cell(result, column) for column in columns))
    own = [result for result in results if result.get("own")]
    others = [result for result in results if not result.get("own")]
    means = [("suites", results)] * (len(results) > 1) + [("own", own), ("others", others)] * bool(own and others)
    if means:
        table.add_section()
    for what, part in means:
        values = {name: [r["metrics"][name] for r in part if name in r["metrics"]] for name in metrics}
        mean = {"metrics": {name: sum(found) / len(found) for name, found in values.items() if found}}
        mean |= {"seconds": sum(r["seconds"] for r in part)} if "seconds" in columns else {}
        count = len(part) if all(len(found) == len(part) for found in values.values() if found) else "the"
        table.add_row(f"mean of {count} {what}", *(_cell(mean, column) for column in columns), style="bold")
    return table


def _width(columns: Sequence[str]) -> int:
    """Of these columns with their borders; numbers are narrower than their headings."""
    return sum(len(column) + 3 for column in columns)


def _cell(result: Mapping[str, Any], column: str) -> str:
    if "@" in column or column in result["metrics"]:
        value = result["metrics"].get(column)  # a suite of answers has other metrics than one of documents
        return "" if value is None else f"{100 * value:.2f}"
    if column == "seconds":
        return f"{result['seconds']:.1f}"
    number = result.get(f"num_{column}")
    return "" if number is None else f"{number:,}"


def show_verdict(verdict: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """A verdict (`trainers.Verdict.as_rows`): its suites as a table, scores times 100, and under it the lines."""
    if as_json:
        print_json(dict(verdict) | {"line": lines[-1]})
        return
    table = Table(title=f"{verdict['metric']}, {len(verdict['seeds'])} models of each mixture", title_justify="left")
    table.add_column("suite", overflow="fold")
    for column in ("queries", verdict["mixture"], verdict["against"], "difference", "±", "p", "p (Holm)"):
        table.add_column(Text(column), justify="right")
    for row in verdict["suites"]:
        scores = (f"{100 * row['ours']:.2f}", f"{100 * row['theirs']:.2f}", f"{100 * row['difference']:+.2f}",
                  f"{100 * row['error']:.2f}", f"{row['p']:.2g}", f"{row['p_holm']:.2g}")  # fmt: skip
        name = row["suite"] + (" (own)" if row["own"] else "")
        table.add_row(Text(name), f"{row['num_queries']:,}", *scores)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def show_ablation(ablation: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """An ablation (`trainers.Ablation.as_rows`): a row a collection, what its kinds of evidence say, and the lines."""
    if as_json:
        print_json(dict(ablation) | {"lines": list(lines)})
        return
    by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in sorted(ablation["effects"], key=lambda one: one["kind"] not in ("trained", "together")):
        by_name.setdefault(one["collection"], {})[one["kind"]] = one
    table = Table(title="effect of each collection: nDCG@10 with it less without it, times 100", title_justify="left")
    table.add_column("collection", overflow="fold")
    for column in ("held out", "merged", "effect", "±", "p (Holm)", "without own suites", "says"):
        table.add_column(Text(column), justify="left" if column == "says" else "right")
    for name, kinds in by_name.items():
        unseen, merged = kinds.get("held out"), kinds.get("merged")
        trained = kinds.get("trained") or kinds.get("together") or {}
        p = trained.get("p_holm") if "trained" in kinds else trained.get("p")
        says = [found["says"] for found in (unseen, trained) if found and found["says"]]
        table.add_row(
            Text(name), "" if unseen is None else f"{100 * unseen['effect']:.0f} %",
            "" if merged is None else f"{merged['effect']:+.4f}", *(
                "" if value is None else f"{100 * value:{sign}.2f}"
                for value, sign in ((trained.get("effect"), "+"), (trained.get("error"), ""))),
            "" if p is None else f"{p:.2g}",
            "" if (other := trained.get("without_own")) is None else f"{100 * other:+.2f}", Text(", ".join(says)),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    sys.stdout.write("".join(f"{line}\n" for line in lines))

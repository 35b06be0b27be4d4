"""The demo: the whole job on the embedded fixtures, through the same commands a user types."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mixture.console import sentences
from mixture.console.sentences import say
from mixture.errors import MixtureError, UsageError
from mixture.fixtures import write_fixtures

# Runs one command of the command line, in this process.
Invoke = Callable[[Sequence[str]], Any]

# A pretrained table of token vectors, which learns in seconds; and a language model's shape with random weights.
MODEL, SECOND = "static", "tiny-qwen2"
SECOND_STEPS = 20
MARK = ".mixture-demo"
BATCH = 64
RECIPE = """# Settings of the demo: the recipe static, with steps and negatives for small collections.
extends = "static"
steps = {steps}
batch_size = {batch}
negatives = {negatives}
"""
TDRO_RECIPE = """weights_learning_rate = 0.1  # a fifth of the paper's steps, five times its rate
"""


def run_demo(invoke: Invoke, folder: Path, *, steps: int) -> None:
    """Make `folder` anew and run the job in it, printing each command and its result in a line or two."""
    _clear(folder)
    started = time.perf_counter()
    write_fixtures(folder)
    train_recipe, tdro_recipe = folder / "train.toml", folder / "tdro.toml"
    train_recipe.write_text(RECIPE.format(steps=steps, batch=BATCH, negatives=1), "utf-8")
    tdro_recipe.write_text(RECIPE.format(steps=steps, batch=BATCH, negatives=3) + TDRO_RECIPE, "utf-8")
    os.environ["MIXTURE_STORE"] = str(folder / "store")
    say(f"fixtures of 25 collections and their held-out suites are in {folder}")
    say(f"\n$ export MIXTURE_STORE={folder}/store")
    run = _Runner(invoke)
    raw, suites = str(folder / "raw"), str(folder / "eval")

    say(sentences.ingested(run("ingest", raw)))
    say(sentences.removed(run("dedup"), "near-duplicate"))
    say(sentences.removed(run("decontaminate", "--against", str(folder / "test_queries.jsonl")), "test query"))
    say(sentences.mined(run("mine"), "bm25", had_none=True))
    say(sentences.made(run("create", "uniform", "--uniform")))

    learned = run("learn-weights", "--mix", "uniform", "--proxy", MODEL, "--name", "tdro", "--config", str(tdro_recipe))
    say(sentences.made(learned))
    say(sentences.made(run("select", "tdro", "--top", "70", "--name", "top70")))

    scores = {MODEL: _scored(run("evaluate", MODEL, "--suite", suites))}
    for name in ("uniform", "tdro"):
        out = str(folder / "models" / name)
        trained = run("train", "--mix", name, "--model", MODEL, "--out", out, "--config", str(train_recipe))[0]
        say(sentences.trained(trained))
        scores[name] = _scored(run("evaluate", out, "--suite", suites))

    out = str(folder / "models" / SECOND)
    trained = run("train", "--mix", "tdro", "--model", SECOND, "--out", out, "--config", "laptop",
                  "--steps", str(min(steps, SECOND_STEPS)))[0]  # fmt: skip
    say(f"{sentences.trained(trained)}; so few steps of random weights only show that language models train alike")

    report = run("report", "tdro", "--against", "uniform", "--out", str(folder / "report.html"),
                 "--steps", str(steps), "--batch-size", str(BATCH))  # fmt: skip
    say(f"weights, losses, epochs and scores with their charts: open {report['file']}")

    query = ("SELECT collection, round(weight, 4) AS weight FROM mixture_weights "
             f"WHERE mixture = '{learned['id']}' ORDER BY weight DESC")  # fmt: skip
    rows = run("sql", query)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(_weight_table(rows), _score_table(scores))
    say(f"the whole job took {time.perf_counter() - started:.0f} s; look around with: "
         f"mixture --store {folder}/store sql 'show tables'")  # fmt: skip


def _scored(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """nDCG@10 by suite; their mean is said."""
    say(sentences.evaluated(results))
    return {row["suite"]: row["metrics"]["ndcg@10"] for row in results}


class _Runner:
    """Shows a command, runs it with --json, gives its result."""

    def __init__(self, invoke: Invoke) -> None:
        self.invoke = invoke

    def __call__(self, *arguments: str) -> Any:
        say(f"\n$ mixture {' '.join(_quoted(a) for a in arguments)}")
        with _captured() as printed:
            code = self.invoke([*arguments, "--json"])
        if code:
            raise MixtureError(f"`mixture {arguments[0]}` ended with exit code {code}")
        return json.loads(printed.getvalue())


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield printed


def _clear(folder: Path) -> None:
    """Remove an earlier demo; anything else in the way is the user's, and stays."""
    if folder.exists():
        if not (folder / MARK).is_file() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty and not an earlier demo; name another with --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def _weight_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="learned weights (uniform: 0.0400)", title_justify="left")
    table.add_column("collection")
    table.add_column("weight", justify="right")
    table.add_column("")
    heaviest = max(row["weight"] for row in rows)
    for row in rows:
        table.add_row(row["collection"], f"{row['weight']:.4f}", "█" * round(30 * row["weight"] / heaviest))
    return table


def _score_table(scores: dict[str, dict[str, float]]) -> Table:
    """scores: model -> suite -> nDCG@10; the last two are compared."""
    table = Table(title="nDCG@10 on held-out fixture queries", title_justify="left")
    table.add_column("suite")
    for name in (f"{MODEL}, untrained", *list(scores)[1:], "difference"):
        table.add_column(name, justify="right")
    models = list(scores.values())
    for suite in models[0]:
        table.add_row(suite, *_scores([model[suite] for model in models]))
    table.add_section()
    table.add_row("mean", *_scores([_mean(model) for model in models]))
    return table


def _scores(values: Sequence[float]) -> list[str]:
    return [*(f"{100 * value:.1f}" for value in values), f"{100 * (values[-1] - values[-2]):+.1f}"]


def _mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def _quoted(argument: str) -> str:
    return f'"{argument}"' if " " in argument else argument

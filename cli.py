"""The `mixture` command: parse, call, print. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mixture import registry
from mixture.console import completion, sentences
from mixture.console.collections import app as collection_commands
from mixture.console.coreset import app as coreset_commands
from mixture.console.create import app as making_commands
from mixture.console.data import app as data_commands
from mixture.console.forget import app as withdrawing_commands
from mixture.console.mining import app as mining_commands
from mixture.console.mixtures import app as artifact_commands
from mixture.console.mixtures import show_mixture as _show
from mixture.console.models import app as model_commands
from mixture.console.options import (
    JsonOption,
    SeedOption,
    StoreOption,
)
from mixture.console.options import open_store as _open
from mixture.console.output import print_json, print_rows, print_table
from mixture.console.progress import stages
from mixture.console.prompts import app as prompt_commands
from mixture.console.sentences import say
from mixture.console.suites import app as suite_commands
from mixture.console.terminal import PlainErrors, WithSettings
from mixture.errors import UsageError
from mixture.progress import quiet
from mixture.store.limits import Limits, parse_bytes

if TYPE_CHECKING:
    from trainers.settings import TrainingSettings

S = TypeVar("S", bound="TrainingSettings")
# Jobs, cards and models are imported by the commands that need them: they take longer to load than most answers.
app = typer.Typer(
    cls=PlainErrors, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which training data, in what proportion? Measured, versioned mixtures for dense retrievers.",
)  # fmt: skip

ConfigOption = Annotated[str | None, typer.Option(
    "--config", help="Settings: a shipped recipe (paper, laptop, llama3-8b, ...) or a TOML file")]  # fmt: skip
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting: name=value, repeatable")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Training steps")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", help="Examples in a step")]
SuiteOption = Annotated[list[str] | None, typer.Option(
    "--suite", help="A folder in BEIR layout, one of such, or a name, as beir/nfcorpus")]  # fmt: skip
HalfOption = Annotated[str | None, typer.Option(
    "--half", help="learn or report: the queries of that half of each suite [all]")]  # fmt: skip
RateOption = Annotated[float | None, typer.Option("--learning-rate", help="Peak learning rate of the model")]
ShowOption = Annotated[bool, typer.Option("--settings", help="Show all settings with --config and --set applied")]


app.add_typer(data_commands)
app.add_typer(withdrawing_commands)
app.add_typer(mining_commands)
app.add_typer(collection_commands)
app.add_typer(making_commands)
app.add_typer(coreset_commands)
app.add_typer(artifact_commands)
app.add_typer(suite_commands)
app.add_typer(model_commands)
app.add_typer(prompt_commands)


def _settings(
    kind: type[S], config: str | None, options: dict[str, Any], assigned: list[str] | None, *, show: bool, as_json: bool
) -> S:  # fmt: skip
    """The settings of a training command, from its recipe, options and --set; with --settings they are shown, and the
    command ends."""
    from mixture.console.settings import show_settings
    from trainers.settings import resolve, table

    resolved = resolve(kind, config, options, assigned or ())
    if show:
        show_settings(table(resolved), as_json=as_json)
        raise typer.Exit
    return resolved


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"mixture {version('retrieval-mixture')}\n")
        raise typer.Exit


class _Models:
    """The functions of `trainers` by name, for commands of the data side, which knows no model; loaded when called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            import trainers

            return getattr(trainers, name)(*given, **more)

        return call


@app.callback()
def main(
    ctx: typer.Context, store: StoreOption = None, as_json: JsonOption = False,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True,
                                          help="Show the version and leave")] = False,
    cache: Annotated[Path | None, typer.Option(
        "--cache", help="Where this machine keeps what can be made again, of a store that is elsewhere [$MIXTURE_CACHE]"
    )] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error")] = False,
) -> None:  # fmt: skip
    """What stands before a command's name; `PlainErrors` hands --store and --json on to the command."""
    if cache is not None:
        os.environ["MIXTURE_CACHE"] = str(cache.expanduser().resolve())  # the processes of a job find it too
    ctx.obj = _Models()


@app.command("learn-weights", cls=WithSettings)
def learn_weights(
    mix: Annotated[str, typer.Option(
        "--mix", help="The mixture whose collections are weighed", autocompletion=completion.mixtures)],
    proxy: Annotated[str, typer.Option(
        "--proxy", help="The proxy model; static is a small table, tiny-qwen2 is built from the data")],
    name: Annotated[str, typer.Option("--name", help="The new mixture's name")] = "tdro",
    reference: Annotated[str | None, typer.Option("--reference", help="Default: the proxy, trained first")] = None,
    target: Annotated[list[str] | None, typer.Option(
        "--target", help="A suite, its name, or a folder of such, whose learn half is learned towards; repeatable"
    )] = None,
    holdout: Annotated[float | None, typer.Option(
        "--holdout", help="Share of each collection's rows held out, as one more target each [0]")] = None,
    base: Annotated[str | None, typer.Option(
        "--base", help="A mixture to stay near: chi2, cvar, drpruning, kl, and what looks at a target",
        autocompletion=completion.mixtures)] = None,
    reuse: Annotated[str | None, typer.Option(
        "--reuse", help="A mixture learned before some collections came or changed: the others keep its proportions "
        "(search)", autocompletion=completion.mixtures)] = None,
    algorithm: Annotated[str | None, typer.Option(
        "--algorithm", help="{trainers.learning.learners:LEARNERS} [tdro]")] = None,
    weights: Annotated[str | None, typer.Option(
        "--weights", help="Which become the mixture: current, mean, ema or all [the algorithm's own]")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs; the mixture is their mean [1]")] = None,
    then_verdict: Annotated[bool, typer.Option(
        "--verdict", help="Then train the proxy on both mixtures, 3 times each, and say whether the new one is ahead, "
        "on --suite or the target's other half")] = False,
    suite: Annotated[list[str] | None, typer.Option("--suite", help="With --verdict; repeatable")] = None,
    config: ConfigOption = None, steps: StepsOption = None, batch_size: BatchOption = None,
    learning_rate: RateOption = None, seed: SeedOption = None, settings: SetOption = None,
    show_settings: ShowOption = False, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Learn a weight for each collection with a small proxy model (tDRO and others); saves a new mixture."""
    import trainers

    options = {"algorithm": algorithm, "average": weights, "holdout": holdout, "seeds": seeds, "steps": steps,
               "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}  # fmt: skip
    resolved = _settings(trainers.LearningSettings, config, options, settings, show=show_settings, as_json=as_json)
    if (suite or then_verdict) and not (then_verdict and (suite or target)):
        raise UsageError("--verdict needs --suite or --target, and --suite goes with --verdict")
    from mixture.console.learning import watching
    from mixture.console.scores import show_verdict
    from trainers.parallel.ranks import is_main

    with _open(store) as lake:
        with watching() if is_main() else nullcontext((quiet, None)) as (stage, watch):
            learned = trainers.learn_weights(lake, mix, proxy=proxy, name=name, reference=reference, base=base,
                                             reuse=reuse, target=target or (), settings=resolved, stage=stage,
                                             watch=watch)  # fmt: skip
            told = None
            if then_verdict and learned.first.spec.id != registry.resolve(lake, mix).spec.id:
                told = trainers.verdict(lake, learned.first, mix, proxy, suite or target or (), stage=stage,
                                        half="report" if target else None,
                                        settings=resolved.of_fine_tuning)  # fmt: skip
        if not is_main():
            return
        if as_json:
            others = [made.reference for made in learned.mixtures[1:]]
            found = {"also": others, "learning": learned.facts}
            found |= {"verdict": told.as_rows() | {"line": told.lines[-1]}} if told else {}
            print_json(registry.describe(lake, learned.first) | found)
            return
        for made in learned.mixtures:
            _show(made, lake, as_json)
    spread = [{"collection": c, **numbers} for c, numbers in learned.facts["spread"].items()]
    if spread:
        print_rows(spread, as_json=False, title="weights over the seeds")
    sys.stdout.write("".join(line + "\n" for line in learned.lines()))
    if told is not None:
        show_verdict(told.as_rows(), told.lines, as_json=False)
    elif then_verdict:
        sys.stdout.write("the new weights are those of --mix: no verdict\n")


@app.command(cls=WithSettings)
def train(
    model: Annotated[str, typer.Option(
        "--model", help="A folder or name; static is a small table, tiny-qwen2 is built from the data")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the trained model")],
    mix: Annotated[str | None, typer.Option(
        "--mix", help="The mixture to train on, or a folder of a materialised one",
        autocompletion=completion.mixtures)] = None,
    phase: Annotated[list[str] | None, typer.Option(
        "--phase", help="In place of --mix and --steps: REF:STEPS, repeatable, trained on one after the other")] = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", help="Evaluated on at the end; repeatable")] = None,
    half: HalfOption = None,
    config: ConfigOption = None, steps: StepsOption = None, batch_size: BatchOption = None,
    learning_rate: RateOption = None, seed: SeedOption = None, settings: SetOption = None,
    show_settings: ShowOption = False, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Fine-tune a retriever on a mixture, each batch from one collection. Killed or stopped, the same command goes on.

    --phase uniform:800 --phase tdro:200 trains on two, one after the other, under one learning rate schedule.

    --set evaluate_every=100 evaluates while it trains; --set final=best then takes the best step.
    """
    import trainers
    from trainers.finetune.phases import read_phases

    phases = read_phases(phase or (), mixture=mix, steps=steps, assigned=settings or ())
    options = {"steps": sum(n for _, n in phases) or steps, "batch_size": batch_size, "learning_rate": learning_rate,
               "seed": seed}  # fmt: skip
    resolved = _settings(trainers.FinetuneSettings, config, options, settings, show=show_settings, as_json=as_json)
    if mix is None and not phases:
        raise UsageError("name what to train on: --mix REF, or --phase REF:STEPS, repeatable")
    folders = [Path(name).is_dir() for name in ([mix] if mix else [name for name, _ in phases])]
    if any(folders) and not all(folders):
        raise UsageError("--phase names folders and mixtures of the store; take one kind")
    from mixture.console.scores import show_trained
    from trainers.parallel.ranks import is_main

    with stages("steps") if is_main() else nullcontext(quiet) as stage:
        if all(folders):
            made = trainers.train_on_folder(mix or phases, model, out=out, settings=resolved, suites=suite or (),
                                            half=half, progress=stage("training"))  # fmt: skip
        else:
            with _open(store) as lake:
                made = trainers.train(lake, mix or phases, model, out=out, settings=resolved, suites=suite or (),
                                      half=half, stage=stage)  # fmt: skip
    if is_main():
        if not as_json and made.finished_at is None:
            say(sentences.trained(asdict(made)))
        show_trained(asdict(made), as_json=as_json)


@app.command()
def evaluate(
    model: Annotated[list[str], typer.Argument(
        metavar="MODEL...", help="Folders or names of models; bm25; bm25+MODEL for the two fused")],
    suite: SuiteOption = None,
    half: HalfOption = None,
    metrics: Annotated[list[str] | None, typer.Option(
        "--metric", help="One more: ndcg, recall, mrr, map, precision or success, as mrr@10; repeatable")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Query prompt; default: the model's own")] = None,
    keep_embeddings: Annotated[bool, typer.Option(
        "--keep-embeddings", help="Keep them in the store, and encode only what is not there")] = False,
    precision: Annotated[str, typer.Option("--precision", help="Of kept embeddings: float32 or float16")] = "float32",
    processes: Annotated[int, typer.Option("--processes", help="That encode, one a GPU where there are some")] = 1,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Texts encoded at once [as fit]")] = None,
    engine: Annotated[str, typer.Option("--engine", help="What the processes that encode are on: "
                                        "{mixture.engine:ENGINES}")] = "local",
    baseline: Annotated[str | None, typer.Option(
        "--baseline", help="Of several models the one that the others are held against [the first]")] = None,
    export: Annotated[str | None, typer.Option(
        "--export", help="Also to a .csv or .md file, or to a folder as mteb's JSON")] = None,
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Score models on suites; the scores are kept in the table evaluations. Of several, say which differ and where."""
    if not suite:
        raise UsageError("name the suites: --suite FOLDER or NAME, repeatable")
    if baseline is not None and baseline not in model:
        raise UsageError(f"--baseline is {baseline!r}; allowed: {', '.join(model)}")
    import trainers
    from mixture.console.comparison import show_comparison
    from mixture.console.scores import show_scores
    from trainers.evaluation import exports

    if export is not None:
        exports.checked_export(export)
    with _open(store) as lake, stages("texts") as stage:
        results = trainers.evaluate(
            lake, model, suite, prompt=prompt, half=half, metrics=metrics or (), batch_size=batch_size,
            processes=processes, engine=engine, keep_embeddings=keep_embeddings, precision=precision, stage=stage,
        )  # fmt: skip
    from trainers.evaluation.evaluate import caption  # loads PyTorch, which a stage says

    scored, alone = [result.row for result in results], len(model) == 1
    summary = None if alone and export is None else trainers.compare(results, baseline=baseline)
    if as_json:
        print_json(scored if alone or summary is None else {"results": scored, "comparison": summary.as_json()})
    elif alone or summary is None:
        say(sentences.evaluated(scored))
        show_scores(scored, caption(results))
    else:
        show_comparison(summary.as_json(), exports.tables(summary), exports.note(summary))
        say(caption([result for result in results if result.model == results[0].model]))
    if export is not None and summary is not None:
        exports.export(export, summary, results)


@app.command(cls=WithSettings)
def verdict(
    ref: Annotated[str, typer.Argument(help="The mixture in question", autocompletion=completion.mixtures)],
    against: Annotated[str, typer.Option(
        "--against", help="The mixture that it should be ahead of", autocompletion=completion.mixtures)],
    model: Annotated[str, typer.Option("--model", help="What is trained on both: a folder or name, as for train")],
    suite: SuiteOption = None,
    half: HalfOption = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Models of each mixture")] = 3,
    keep: Annotated[Path | None, typer.Option("--keep", help="A folder for the models; default: they go")] = None,
    config: ConfigOption = None, steps: StepsOption = None, batch_size: BatchOption = None,
    learning_rate: RateOption = None, seed: SeedOption = None, settings: SetOption = None,
    show_settings: ShowOption = False, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Train a model on two mixtures alike, with several seeds, and say whether one is ahead: ends in one line.

    Killed or stopped, the same command goes on. Finished, it shows what it found.
    """
    import trainers

    options = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    resolved = _settings(trainers.FinetuneSettings, config, options, settings, show=show_settings, as_json=as_json)
    if not suite:
        raise UsageError("name the suites: --suite FOLDER or NAME, repeatable")
    from mixture.console.scores import show_verdict
    from trainers.parallel.ranks import is_main

    with _open(store) as lake, stages("steps") if is_main() else nullcontext(quiet) as stage:
        found = trainers.verdict(lake, ref, against, model, suite, seeds=seeds, settings=resolved, half=half, keep=keep,
                                 stage=stage)  # fmt: skip
    if is_main():
        show_verdict(found.as_rows(), found.lines, as_json=as_json)


@app.command(cls=WithSettings)
def ablate(
    ref: Annotated[str, typer.Argument(help="The mixture to try", autocompletion=completion.mixtures)],
    model: Annotated[str, typer.Option("--model", help="What is trained: a folder or name, as for train")],
    suite: SuiteOption = None,
    half: HalfOption = None,
    screen: Annotated[str, typer.Option(
        "--screen", help="What is trained without: merged (the extremes of merged branches) or none (all)")] = "merged",
    extremes: Annotated[int, typer.Option(
        "--extremes", help="Collections tried at each end of the screen; 0: no whole training")] = 3,
    holdout: Annotated[float, typer.Option(
        "--holdout", help="Share of each collection's rows that branches leave out, to find noise; 0: none")] = 0.1,
    seeds: Annotated[int, typer.Option("--seeds", help="Models with and without each collection")] = 3,
    config: ConfigOption = None, steps: StepsOption = None, batch_size: BatchOption = None,
    learning_rate: RateOption = None, seed: SeedOption = None, settings: SetOption = None,
    show_settings: ShowOption = False, store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Which collection hurts? Finds noise by held-out rows, and trains with and without the extremes of a screen.

    Without a collection the others share its draws. Killed or stopped, the same command goes on.
    """
    import trainers

    options = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    resolved = _settings(trainers.FinetuneSettings, config, options, settings, show=show_settings, as_json=as_json)
    if not suite:
        raise UsageError("name the suites: --suite FOLDER or NAME, repeatable")
    from mixture.console.scores import show_ablation
    from trainers.parallel.ranks import is_main

    with _open(store) as lake, stages("steps") if is_main() else nullcontext(quiet) as stage:
        found = trainers.ablate(lake, ref, model, suite, seeds=seeds, settings=resolved, half=half, screen=screen,
                                extremes=extremes, holdout=holdout, stage=stage)  # fmt: skip
    if is_main():
        show_ablation(found.as_rows(), found.lines, as_json=as_json)


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT; default: a prompt, or standard input")] = None,
    fmt: Annotated[str, typer.Option("--format", help="table, json, csv or parquet")] = "table",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that a query may take")] = 60.0,
    memory: Annotated[str, typer.Option("--memory", help="What a query may use, as 500MB or 2GB")] = "2GB",
    store: StoreOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Ask the store anything, read-only; docs/sql.md lists its tables, views and macros."""
    limits = Limits(timeout, parse_bytes(memory), exit_if_stuck=True)
    fmt = "json" if as_json else fmt
    with _open(store) as lake:
        if query is None and sys.stdin.isatty():
            from mixture.console.prompt import run_prompt

            run_prompt(lake, limits=limits, fmt=fmt)
        else:
            # What is no UTF-8 stays visible to the check of the query, which says so.
            given = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if query is None else query
            print_table(lake.sql(given, limits=limits), fmt)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where it works; made anew")] = Path("demo-run"),
    steps: Annotated[int, typer.Option("--steps", help="Training steps of each model")] = 200,
) -> None:
    """The whole job on 25 small embedded collections, each step's command shown."""
    from mixture.console.demo import MODEL, run_demo
    from trainers.model.identity import locate

    locate(MODEL)  # what is not installed is said before anything else
    run_demo(lambda arguments: app(arguments, standalone_mode=False), folder, steps=steps)


if __name__ == "__main__":
    app()

"""Fine-tuning over a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mixture import registry
from mixture.arguments import Name, Names
from mixture.jobs.contamination import matches_of, warn_of_test_rows
from mixture.jobs.statement import statement_for_training
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, Stage, quiet
from mixture.registry import Mixture, SavedMixture
from mixture.store import Store
from mixture.suites.suite import Suite
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.identity import identity
from trainers.finetune.output import finished
from trainers.finetune.phases import Phases, as_phases, checked
from trainers.finetune.scores import load_suites
from trainers.jobs.folder import Trained, asked_for
from trainers.jobs.runs import drawn_from, finished_config, materialised, record_training, recorded
from trainers.model.fitting import fitted
from trainers.model.names import resolve_model, shown
from trainers.parallel import ranks


def train(
    store: Store, mixture: Mixture | Sequence[tuple[Mixture, int]], model: Name, *, out: Name,
    settings: FinetuneSettings | None = None, suites: Names = (), half: str | None = None, stage: Stage = quiet,
) -> Trained:  # fmt: skip
    """Fine-tune a retriever on a mixture into the folder `out`, each batch from one collection.

    mixture: saved, or what names it (an id or its beginning, a name, name:version, a tag); or phases, pairs of these
             and a number of steps, trained on one after the other under one schedule. Their sum is the setting `steps`
    model:   a folder or a name; `tiny-qwen2` is built from the data, `static` is a table of token vectors
    suites:  folders in BEIR layout and names, evaluated on as the settings say; `half` (learn or report) takes one
             half of their queries

    The run, what it drew and what it scored are kept in the store. A killed run goes on when called again; a finished
    one is not run again, and where a kill came between its end and the store's record, that is made up. The model's
    card says what the mixture holds of the registered test suites and of `suites` (`jobs.contamination_statement`).
    """
    settings, target = settings or FinetuneSettings(), Path(out).expanduser()
    given = [(mixture, settings.steps)] if isinstance(mixture, SavedMixture | str) else checked(mixture)
    specs = [(registry.resolve(store, one).spec, steps) for one, steps in given]
    name, asked = asked_for(model, target, suites, settings)
    show = stage("training")
    loaded = load_suites(asked, half)
    phases = Phases.of(
        [(materialised(store, spec, taught=settings.taught_in(spec.weights)), steps) for spec, steps in specs]
    )
    ranks.on_main(lambda: warn_of_test_rows(matches_of(store, phases.components)))
    base = resolve_model(store.work, phases.whole, name, seed=settings.seed)
    return trained_on(store, phases, base, loaded, target, settings, show, shown(model))


def trained_on(
    store: Store, data: MaterialisedMixture | Phases, base: str, suites: Sequence[Suite], out: Path,
    settings: FinetuneSettings, show: Progress, title: str | None = None,
) -> Trained:  # fmt: skip
    """`train` with all that was asked for at hand; base: as `resolve_model` gives it, called `title`."""
    phases = as_phases(data, settings)
    settings = fitted(phases.settings(settings), base)
    run = ranks.agreed(identity(phases, base, settings, suites), "run")
    # Asked first: a folder that is refused leaves no run behind.
    if ranks.on_main(lambda: finished(out, run)) and finished_config(store, run) is not None:
        return Trained.of(out, before=True)
    show(0, 0, f"loading PyTorch and {title or shown(base)}")
    from trainers.finetune.loop import finetune
    from trainers.loop.trackers import chosen as tracker_name

    tracker_name(settings.tracker)
    searched = ranks.on_main(lambda: asdict(statement_for_training(store, phases.specs, suites)))
    told = {"phases": phases.by_id} if len(phases.parts) > 1 else {}
    with recorded(
        store, run, "finetune", phases.mixture_id, settings, model=base, out=str(out.resolve()), **told
    ) as row:  # fmt: skip
        finetune(phases, base, settings, out, suites=suites, contamination=searched, progress=show)
        record_training(store, run, out, drawn_from(store, phases, settings.holdout))
        row["result"] = str(out.resolve())
    return Trained.of(out, before=False)

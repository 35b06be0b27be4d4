"""Fine-tuning over a store."""

from __future__ import annotations

from pathlib import Path

from mixture import registry
from mixture.arguments import Name, Names
from mixture.jobs.contamination import matches_of, warn_of_test_rows
from mixture.progress import Stage, quiet
from mixture.registry import Mixture
from mixture.store import Store
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.identity import identity
from trainers.finetune.output import finished, record_of
from trainers.finetune.scores import load_suites
from trainers.jobs.folder import Trained, asked_for
from trainers.jobs.runs import finished_config, materialised, record_training, recorded
from trainers.model.fitting import fitted
from trainers.model.names import resolve_model, shown
from trainers.parallel import ranks


def train(
    store: Store, mixture: Mixture, model: Name, *, out: Name, settings: FinetuneSettings | None = None,
    suites: Names = (), half: str | None = None, stage: Stage = quiet,
) -> Trained:  # fmt: skip
    """Fine-tune a retriever on a mixture into the folder `out`, each batch from one collection.

    mixture: saved, or what names it (an id or its beginning, a name, name:version, a tag)
    model:   a folder or a name; `tiny-qwen2` is built from the data, `static` is a table of token vectors
    suites:  folders in BEIR layout, evaluated on as the settings say; `half` (learn or report) takes one half of their
             queries

    The run, what it drew and what it scored are kept in the store. A killed run goes on when called again; a finished
    one is not run again, and where a kill came between its end and the store's record, that is made up.
    """
    settings, target = settings or FinetuneSettings(), Path(out).expanduser()
    spec = registry.resolve(store, mixture).spec
    name, folders = asked_for(model, target, suites, settings)
    show = stage("training")
    loaded = load_suites(folders, half)
    data = materialised(store, spec)
    ranks.on_main(lambda: warn_of_test_rows(matches_of(store, spec.components)))
    base = resolve_model(store.work, data, name, seed=settings.seed)
    settings = fitted(settings, base)
    run = identity(data, base, settings, loaded)
    # Asked first: a folder that is refused leaves no run behind.
    if ranks.on_main(lambda: finished(target, run)) and finished_config(store, run) is not None:
        return Trained.of(target, before=True)
    show(0, 0, f"loading PyTorch and {shown(model)}")
    from trainers.finetune.loop import finetune
    from trainers.loop.trackers import chosen as tracker_name

    tracker_name(settings.tracker)
    with recorded(store, run, "finetune", spec.id, settings, model=base, out=str(target.resolve())) as row:
        finetune(data, base, settings, target, suites=loaded, progress=show)
        record_training(store, run, record_of(target), target)
        row["result"] = str(target.resolve())
    return Trained.of(target, before=False)

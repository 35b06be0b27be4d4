"""Fine-tuning over a store."""

from __future__ import annotations

from pathlib import Path

from mixture import registry
from mixture.arguments import Name, Names
from mixture.jobs.contamination import matches_of, warn_of_test_rows
from mixture.progress import Stage, quiet
from mixture.registry import Mixture
from mixture.store import Store
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import identity
from trainers.finetune.output import finished, record_of
from trainers.finetune.scores import load_suites
from trainers.jobs.folder import Trained
from trainers.jobs.runs import finished_config, materialised, record_training, recorded
from trainers.loop.trackers import chosen as tracker_name
from trainers.model.names import known_model, resolve_model
from trainers.parallel import ranks


def train(
    store: Store, mixture: Mixture, model: Name, *, out: Name, settings: FinetuneSettings | None = None,
    suites: Names = (), stage: Stage = quiet,
) -> Trained:  # fmt: skip
    """Fine-tune a retriever on a mixture into the folder `out`, each batch from one collection.

    mixture: saved, or what names it (an id or its beginning, a name, name:version, a tag)
    model:   a folder or a name; `tiny-qwen2` is built from the data
    suites:  folders in BEIR layout, evaluated on as the settings say

    The run, what it drew and what it scored are kept in the store. A killed run goes on when called again; a finished
    one is not run again, and where a kill came between its end and the store's record, that is made up.
    """
    settings, target = settings or FinetuneSettings(), Path(out).expanduser()
    spec = registry.resolve(store, mixture).spec
    name = known_model(model)
    tracker_name(settings.tracker)
    loaded = load_suites(suites, settings)
    data = materialised(store, spec)
    ranks.on_main(lambda: warn_of_test_rows(matches_of(store, spec.components)))
    base = resolve_model(store.work, data, name, seed=settings.seed)
    run = identity(data, base, settings, loaded)
    trained = Trained(target, spec.id, run, settings.steps)
    if finished_config(store, run) is not None and ranks.on_main(lambda: finished(target, run)):
        return trained
    with recorded(store, run, "finetune", spec.id, settings, model=base, out=str(target.resolve())) as row:
        finetune(data, base, settings, target, suites=loaded, progress=stage("training"))
        record_training(store, run, record_of(target), target)
        row["result"] = str(target.resolve())
    return trained

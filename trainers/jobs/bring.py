"""The record of a training on another machine, without the store, comes back into it."""

from __future__ import annotations

from pathlib import Path

from mixture import registry
from mixture.arguments import Name
from mixture.errors import UsageError
from mixture.store import Store
from trainers.finetune.output import record_of
from trainers.finetune.phases import Phases
from trainers.jobs.folder import Trained
from trainers.jobs.runs import drawn_from, finished_config, materialised, record_training, recorded
from trainers.model.template import RECORD


def import_run(store: Store, folder: Name) -> Trained:
    """Keep in the store what `train_on_folder` left in a model's folder: the run, what it drew, what it scored. As
    `train` would have; a run that the store has as finished stays as it is.

    Raises `UsageError` for a folder without a finished training, and where the store lacks a mixture of it.
    """
    out = Path(folder).expanduser()
    if not (out / RECORD).is_file():
        raise UsageError(f"{out} holds no finished training: there is no {RECORD} in it")
    record = record_of(out)
    if record.get("run_id") is None:
        raise UsageError(f"{out} holds a model that no training made, as a soup or one that was shrunk")
    if finished_config(store, record["run_id"]) is not None:
        return Trained.of(out, before=True)
    settings, slices = record["settings"], {}
    told = record.get("phases") or [{"mixture": record["mixture"], "steps": settings["steps"]}]
    specs = [(registry.resolve(store, one["mixture"]["id"]).spec, one["steps"]) for one in told]
    if share := settings.get("holdout"):  # which rows it held out is a matter of the rows
        slices = drawn_from(store, Phases.of([(materialised(store, spec), n) for spec, n in specs]), share)
    mixture = (record["mixture"] or {}).get("id")
    where = str(out.resolve())
    phases = {"phases": [{"mixture": one["mixture"]["id"], "steps": one["steps"]} for one in told]}
    with recorded(store, record["run_id"], "finetune", mixture, settings, model=record["model"], out=where,
                  **(phases if len(told) > 1 else {})) as row:  # fmt: skip
        record_training(store, record["run_id"], out, slices)
        row["result"] = where
    return Trained.of(out, before=False)

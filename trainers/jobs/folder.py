"""Fine-tuning from a materialised folder alone: no store, no duckdb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from mixture import remote
from mixture.arguments import Name, Names, listed
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, silent
from mixture.store import layout
from mixture.suites.given import Given, suites_of
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.identity import identity
from trainers.finetune.output import check_folder, finished, held_out, record_of
from trainers.finetune.phases import Phases, checked
from trainers.finetune.scores import check_suites, load_suites
from trainers.loop.recent import by_step, recent
from trainers.model.fitting import fitted
from trainers.model.names import known_model, resolve_model, shown
from trainers.model.template import RECORD
from trainers.parallel import ranks

Data: TypeAlias = MaterialisedMixture | Name
"""A materialised mixture, or a folder with one."""


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model.

    model:       its folder
    mixture:     the mixture's id; None where phases have several
    run:         the run's id
    steps:       that it was asked for
    loss:        mean of the last steps (`loop.recent`)
    scores:      of the step that became the model, one a suite: suite, metrics (name -> mean), num_queries,
                 num_documents, corpus, prompt
    finished_at: when an earlier call had finished this run; None where this call did
    held_out:    the loss on held-out rows, one a component (`output.held_out`)
    phases:      mixture (its id) and steps of each, where there are several
    """

    model: Path
    mixture: str | None
    run: str
    steps: int
    loss: float
    scores: tuple[dict[str, Any], ...]
    finished_at: datetime | None = None
    held_out: tuple[dict[str, Any], ...] = ()
    phases: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, folder: Path, *, before: bool) -> Trained:
        """What a finished run left in its folder, of the first machine; `before`: an earlier call had finished it."""
        return ranks.on_main(lambda: cls._read(folder, before))

    @classmethod
    def _read(cls, folder: Path, before: bool) -> Trained:
        record = record_of(folder)
        scores: dict[str, dict[str, Any]] = {}
        for row in record["evaluations"]:
            if row["step"] == record["final_step"]:
                facts = {name: row[name] for name in ("suite", "num_queries", "num_documents", "corpus", "prompt")}
                scores.setdefault(row["suite"], facts | {"metrics": {}})["metrics"][row["metric"]] = row["value"]
        steps = record["settings"]["steps"]
        loss = recent(by_step(record["losses"]), steps).loss
        at = datetime.fromtimestamp((folder / RECORD).stat().st_mtime, UTC) if before else None
        phases = tuple({"mixture": one["mixture"]["id"], "steps": one["steps"]} for one in record.get("phases", ()))
        return cls(folder, (record["mixture"] or {}).get("id"), record["run_id"], steps, loss, tuple(scores.values()),
                   at, tuple(held_out(record)), phases)  # fmt: skip


def open_folder(folder: Name, mixture: str | None = None) -> MaterialisedMixture:
    """The mixture in a folder that `mixture export REF --materialised FOLDER` wrote; by id where it has several. From
    s3://bucket/prefix each machine fetches what the mixture needs into its cache.

    Raises `UsageError` where there is none, or several and no id.
    """
    if remote.is_remote(folder):
        id = ranks.on_main(lambda: remote.chosen(folder, mixture))
        ranks.on_nodes(lambda: remote.fetch(folder, id))
        return MaterialisedMixture.open(remote.fetched(folder), id)
    folder = Path(folder).expanduser()
    found = [file.stem for file in layout.specs(folder)] if layout.components(folder) else []
    return MaterialisedMixture.open(folder, layout.chosen(found, mixture, folder))


def train_on_folder(
    data: Data | Sequence[tuple[Data, int]], model: Name, *, out: Name, settings: FinetuneSettings | None = None,
    suites: Names = (), half: str | None = None, progress: Progress = silent,
) -> Trained:  # fmt: skip
    """Fine-tune `model` on a materialised mixture, or the one mixture of such a folder, into the folder `out`; or in
    phases, pairs of these and a number of steps.

    As `trainers.train`, without a store to keep the run. A killed run goes on when called again.
    """
    settings, target = settings or FinetuneSettings(), Path(out).expanduser()
    given = [(data, settings.steps)] if isinstance(data, MaterialisedMixture | str | PathLike) else checked(data)
    phases = Phases.of([(one if isinstance(one, MaterialisedMixture) else open_folder(one), n) for one, n in given])
    name, asked = asked_for(model, target, suites, settings)
    loaded = load_suites(asked, half)
    base = resolve_model(phases.parts[0].mixture.folder, phases.whole, name, seed=settings.seed)
    settings = fitted(phases.settings(settings), base)
    run = ranks.agreed(identity(phases, base, settings, loaded), "run")
    if ranks.on_main(lambda: finished(target, run)):
        return Trained.of(target, before=True)
    progress(0, 0, f"loading PyTorch and {shown(model)}")
    from trainers.finetune.loop import finetune

    finetune(phases, base, settings, target, suites=loaded, progress=progress)
    return Trained.of(target, before=False)


def asked_for(model: Name, out: Path, suites: Names, settings: FinetuneSettings) -> tuple[str, list[Given]]:
    """The model's name and the suites, not read yet. Mistakes in any of these are said before anything is loaded."""
    name = known_model(model)
    check_folder(out)
    given = listed(suites)
    found = suites_of(given) if given else []
    check_suites(found, settings)
    return name, found

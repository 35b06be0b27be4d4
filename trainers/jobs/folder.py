"""Fine-tuning from a materialised folder alone: no store, no duckdb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixture.arguments import Name, Names
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, silent
from mixture.store import layout
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.scores import load_suites
from trainers.loop.trackers import chosen as tracker_name
from trainers.model.names import known_model, resolve_model


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model: its folder, the id of the mixture, the run's id, and the steps that it was asked for."""

    model: Path
    mixture: str
    run: str
    steps: int


def open_folder(folder: Name, mixture: str | None = None) -> MaterialisedMixture:
    """The mixture in a folder that `mixture export REF --materialised FOLDER` wrote; by id where it has several.

    Raises `UsageError` where there is none, or several and no id.
    """
    folder = Path(folder).expanduser()
    found = [file.stem for file in layout.specs(folder)] if layout.components(folder) else []
    if not found:
        raise UsageError(f"{folder} holds no materialised mixture; `mixture export` writes one")
    chosen = [name for name in found if mixture is None or name.startswith(mixture)]
    if len(chosen) != 1:
        raise UsageError(f"{folder} holds the mixtures {', '.join(found)}; name one by its id")
    return MaterialisedMixture.open(folder, chosen[0])


def train_on_folder(
    data: MaterialisedMixture | Name, model: Name, *, out: Name, settings: FinetuneSettings | None = None,
    suites: Names = (), progress: Progress = silent,
) -> Trained:  # fmt: skip
    """Fine-tune `model` on a materialised mixture, or the one mixture of such a folder, into the folder `out`.

    As `trainers.train`, without a store to keep the run. A killed run goes on when called again.
    """
    settings, target = settings or FinetuneSettings(), Path(out).expanduser()
    if not isinstance(data, MaterialisedMixture):
        data = open_folder(data)
    name = known_model(model)
    tracker_name(settings.tracker)
    loaded = load_suites(suites, settings)
    base = resolve_model(data.folder, data, name, seed=settings.seed)
    run = finetune(data, base, settings, target, suites=loaded, progress=progress)
    return Trained(target, data.spec.id, run, settings.steps)

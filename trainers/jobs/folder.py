"""Fine-tuning from a materialised folder alone: no store, no duckdb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store import layout
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.scores import load_suites
from trainers.loop.steps import Progress
from trainers.loop.trackers import chosen as tracker_name
from trainers.model.names import known_model, resolve_model


def open_folder(folder: Path, mixture: str | None = None) -> MaterialisedMixture:
    """The mixture in a folder that `mixture export REF --materialised FOLDER` wrote; by id where it has several.

    Raises `UsageError` where there is none, or several and no id.
    """
    found = [file.stem for file in layout.specs(folder)] if layout.components(folder) else []
    if not found:
        raise UsageError(f"{folder} holds no mixture; write one with `mixture export REF --materialised {folder}`")
    chosen = [name for name in found if mixture is None or name.startswith(mixture)]
    if len(chosen) != 1:
        raise UsageError(f"{folder} holds the mixtures {', '.join(found)}; name one with --mix")
    return MaterialisedMixture.open(folder, chosen[0])


def train_on_folder(
    data: MaterialisedMixture, model: str, settings: FinetuneSettings, out: Path, *,
    suites: Sequence[Path] = (), progress: Progress | None = None,
) -> str:  # fmt: skip
    """Fine-tune `model` on a mixture's data into the folder `out`; returns the run's id. A killed run goes on."""
    known_model(model)
    tracker_name(settings.tracker)
    loaded = load_suites(suites, settings)
    base = resolve_model(data.folder, data, model, seed=settings.seed)
    return finetune(data, base, settings, out, suites=loaded, progress=progress)

"""Curves of a training where people look at them: TensorBoard where it is installed, or any tracker of accelerate's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from mixture.errors import UsageError
from trainers.parallel import ranks
from trainers.settings import TrainingSettings

PROJECT = "mixture"
TENSORBOARD = "tensorboard"


class Tracker:
    """Numbers by step, written by the first rank to the tracker that the settings name; nothing for "none".

    "auto" is TensorBoard where it is installed, else none. TensorBoard's files go to `folder`, others go where their
    own settings say.

    Raises `UsageError` for a tracker that does not exist or is not installed.
    """

    def __init__(self, settings: TrainingSettings, folder: Path, run: str) -> None:
        name = chosen(settings.tracker)
        self._tracker: GeneralTracker | None = None
        if name is None or not ranks.is_main():
            return
        kind = LOGGER_TYPE_TO_CLASS[name]
        self._tracker = kind(run, folder) if kind.requires_logging_directory else kind(PROJECT)
        self._tracker.start()
        if name != TENSORBOARD:  # its table of settings would be a second run beside this one
            self._tracker.store_init_configuration(asdict(settings) | {"run_id": run})

    def log(self, values: dict[str, Any], step: int) -> None:
        """Numbers of the training after `step` steps."""
        if self._tracker is not None:
            self._tracker.log(values, step=step)

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.finish()


def chosen(name: str) -> str | None:
    """The tracker that a setting means, None for none; a `UsageError` where it is not there."""
    installed = sorted(str(tracker) for tracker in get_available_trackers())
    if name == "auto":
        return TENSORBOARD if TENSORBOARD in installed else None
    if name == "none":
        return None
    if name not in LOGGER_TYPE_TO_CLASS:
        raise UsageError(f"tracker is {name!r}; allowed: auto, none, {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    if name not in installed:
        extra = "retrieval-mixture[track]" if name == TENSORBOARD else name
        raise UsageError(f"tracker is {name!r}, which is not installed; pip install '{extra}', or `tracker=none`")
    return name

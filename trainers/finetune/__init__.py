"""Fine-tuning of a retriever from a mixture."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers.finetune.config import FinetuneSettings
    from trainers.finetune.loop import finetune

__all__ = ["FinetuneSettings", "finetune"]
# Loaded when asked for: the loop loads torch.
_HOME = {"FinetuneSettings": "trainers.finetune.config", "finetune": "trainers.finetune.loop"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'trainers.finetune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

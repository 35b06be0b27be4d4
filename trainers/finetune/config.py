"""Settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """`TrainingSettings` and whether the other examples' passages are negatives too (equation 7)."""

    in_batch: bool = True

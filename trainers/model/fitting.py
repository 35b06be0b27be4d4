"""What settings leave to the model that is trained, and what a static model has not. Loads no torch."""

from __future__ import annotations

from dataclasses import replace

from mixture.errors import UsageError
from trainers.model.identity import is_static
from trainers.settings import RATE, S

# The learning rate that suits, where the settings name none; by whether the model is static. A step moves a row of a
# table only when a batch has its token, and alone.
RATES = {False: RATE, True: 0.01}
# Settings of what a table has not, at the only value that they may have.
WITHOUT = {"pooling": "auto", "attention": "auto", "bidirectional": False, "lora_rank": 0, "four_bit": False,
           "activation_checkpointing": False, "bf16": False, "fsdp": False}  # fmt: skip


def fitted(settings: S, model: str) -> S:
    """The settings with which `model` is trained: what they leave to it is filled in.

    Raises `UsageError` for settings of what a static model has not.
    """
    static = is_static(model)
    if static:
        faults = [f"{name} is {getattr(settings, name)}; allowed with a static model: {only}"
                  for name, only in WITHOUT.items() if getattr(settings, name) != only]  # fmt: skip
        if faults:
            raise UsageError("; ".join(faults))
    return settings if settings.learning_rate is not None else replace(settings, learning_rate=RATES[static])

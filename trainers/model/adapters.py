"""LoRA: add it to an encoder, fold it into the weights, or save it as an adapter that names its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from trainers.model import four_bit
from trainers.settings import TrainingSettings

# What stands before each name in an adapter's file.
ADAPTER_NAMES = "base_model.model."


def add_lora(encoder: SentenceTransformer, settings: TrainingSettings) -> None:
    """Freeze the model and add LoRA to all its linear layers, where `settings.lora_rank` is not 0."""
    if settings.lora_rank == 0:
        return
    from peft import LoraConfig

    model: Any = encoder.transformers_model
    # LoRA starts from random numbers: without this, two runs of one seed would differ.
    torch.manual_seed(settings.seed)
    encoder.add_adapter(
        LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
        )
    )
    # An unmerged adapter names the model it belongs to, which must be found from any folder.
    base = Path(model.name_or_path)
    model.peft_config["default"].base_model_name_or_path = str(base.resolve()) if base.is_dir() else str(base)


def has_lora(encoder: SentenceTransformer) -> bool:
    return bool(getattr(encoder.transformers_model, "_hf_peft_config_loaded", False))


def merge_lora(encoder: SentenceTransformer) -> None:
    """Fold LoRA into the weights, in place: what is saved then loads without peft. Without LoRA nothing changes.

    Weights in 4 bits become float32, and the encoder is on the CPU then (`four_bit.merged`).
    """
    _take_off(encoder, merge=True)
    four_bit.forget(encoder)


def drop_lora(encoder: SentenceTransformer) -> None:
    """Take LoRA away, in place: what is left is the base model."""
    _take_off(encoder, merge=False)


def _take_off(encoder: SentenceTransformer, *, merge: bool) -> None:
    if not has_lora(encoder):
        return
    from peft.tuners.lora import LoraLayer

    model: Any = encoder.transformers_model
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]:
        plain = layer.get_base_layer()
        if merge and four_bit.is_four_bit(plain):
            plain = four_bit.merged(layer)
        elif merge:
            layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    model.peft_config = {}
    model._hf_peft_config_loaded = False
    # A model whose adapter was loaded from a file would be saved under the names of that file, which nothing loads.
    if any(ADAPTER_NAMES in names.source_patterns for names in getattr(model, "_weight_conversions", None) or ()):
        del model._weight_conversions

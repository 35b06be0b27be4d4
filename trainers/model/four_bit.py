"""Weights in 4 bits under LoRA (QLoRA, arXiv 2305.14314), by bitsandbytes: a frozen matrix is kept as NF4 and unpacked
for the moment it computes."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from mixture.errors import UsageError


def nf4(*, bf16: bool) -> Any:
    """What transformers loads a model in 4 bits by: NF4, its scales quantised too, as in the paper.

    Raises `UsageError` without bitsandbytes.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "four_bit is true, which needs the package bitsandbytes: pip install 'retrieval-mixture[four-bit]'"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )  # fmt: skip


def prepare(encoder: SentenceTransformer) -> None:
    """Make a model that was loaded in 4 bits ready for training, in place.

    On some CPUs bitsandbytes packs the weights anew when it evaluates, and computes in bfloat16 from then on, without
    gradients. That is switched off. Raises `UsageError` where nothing is in 4 bits.
    """
    layers: list[Any] = [module for module in encoder.modules() if is_four_bit(module)]
    if not layers:
        name = type(encoder.transformers_model).__name__
        raise UsageError(f"four_bit is true, but {name} has no linear layers to keep in 4 bits; allowed: false")
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False


def is_four_bit(module: nn.Module) -> bool:
    """Whether it is a linear layer of bitsandbytes in 4 bits."""
    return hasattr(getattr(module, "weight", None), "quant_state")


def merged(lora: Any) -> nn.Linear:
    """A LoRA layer over 4 bits as a plain one on the CPU, float32: its weights as they were rounded, and the LoRA.

    What computes so is the model that was trained. On weights without rounding the LoRA would be another model, and
    rounded again it would lose most of its change.
    """
    from bitsandbytes.functional import dequantize_4bit

    base = lora.get_base_layer()
    weight = dequantize_4bit(base.weight.data, base.weight.quant_state).float()
    weight = sum((lora.get_delta_weight(name).float() for name in lora.active_adapters), weight).cpu()
    plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if base.bias is not None:
        plain.bias = nn.Parameter(base.bias.detach().float().cpu(), requires_grad=False)
    return plain


def forget(encoder: SentenceTransformer) -> None:
    """Have a model without layers in 4 bits saved as any other, in place; it is on the CPU then."""
    model: Any = encoder.transformers_model
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer.remove_quantization_config(model)
        encoder.to("cpu")

"""Averages of models: tensor by tensor (model soups, Wortsman et al. 2022, arXiv 2203.05482), one tensor of all models
in memory at a time."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mixture.errors import MixtureError
from mixture.progress import Progress, silent
from trainers.model.adapters import drop_lora
from trainers.model.alike import ADAPTER_WEIGHTS, LORA, Trained, place_of
from trainers.model.encoder import load_encoder


def mean(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of tensors of one shape and type. Summed in float64, so that a mean of equal tensors is that
    tensor to the bit; numbers that are no fractions must be equal.

    weights: of each tensor, with the sum 1

    >>> mean([torch.tensor([1.0, 4.0]), torch.tensor([3.0, 0.0])], [0.5, 0.5])
    tensor([2., 2.])
    """
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        kind = tensor.dtype
        if not kind.is_floating_point:
            if total is not None and not torch.equal(total, tensor):
                raise MixtureError(f"numbers of type {kind} differ between the models, and cannot be averaged")
            total = tensor
            continue
        part = tensor.double() * weight
        total = part if total is None else total.add_(part)
    if total is None:
        raise MixtureError("a mean of nothing")
    return total.to(kind)


def average(models: Sequence[Trained], weights: Sequence[float], out: Path, progress: Progress = silent) -> None:
    """Write the weighted mean of whole models to the folder `out`: the first model's files, with the means as weights.

    Raises `MixtureError` where a mean is not finite.
    """
    first = models[0]
    for source in first.files():
        target = out / source.relative_to(first.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    total, done = sum(map(len, first.tensors.values())), 0
    with ExitStack() as stack:
        readers = [_readers(model, stack) for model in models]
        for file, held in first.tensors.items():
            means: dict[str, Tensor] = {}
            for name in held:
                place = place_of(file, name)
                means[name] = mean((reader[place].get_tensor(name) for reader in readers), weights)
                _check_finite(place, means[name])
                done += 1
                progress(done, total, file)
            save_file(means, out / file, metadata=readers[0][place_of(file, next(iter(held)))].metadata())


def _readers(model: Trained, stack: ExitStack) -> dict[str, Any]:
    """Tensor by its place (`alike.place_of`) -> the open file that has it."""
    found: dict[str, Any] = {}
    for file, held in model.tensors.items():
        reader = stack.enter_context(safe_open(model.folder / file, framework="pt"))
        found |= {place_of(file, name): reader for name in held}
    return found


def average_adapters(models: Sequence[Trained], weights: Sequence[float], out: Path) -> None:
    """Write the base of LoRA adapters with the weighted mean of their ΔW = scale · B·A added: a whole model.

    The mean of A and of B would be another model: ΔW is no linear function of the two.
    """
    encoder = load_encoder(str(models[0].folder))
    drop_lora(encoder)
    layers: Any = encoder.transformers_model
    sums: dict[str, list[tuple[float, Tensor, Tensor]]] = {}
    for model, weight in zip(models, weights, strict=True):
        for layer, pair in _factors(model).items():
            sums.setdefault(layer, []).append((weight * _scale(model), pair["B"], pair["A"]))
    for layer, parts in sums.items():
        parameter = layers.get_submodule(layer).weight
        change = torch.zeros(parameter.shape, dtype=torch.float64)
        for scale, second, first in parts:
            change += scale * (second.double() @ first.double())
        parameter.data = (parameter.data.double() + change.to(parameter.device)).to(parameter.dtype)
        _check_finite(layer, parameter.data)
    encoder.save(str(out), create_model_card=False)


def _factors(model: Trained) -> dict[str, dict[str, Tensor]]:
    """Layer -> its A (rank, in) and B (out, rank)."""
    found: dict[str, dict[str, Tensor]] = {}
    with safe_open(model.folder / ADAPTER_WEIGHTS, framework="pt") as stream:
        for name in model.tensors[ADAPTER_WEIGHTS]:
            if place := LORA.fullmatch(name):  # `alike.check_alike` refuses others
                found.setdefault(place["layer"], {})[place["part"]] = stream.get_tensor(name)
    return found


def _scale(model: Trained) -> float:
    rank = model.adapter["r"]
    return float(model.adapter["lora_alpha"] / (math.sqrt(rank) if model.adapter.get("use_rslora") else rank))


def _check_finite(name: str, tensor: Tensor) -> None:
    if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        raise MixtureError(f"the mean of the weights {name} is not finite; one of the models is broken")

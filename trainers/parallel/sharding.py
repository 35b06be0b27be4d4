"""A model of which each of R ranks holds a slice: of all parameters, gradients and optimiser moments (torch's FSDP2).

A layer is put together for the moment it computes and taken apart again, forward and backward. That is a collective of
all ranks, so these encode as many micro-batches as each other, kept or encoded again alike (`agreed`). Gradients come
out of the backward pass summed over the ranks, as `ranks.reduce_gradients` sums those of whole models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mixture.errors import UsageError
from trainers.parallel import ranks

B = TypeVar("B")


def shard(encoder: SentenceTransformer, device: torch.device, *, bf16: bool) -> None:
    """Leave each rank its slice of the encoder on `device`, in place; its parameters are then `DTensor`s in float32.

    Layers are what the model itself calls unsplittable. With `bf16` they compute in it, and gradients are summed in
    float32. Raises `UsageError` for a model without layers, or with parameters that no module of torch's computes with.
    """
    model: Any = encoder.transformers_model
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    # A layer within a layer comes first.
    layers = [module for module in reversed(list(encoder.modules())) if type(module).__name__ in kinds]
    wholes = [child for part in encoder for child in part.children() if next(child.parameters(), None) is not None]
    _check(encoder, layers, wholes)
    mesh = init_device_mesh(device.type, (ranks.state().num_processes,))
    precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    # Pooling and what follows add up many numbers: they get float32.
    outer = MixedPrecisionPolicy(precision.param_dtype, precision.reduce_dtype, torch.float32)
    sharded = [fully_shard(layer, mesh=mesh, mp_policy=precision) for layer in layers]
    sharded += [fully_shard(module, mesh=mesh, mp_policy=outer) for module in wholes]
    register_fsdp_forward_method(model, "forward")  # sentence-transformers calls it by its name
    for module in sharded:
        # The sum, not the mean; gloo has no sum that divides.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        # Older versions of torch lack it: there all ranks must use the same parameters, as they do but in odd models.
        if hasattr(module, "set_reduce_scatter_unused_params"):
            module.set_reduce_scatter_unused_params(True)


def _check(encoder: SentenceTransformer, layers: Sequence[nn.Module], wholes: Sequence[nn.Module]) -> None:
    name = type(encoder.transformers_model).__name__
    if not layers:
        raise UsageError(f"fsdp is true, but {name} names no layers to shard by; set fsdp = false")
    computing = [module for module in wholes if not isinstance(module, (nn.ModuleList, nn.ModuleDict))]
    held = {id(p) for module in computing for p in module.parameters()}
    odd = [name for name, p in encoder.named_parameters() if id(p) not in held]
    if odd:
        raise UsageError(f"fsdp is true, but parameter {odd[0]} cannot be sharded; set fsdp = false")


def is_sharded(encoder: SentenceTransformer) -> bool:
    return isinstance(encoder.transformers_model, FSDPModule)


def agreed(batches: list[list[B]], again: int, device: torch.device) -> tuple[list[list[B]], int]:
    """This rank's micro-batches, filled up to the most that any rank has, and the most that any encodes `again`.

    What fills up is the last text again, at the end.
    """
    most = torch.tensor([len(batches), again], device=device)
    all_reduce(most, op=ReduceOp.MAX)
    number, again = most.tolist()
    return batches + [batches[-1][-1:]] * (number - len(batches)), again


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which ranks hold slices, put together; any other as it is. A collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def wholes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors put together, on the first rank only and those in its main memory: a device may not hold all. A
    collective."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if ranks.is_main():
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full.contiguous()
    return found


def sliced(full: Tensor, like: Tensor) -> Tensor:
    """The part of `full` that this rank holds of `like`; all of it where ranks hold no slices."""
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write what training moves, each rank its slices. A collective."""
    dcp.save(_state(model, optimizer), checkpoint_id=folder)


def load(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read what `save` wrote, by any number of ranks. A collective."""
    state = _state(model, optimizer)
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
        options=StateDictOptions(ignore_frozen_params=True, strict=False),
    )  # fmt: skip


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=StateDictOptions(ignore_frozen_params=True))
    return {"model": weights, "optimizer": moments}

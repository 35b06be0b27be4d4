"""A model without some of its layers, that shares the weights of the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from sentence_transformers import SentenceTransformer
from torch import nn

from mixture.errors import UsageError
from trainers.shrinking.architecture import PLACES

M = TypeVar("M", bound=nn.Module)
# Lists of a configuration with an entry for each layer.
BY_LAYER = ("layer_types",)


def layers_of(encoder: SentenceTransformer) -> nn.ModuleList:
    """The layers of a loaded model. Raises `UsageError` where their place is not known."""
    model: Any = encoder.transformers_model
    kind = model.config.model_type if model is not None else None
    if kind not in PLACES:
        told = f"architecture {kind}" if kind else "model, which is no transformer,"
        raise UsageError(f"the layers of the {told} are not known here; known: {', '.join(sorted(PLACES))}")
    found: nn.ModuleList = model.get_submodule(PLACES[kind])
    return found


def with_layers(encoder: SentenceTransformer, kept: Sequence[int]) -> SentenceTransformer:
    """The model with these of its layers, in their order: pooling and all that stands before and behind them stay.

    It shares modules and weights with `encoder`, which stays as it is: what trains one trains the other. Saved, it
    holds its own layers alone. Each layer goes on with the number that it has in `encoder`, which only caches of keys
    and values ask for; loaded from a folder, they are numbered anew.
    """
    layers = layers_of(encoder)
    model: Any = encoder.transformers_model
    config = copy.deepcopy(model.config)
    for name in BY_LAYER:
        if (entries := getattr(config, name, None)) is not None:
            setattr(config, name, [entries[layer] for layer in kept])
    config.num_hidden_layers = len(kept)
    at = next(name for name, module in encoder.named_modules() if module is model)
    whole = _copied(encoder)
    parent: Any = whole
    for name in f"{at}.{PLACES[config.model_type]}".split(".")[:-1]:
        child = _copied(getattr(parent, name))
        if "config" in vars(child):
            child.config = config
        parent._modules[name] = child
        parent = child
    last = PLACES[config.model_type].rpartition(".")[2]
    parent._modules[last] = nn.ModuleList([layers[layer] for layer in kept])
    return whole


def _copied(module: M) -> M:
    """A module of its own with the same children and parameters. What was put into `forward` is bound to the other."""
    new = copy.copy(module)
    new._modules = dict(module._modules)
    new.__dict__.pop("forward", None)
    return new

"""Fewer inner channels in the feed-forward part of each layer: FLAP (An et al. 2024, 2312.11983)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from trainers.batch.gradient_cache import micro_batches
from trainers.batch.memory import PER_PASS
from trainers.model.encoder import as_features
from trainers.shrinking.architecture import BERTS
from trainers.shrinking.layers import layers_of


class Inner(NamedTuple):
    """Where a layer's inner channels are made, where they go, and what the configuration calls their number."""

    ups: tuple[str, ...]
    down: str
    name: str = "intermediate_size"


GATED = Inner(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")
INNER = dict.fromkeys(BERTS, Inner(("intermediate.dense",), "output.dense")) | {
    "modernbert": Inner(("mlp.Wi",), "mlp.Wo"),
    "distilbert": Inner(("ffn.lin1",), "ffn.lin2", "hidden_dim"),
}


def narrow(encoder: SentenceTransformer, share: float, ids: Sequence[np.ndarray]) -> int:
    """Keep `share` of the inner channels of each layer, equally many in each so that the model stays a plain folder.
    In place. Returns how many are left.

    What channel j carries is Var(x_j) · ‖W_·j‖², where x_j is its activation over the tokens of `ids` and W the matrix
    that it goes to; those that carry least go. Where W has a bias, what they carried on average, Σ_j E[x_j] · W_·j, is
    added to it. With one share in all layers FLAP's standardisation within a layer changes nothing, so it is left out.
    """
    model: Any = encoder.transformers_model
    inner = INNER.get(model.config.model_type, GATED)
    layers = layers_of(encoder)
    downs: list[nn.Linear] = [layer.get_submodule(inner.down) for layer in layers]  # type: ignore[misc]
    number = downs[0].in_features
    left = max(1, round(share * number))
    with torch.no_grad():
        for layer, down, (mean, variance) in zip(layers, downs, _moments(encoder, downs, ids), strict=True):
            carries = variance * down.weight.double().square().sum(dim=0)
            kept = carries.topk(left).indices.sort().values
            gone = torch.ones(number, dtype=torch.bool, device=kept.device).index_fill(0, kept, False)
            if down.bias is not None:
                down.bias.add_((down.weight[:, gone].double() @ mean[gone]).to(down.bias))
            down.weight = nn.Parameter(down.weight[:, kept].clone())
            down.in_features = left
            for up in map(layer.get_submodule, inner.ups):
                _keep_outputs(up, kept, number)  # type: ignore[arg-type]
    setattr(model.config, inner.name, left)
    return left


def _keep_outputs(up: nn.Linear, kept: Tensor, number: int) -> None:
    """Of a matrix that makes `number` channels, or several blocks of so many, those that are kept."""
    rows = torch.cat([kept + start for start in range(0, up.out_features, number)])
    up.weight = nn.Parameter(up.weight[rows].clone())
    if up.bias is not None:
        up.bias = nn.Parameter(up.bias[rows].clone())
    up.out_features = len(rows)


def _moments(
    encoder: SentenceTransformer, downs: Sequence[nn.Linear], ids: Sequence[np.ndarray]
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of what goes into each module, over the tokens of the texts but for padding; (I,) float64."""
    lengths = np.array([len(one) for one in ids])
    order = np.argsort(-lengths, kind="stable")
    per_pass = PER_PASS.get(encoder.device.type, PER_PASS["cuda"])
    sums: list[tuple[Tensor, Tensor]] = [(torch.zeros(1), torch.zeros(1))] * len(downs)
    was_training = encoder.training
    encoder.eval()
    for group in micro_batches(lengths[order], per_pass):
        features = as_features(encoder, [ids[i] for i in order[group]])
        there = features["attention_mask"].bool() if "attention_mask" in features else None
        with torch.no_grad(), _watching(downs) as seen:
            encoder(features)
        for place, inputs in enumerate(seen):
            values = (inputs.flatten(0, -2) if there is None else inputs[there]).double()
            first, second = sums[place]
            sums[place] = first.to(values) + values.sum(dim=0), second.to(values) + values.square().sum(dim=0)
    encoder.train(was_training)
    count = int(lengths.sum())
    return [(first / count, second / count - (first / count).square()) for first, second in sums]


@contextmanager
def _watching(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What goes into each module, in the order of a call."""
    seen: list[Tensor] = []
    hooks = [module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()

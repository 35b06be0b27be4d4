"""Embeds token lists in micro-batches, keeping the activations of as many as memory holds; the others are encoded a
second time when their turn in the backward pass comes (gradient cache, Gao et al. 2021, 2101.06983). The loss is
computed on all embeddings at once.

That second pass is `torch.utils.checkpoint` around the encoder: it runs with the random state and the precision of the
first, so that dropout drops the same, and frees a micro-batch's activations before the next is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainers.model.encoder import as_features, to_device
from trainers.model.static import embed, is_static
from trainers.parallel import sharding


@dataclass(frozen=True)
class TokenBudget:
    """How much a rank encodes and keeps, in padded tokens.

    per_pass: of a micro-batch, at most (or one text)
    kept:     of the micro-batches whose activations are kept at once, at most (or one micro-batch)
    """

    per_pass: int
    kept: int


def embed_within_budget(
    encoder: SentenceTransformer, ids: Sequence[Sequence[int] | np.ndarray], budget: TokenBudget
) -> Tensor:
    """Embeddings (len(ids), D) of texts given as token ids, with gradients where the encoder has them.

    Texts are sorted by length, so that padding is little. A batch within `budget.kept` is encoded once. A static model
    has neither padding nor activations: it takes all at once.
    """
    if is_static(encoder):
        return embed(encoder, ids)
    lengths = np.array([len(text) for text in ids])
    order = np.argsort(-lengths, kind="stable")
    groups = micro_batches(lengths[order], budget.per_pass)
    again = num_encoded_again(lengths[order], groups, budget.kept) if torch.is_grad_enabled() else 0
    batches = [[ids[i] for i in order[group]] for group in groups]
    if sharding.is_sharded(encoder):
        batches, again = sharding.agreed(batches, again, encoder.device)
    parts = []
    # torch restores the random state of the devices of the tensors that it is given: dropout must drop the same again.
    here = torch.empty(0, device=encoder.device)
    for number, batch in enumerate(batches):
        if number < again:
            parts.append(checkpoint(_encode, encoder, batch, here, use_reentrant=False))
        else:
            parts.append(_encode(encoder, batch))
    # Embeddings of what only fills up are left out here: their gradients are 0.
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return torch.cat(parts).index_select(0, to_device(torch.from_numpy(back), parts[0].device))


def _encode(encoder: SentenceTransformer, ids: Sequence[Sequence[int] | np.ndarray], _: Tensor | None = None) -> Tensor:
    embeddings: Tensor = encoder(as_features(encoder, ids))["sentence_embedding"]
    return embeddings


def micro_batches(lengths: np.ndarray, tokens_per_pass: int) -> list[slice]:
    """Slices of a descending list of lengths whose padded size (count × longest) fits the budget."""
    groups = []
    start = 0
    while start < len(lengths):
        count = max(1, tokens_per_pass // int(lengths[start]))
        groups.append(slice(start, min(start + count, len(lengths))))
        start += count
    return groups


def num_encoded_again(lengths: np.ndarray, groups: Sequence[slice], kept: int) -> int:
    """How many of the first micro-batches do not keep their activations.

    The last ones keep theirs: the backward pass comes to them first, and has freed them when it encodes the others
    again, one at a time. The last of all would be needed at once, so it is always kept.
    """
    total = 0
    for number in range(len(groups) - 1, -1, -1):
        group = groups[number]
        total += (group.stop - group.start) * int(lengths[group.start])
        if total > kept:
            return min(number + 1, len(groups) - 1)
    return 0

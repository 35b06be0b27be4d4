"""Embeds token lists in micro-batches, keeping activations for one of them only (gradient cache, Gao et al. 2021,
2101.06983): the loss is computed on all embeddings at once, and each micro-batch is encoded a second time when its turn
in the backward pass comes.

That second pass is `torch.utils.checkpoint` around the encoder: it runs with the random state and the precision of the
first, so that dropout drops the same, and frees a micro-batch's activations before the next is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def embed_tokens(
    encoder: SentenceTransformer, ids: Sequence[Sequence[int]], *, tokens_per_pass: int, cached: bool = True
) -> Tensor:
    """Embeddings (len(ids), D) of texts given as token ids, with gradients where the encoder has them.

    tokens_per_pass: padded tokens in a micro-batch, at most (or one text); texts are sorted by length, so that padding
                     is little
    cached:          False keeps the activations of all micro-batches: faster by one forward pass, and as large as the
                     batch. Where everything fits one micro-batch both are the same.
    """
    lengths = np.array([len(text) for text in ids])
    order = np.argsort(-lengths, kind="stable")
    groups = micro_batches(lengths[order], tokens_per_pass)
    parts = []
    for number, group in enumerate(groups):
        features = encoder.tokenizer.pad({"input_ids": [ids[i] for i in order[group]]}, return_tensors="pt")
        inputs = {name: value.to(encoder.device) for name, value in features.items()}
        # The last micro-batch is the first in the backward pass: encoded again, it would be where it already is.
        if cached and torch.is_grad_enabled() and number < len(groups) - 1:
            parts.append(checkpoint(_encode, encoder, inputs, use_reentrant=False))
        else:
            parts.append(_encode(encoder, inputs))
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return torch.cat(parts).index_select(0, torch.from_numpy(back).to(parts[0].device))


def _encode(encoder: SentenceTransformer, inputs: dict[str, Tensor]) -> Tensor:
    # The modules add their results to the dictionary they are given.
    embeddings: Tensor = encoder(dict(inputs))["sentence_embedding"]
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

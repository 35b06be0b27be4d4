"""Static models: sentence-transformers' `StaticEmbedding`, whose text is the mean of its tokens' vectors. A table, no
layers: nothing is padded, no activations are kept, and a step changes only the rows of the tokens that it saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor

from trainers.model.identity import STATIC_FILES


def packaged(folder: Path) -> SentenceTransformer:
    """The model `static`: table and tokenizer as they lie in the package's folder."""
    table, tokens = (folder / name for name in STATIC_FILES)
    embedding = StaticEmbedding(Tokenizer.from_file(str(tokens)), load_file(table)["embedding.weight"].float())
    return SentenceTransformer(modules=[embedding])


def is_static(encoder: SentenceTransformer) -> bool:
    return isinstance(encoder[0], StaticEmbedding)


def prepare(encoder: SentenceTransformer) -> None:
    """Make a static model ready for training, in place: float32, and gradients of the rows that a batch has."""
    encoder.float()
    module: Any = encoder[0]
    module.embedding = MeanOfRows.from_pretrained(module.embedding.weight.detach(), freeze=False)


class MeanOfRows(torch.nn.EmbeddingBag):
    """`torch.nn.EmbeddingBag` by mean whose gradient has only the rows that are looked up, each once, in order."""

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:  # type: ignore[override]
        """(N, D): of each of N texts the mean of its tokens' vectors, 0 for a text without tokens.

        ids:     (T,) the texts' tokens, one text behind the other
        offsets: (N,) where each begins
        """
        if not torch.is_grad_enabled():
            return super().forward(ids, offsets)
        seen = torch.zeros(self.num_embeddings, dtype=torch.bool, device=ids.device)
        seen[ids] = True
        rows = seen.nonzero().squeeze(1)
        place = torch.empty(self.num_embeddings, dtype=torch.long, device=ids.device)
        place[rows] = torch.arange(len(rows), device=ids.device)
        table = torch.nn.functional.embedding(rows, self.weight, sparse=True)
        return torch.nn.functional.embedding_bag(place[ids], table, offsets, mode="mean")


def embed(encoder: SentenceTransformer, ids: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
    """Embeddings (len(ids), D) of texts given as token ids, all in one pass, with gradients where they are on."""
    lengths = np.array([len(text) for text in ids])
    tokens = torch.from_numpy(np.concatenate(ids).astype(np.int64))
    offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
    features = {"input_ids": tokens.to(encoder.device), "offsets": offsets.to(encoder.device)}
    embeddings: Tensor = encoder(features)["sentence_embedding"]
    return embeddings

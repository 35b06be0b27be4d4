"""Attention in both directions, for models that read from left to right: `is_causal` in their config, which
transformers obeys from 5.2 on, and which is saved with them."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from mixture.errors import UsageError

# Two texts that differ in their last token, and one that has them padded.
SHORT, OTHER, LONGER = [5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 7, 8, 9, 10]
# What counts as seen: a change of a token's vector by this share of its length. Rounding in float32 is 1e-6.
SEEN = 1e-4


def read_both_ways(encoder: SentenceTransformer) -> None:
    """Have each token see those to its right too, in place. A model that does so already stays as it is.

    Raises `UsageError` where the model's code does not obey: some families see the right only in padded batches, some
    never.
    """
    if _sees_right(encoder):
        return
    model: Any = encoder.transformers_model
    model.config.is_causal = False
    check_both_ways(encoder)


def check_both_ways(encoder: SentenceTransformer, *, bf16: bool = False) -> None:
    """Raises `UsageError` where some token does not see the next, as the model computes attention now."""
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=bf16):  # flash attention takes no float32
        sees = _sees_right(encoder)
    if not sees:
        model: Any = encoder.transformers_model
        raise UsageError(
            f"bidirectional is true, but {type(model).__name__} under {model.config._attn_implementation} "
            "keeps tokens from seeing those to their right; allowed: false"
        )


def _sees_right(encoder: SentenceTransformer) -> bool:
    """Whether tokens see the last of their text, alone and beside a longer one: padded texts get other masks."""
    return all(_changes(_vectors(encoder, [SHORT, *beside]), _vectors(encoder, [OTHER, *beside]))
               for beside in ([], [LONGER]))  # fmt: skip


def _changes(one: Tensor, other: Tensor) -> bool:
    """Of vectors (T, D) all but the last are looked at."""
    change = (one - other)[:-1].norm(dim=1) / one[:-1].norm(dim=1)
    return bool(change.max() > SEEN)


def _vectors(encoder: SentenceTransformer, texts: list[list[int]]) -> Tensor:
    """The first text's tokens, (T, D) float32."""
    from trainers.model.encoder import as_features  # it imports this module

    features = as_features(encoder, texts)
    there = features["attention_mask"].bool() if "attention_mask" in features else None
    with torch.no_grad():
        found: Tensor = encoder[0](features)["token_embeddings"]
    found = found[there] if there is not None else found.flatten(0, -2)
    return found[: len(texts[0])].float()

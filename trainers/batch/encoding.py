"""Texts to embeddings without gradients, as `SentenceTransformer.encode` gives them, in micro-batches of many tokens.

`encode` of sentence-transformers takes a fixed number of texts at a time, 32 unless told otherwise, which leaves a GPU
waiting; here a micro-batch has as many texts as fill the device. Equal texts are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding
from torch import Tensor
from torch.nn.functional import normalize

from mixture.embeddings import Kind
from trainers.batch.embedding import UNCUT, token_ids
from trainers.batch.gradient_cache import TokenBudget, embed_within_budget
from trainers.batch.memory import PER_PASS
from trainers.model.encoder import to_device

# Texts tokenised at a time, of like length.
AT_ONCE = 1_024


def encode(
    encoder: SentenceTransformer, texts: Sequence[str], prompt: str = "", *, kind: Kind | None = None,
    unit: bool = True, batch_size: int | None = None,
) -> Tensor:  # fmt: skip
    """Embeddings (len(texts), D), float32, on the encoder's device.

    prompt: what stands before every text. The encoder is left in evaluation mode. unit: of unit length, or as the model
    gives them. Models that are not tokens, layers and pooling, nor a table of tokens (two towers, images) go through
    their own `encode`, two towers by the kind; so do all where batch_size says how many texts at once.
    """
    if not texts or batch_size is not None or not _is_plain(encoder, prompt):
        # Those of a kind differ from `encode` only by the task, which models with two towers need.
        own = encoder.encode_query if kind == "query" else encoder.encode_document if kind else encoder.encode
        found = own(list(texts), prompt=prompt, normalize_embeddings=unit, show_progress_bar=False,
                    convert_to_tensor=True, batch_size=batch_size or 32)  # fmt: skip
        return found.float()
    encoder.eval()
    groups, places = in_groups(texts)
    per_pass = PER_PASS.get(encoder.device.type, PER_PASS["cuda"])
    # Tokenizers without a limit say 10^30, which their own code does not take.
    limit = min(encoder.max_seq_length or encoder.tokenizer.model_max_length, UNCUT)
    parts = []
    with torch.inference_mode():
        for group in groups:
            some = [(prompt + text, limit) for text in group]
            parts.append(
                embed_within_budget(encoder, token_ids(encoder.tokenizer, some), TokenBudget(per_pass, per_pass))
            )
        back = to_device(torch.from_numpy(places), encoder.device)
        found = torch.cat(parts).float()
        return (normalize(found, dim=-1) if unit else found).index_select(0, back)


def in_groups(texts: Sequence[str]) -> tuple[list[list[str]], NDArray[np.int64]]:
    """The different texts in the groups in which `encode` takes them: up to `AT_ONCE`, the longest first, equally long
    ones as they came. And where each of n texts stands in the groups one after the other, (n,)."""
    distinct = sorted(dict.fromkeys(texts), key=len, reverse=True)
    place = {text: number for number, text in enumerate(distinct)}
    groups = [distinct[start : start + AT_ONCE] for start in range(0, len(distinct), AT_ONCE)]
    return groups, np.array([place[text] for text in texts], np.int64)


def _is_plain(encoder: SentenceTransformer, prompt: str) -> bool:
    kinds = (Transformer, StaticEmbedding, Pooling, Dense, Normalize)
    return all(type(module) in kinds for module in encoder) and all(
        not prompt or module.include_prompt for module in encoder if isinstance(module, Pooling)
    )

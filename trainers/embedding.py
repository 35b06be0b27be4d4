"""Embed the texts of a batch: equal ones once, shared out over the ranks, in micro-batches of few padded tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from trainers import ranks
from trainers.gradient_cache import embed_tokens


def embed(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    *,
    max_tokens: int | Sequence[int],
    tokens_per_pass: int,
    cached: bool = True,
) -> Tensor:
    """Embeddings (len(texts), D) with gradients where the encoder has them.

    Equal texts are encoded once, in micro-batches of `tokens_per_pass` padded tokens (`gradient_cache.embed_tokens`).
    On several ranks all call it with the same texts; each tokenises and encodes its share of them, and all get all
    embeddings, of which a rank's own carry gradients.

    max_tokens: the longest text, end token included; one number, or one a text
    """
    limits = [max_tokens] * len(texts) if isinstance(max_tokens, int) else list(max_tokens)
    model_limit = encoder.max_seq_length or max(limits)
    limited = [(text, min(limit, model_limit)) for text, limit in zip(texts, limits, strict=True)]
    # By length in characters, so that ranks get equal shares of long and short ones.
    unique = sorted(dict.fromkeys(limited), key=lambda item: (-len(item[0]), item))
    own = [unique[i] for i in ranks.share(len(unique))]
    embeddings = embed_tokens(encoder, _tokenise(encoder, own), tokens_per_pass=tokens_per_pass, cached=cached)
    place = {item: i for i, item in enumerate(unique)}
    places = torch.tensor([place[item] for item in limited], device=embeddings.device)
    return ranks.gather(embeddings, len(unique)).index_select(0, places)


def _tokenise(encoder: SentenceTransformer, limited: Sequence[tuple[str, int]]) -> list[list[int]]:
    """Token ids of (text, limit) pairs. The limit counts the end token, which truncation keeps."""
    found: dict[int, list[int]] = {}
    for limit in sorted({limit for _, limit in limited}):
        places = [i for i, item in enumerate(limited) if item[1] == limit]
        texts = [limited[i][0] for i in places]
        ids = encoder.tokenizer(texts, truncation=True, max_length=limit, padding=False)["input_ids"]
        found |= dict(zip(places, ids, strict=True))
    return [found[i] for i in range(len(limited))]

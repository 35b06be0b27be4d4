"""Contrastive losses: pure functions of embeddings.

Shape legend: B examples, N = 1 + H passages an example (the positive first, then H hard negatives), D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mixture.errors import UsageError


def info_nce(
    query: Tensor,
    passages: Tensor,
    *,
    temperature: float,
    in_batch: bool = False,
    masked: Tensor | None = None,
) -> Tensor:
    """InfoNCE with cosine similarity, one loss an example: (B,), in nats, 0 or more.

    ℓ_i = −log( e^{s(q_i, d_i⁺)/τ} / Σ_{d ∈ C_i} e^{s(q_i, d)/τ} ), tDRO (2408.10613) equation 2 with the example's own
    N passages as candidates C_i; with `in_batch` equation 7, where C_i is all B·N passages of the batch.

    query:       (B, D), of any length: similarity is cosine
    passages:    (B, N, D), or (B·N, D) with each example's passages together, its positive first
    temperature: τ, above 0 (the paper: 0.002)
    masked:      (B, B·N) bool with `in_batch`, else (B, N): candidates that do not count, since they answer the query;
                 an example's own positive always counts
    """
    if temperature <= 0:
        raise UsageError(f"temperature is {temperature}; allowed: above 0")
    batch, dim = query.shape
    if passages.ndim == 2:
        if len(passages) % batch:
            raise UsageError(f"{len(passages)} passages do not divide among {batch} queries")
        passages = passages.view(batch, -1, dim)
    num_passages = passages.shape[1]
    query, passages = normalize(query, dim=-1), normalize(passages, dim=-1)
    if in_batch:
        scores = query @ passages.reshape(batch * num_passages, dim).T / temperature
        own = torch.arange(batch, device=query.device) * num_passages
    else:
        scores = torch.einsum("bd,bnd->bn", query, passages) / temperature
        own = torch.zeros(batch, dtype=torch.long, device=query.device)
    if masked is not None:
        keep_own = masked.scatter(1, own[:, None], torch.zeros_like(own, dtype=torch.bool)[:, None])
        scores = scores.masked_fill(keep_own, float("-inf"))
    return torch.logsumexp(scores, dim=1) - scores.gather(1, own[:, None]).squeeze(1)

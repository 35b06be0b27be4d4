"""InfoNCE, a pure function of embeddings.

Shape legend: B examples, N = 1 + H passages an example (the positive first, then H hard negatives), D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.deferred import Deferred
from trainers.losses.loss import LOSSES, Loss
from trainers.losses.scores import of_scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


def info_nce(
    query: Tensor,
    passages: Tensor,
    *,
    temperature: float,
    in_batch: bool = False,
    masked: Tensor | None = None,
    symmetric: bool = False,
) -> Tensor:
    """InfoNCE with cosine similarity, one loss an example: (B,), in nats, 0 or more.

    ℓ_i = −log( e^{s(q_i, d_i⁺)/τ} / Σ_{d ∈ C_i} e^{s(q_i, d)/τ} ), tDRO (2408.10613) equation 2 with the example's own
    N passages as candidates C_i; with `in_batch` equation 7, where C_i is all B·N passages of the batch.

    query:       (B, D), of any length: similarity is cosine
    passages:    (B, N, D), or (B·N, D) with each example's passages together, its positive first
    temperature: τ, above 0 (the paper: 0.002)
    masked:      (B, B·N) bool with `in_batch`, else (B, N): candidates that do not count, since they answer the query;
                 an example's own positive always counts
    symmetric:   with `in_batch`: the mean of this loss and of the one in the other direction, which finds each
                 positive's query among the B queries (as CLIP, Radford et al. 2021, 2103.00020, figure 3)
    """
    return of_scores(
        _cross_entropy, query, passages, temperature=temperature, in_batch=in_batch, masked=masked, symmetric=symmetric
    )


LOSSES["info_nce"] = Loss(info_nce)


def _cross_entropy(scores: Tensor, own: Tensor, hard: int) -> Tensor:
    """−log softmax of each row's own column, (b,)."""
    return torch.logsumexp(scores, dim=1) - scores.gather(1, own[:, None]).squeeze(1)

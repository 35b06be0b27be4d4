"""How far a model's scores of a batch are from another's, a pure function of the embeddings of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.deferred import Deferred
from trainers.losses.scores import of_scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


def agreement(
    query: Tensor, passages: Tensor, taught_query: Tensor, taught_passages: Tensor, *, temperature: float,
    in_batch: bool, masked: Tensor | None,
) -> Tensor:  # fmt: skip
    """−Σ_d p_d log π_d over a query's candidates d, (B,), in nats: the cross-entropy of the model's softmax π of
    s(q, d)/τ from the teacher's p, which is the same of its own embeddings. Its least value is p's entropy, so that it
    is not 0 where both agree, as their divergence would be.

    query, passages, temperature, in_batch, masked: as of a `LossFunction`; passages (B, N, D)
    taught_query:    (B, D') of the teacher, without gradient, and taught_passages (B, N, D')
    """
    normalize = torch.nn.functional.normalize
    taught_query, taught_passages = (normalize(part.detach(), dim=-1) for part in (taught_query, taught_passages))

    def loss(scores: Tensor, own: Tensor, hard: int, rows: Tensor) -> Tensor:
        if in_batch:
            taught = taught_query[rows] @ taught_passages.flatten(0, 1).T / temperature
        else:
            taught = torch.einsum("bd,bnd->bn", taught_query[rows], taught_passages[rows]) / temperature
        out = scores.isneginf()
        learned = scores.log_softmax(dim=1).masked_fill(out, 0.0)
        return -(taught.masked_fill(out, float("-inf")).softmax(dim=1) * learned).sum(dim=1)

    return of_scores(loss, query, passages, temperature=temperature, in_batch=in_batch, masked=masked, held=2)

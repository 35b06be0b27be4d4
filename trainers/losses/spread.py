"""The spread-out regulariser, a pure function of embeddings: added to any loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.deferred import Deferred
from trainers.losses.scores import by_example

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


def spread_out(query: Tensor, passages: Tensor) -> Tensor:
    """How far from orthogonal an example is to the others, (B,), 0 to 2; the mean is the batch's regulariser,

    1/(B(B − 1)) Σ_{i≠j} (q_i · q_j)² + 1/(B(B − 1)) Σ_{i≠j} (d_i⁺ · d_j⁺)²   of embeddings of length 1.

    It is the second moment of Zhang et al. 2017 (1708.06320), which adds the square of the mean product and takes the
    second moment's excess over 1/D alone; EmbeddingGemma (2509.20354) leaves the first out and takes all of the second,
    of queries and of positives. Points spread evenly over the sphere have 2/D. A batch of one example has 0.

    query, passages: (B, D) of any length and (B, N, D) or (B·N, D), each example's positive first

    Nothing is masked. A pair of equal texts adds a constant, which has no gradient.
    """
    return _second_moment(query) + _second_moment(by_example(query, passages)[:, 0])


def _second_moment(vectors: Tensor) -> Tensor:
    """The mean of each one's squared cosines with the others, (B,); Σ_j (v_i · v_j)² is v_iᵀ (VᵀV) v_i."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    return ((unit @ (unit.T @ unit) * unit).sum(dim=1) - (unit * unit).sum(dim=1) ** 2) / max(len(unit) - 1, 1)

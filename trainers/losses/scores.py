"""Losses that are functions of a query's scores: cosine over temperature, in blocks of queries.

Shape legend: B examples, N = 1 + H passages an example (the positive first, then H hard negatives), M candidates a
query, D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mixture.errors import UsageError
from trainers.deferred import Deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

# Scores held at once, and as much again for each of half a dozen intermediate results: 4 MB, within a processor's
# caches; on a GPU 256 MB, where small blocks would leave it waiting for the next.
BLOCK = {"cpu": 2**20, "cuda": 2**26}


class OfScores(Protocol):
    """One loss a query, (b,).

    scores: (b, M), −inf for candidates that do not count
    own:    (b,), the column of each query's positive
    hard:   the columns after it that are the example's own hard negatives
    rows:   (b,), the queries' places in the batch
    """

    def __call__(self, scores: Tensor, own: Tensor, hard: int, rows: Tensor) -> Tensor: ...


def of_scores(
    loss: OfScores, query: Tensor, passages: Tensor, *, temperature: float, in_batch: bool = False,
    masked: Tensor | None = None, symmetric: bool = False, held: int = 1,
) -> Tensor:  # fmt: skip
    """`loss` of the scores s(q, d)/τ of each example's candidates, (B,); arguments are `LossFunction`'s.

    passages: (B, N, D), or (B·N, D) with each example's passages together, its positive first
    masked:   (B, B·N) bool with `in_batch`, else (B, N)
    held:     numbers that the loss holds for each score
    """
    if temperature <= 0:
        raise UsageError(f"temperature is {temperature}; allowed: above 0")
    if symmetric and not in_batch:
        raise UsageError("a symmetric loss compares a passage with the batch's queries: it needs in_batch")
    batch, dim = query.shape
    passages = by_example(query, passages)
    num_passages = passages.shape[1]
    examples = torch.arange(batch, device=query.device)
    query, passages = torch.nn.functional.normalize(query, dim=-1), torch.nn.functional.normalize(passages, dim=-1)
    if not in_batch:
        scores = torch.einsum("bd,bnd->bn", query, passages) / temperature
        own = torch.zeros_like(examples)
        return loss(_without(masked, scores, own), own, num_passages - 1, examples)
    candidates = passages.reshape(batch * num_passages, dim)
    own = examples * num_passages
    losses = _in_batch(loss, query, candidates, own, num_passages - 1, masked, temperature, held)
    if symmetric:  # what is masked for a query is so for its passage too
        masked = None if masked is None else masked[:, own].T
        losses = (losses + _in_batch(loss, candidates[own], query, examples, 0, masked, temperature, held)) / 2
    return losses


def by_example(query: Tensor, passages: Tensor) -> Tensor:
    """(B, N, D) of passages (B, N, D), or (B·N, D) with each example's together."""
    if passages.ndim == 3:
        return passages
    if len(passages) % len(query):
        raise UsageError(f"{len(passages)} passages do not divide among {len(query)} queries")
    return passages.view(len(query), -1, passages.shape[-1])


def _in_batch(
    loss: OfScores, query: Tensor, candidates: Tensor, own: Tensor, hard: int, masked: Tensor | None,
    temperature: float, held: int,
) -> Tensor:  # fmt: skip
    """Each of B queries among M candidates, (B,); in blocks of queries, scored again when the gradient is computed.

    At a batch of 4096 with 7 negatives all scores at once would be half a gigabyte, several times over.
    """
    from torch.utils.checkpoint import checkpoint

    examples = torch.arange(len(query), device=query.device)

    def block(rows: slice, some: Tensor, all_candidates: Tensor) -> Tensor:
        scores = some @ all_candidates.T / temperature
        counted = _without(None if masked is None else masked[rows], scores, own[rows])
        return loss(counted, own[rows], hard, examples[rows])

    step = max(1, BLOCK.get(query.device.type, BLOCK["cuda"]) // (len(candidates) * held))
    if step >= len(query):
        return block(slice(None), query, candidates)
    blocks = [slice(start, start + step) for start in range(0, len(query), step)]
    return torch.cat([checkpoint(block, rows, query[rows], candidates, use_reentrant=False) for rows in blocks])


def _without(masked: Tensor | None, scores: Tensor, own: Tensor) -> Tensor:
    """The scores with −inf in the masked columns, but never in the own."""
    if masked is None:
        return scores
    return scores.masked_fill(masked.scatter(1, own[:, None], False), float("-inf"))

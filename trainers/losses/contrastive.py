"""InfoNCE, a pure function of embeddings.

Shape legend: B examples, N = 1 + H passages an example (the positive first, then H hard negatives), D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.losses.loss import LOSSES, Loss

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

# Scores held at once, and as much again for each of half a dozen intermediate results: 4 MB, within a processor's
# caches; on a GPU 256 MB, where small blocks would leave it waiting for the next.
BLOCK = {"cpu": 2**20, "cuda": 2**26}


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
    if temperature <= 0:
        raise UsageError(f"temperature is {temperature}; allowed: above 0")
    if symmetric and not in_batch:
        raise UsageError("a symmetric loss compares a passage with the batch's queries: it needs in_batch")
    batch, dim = query.shape
    if passages.ndim == 2:
        if len(passages) % batch:
            raise UsageError(f"{len(passages)} passages do not divide among {batch} queries")
        passages = passages.view(batch, -1, dim)
    num_passages = passages.shape[1]
    query, passages = torch.nn.functional.normalize(query, dim=-1), torch.nn.functional.normalize(passages, dim=-1)
    if not in_batch:
        scores = torch.einsum("bd,bnd->bn", query, passages) / temperature
        return _cross_entropy(scores, torch.zeros(batch, dtype=torch.long, device=query.device), masked)
    candidates = passages.reshape(batch * num_passages, dim)
    examples = torch.arange(batch, device=query.device)
    own = examples * num_passages
    losses = _in_batch(query, candidates, own, masked, temperature)
    if symmetric:  # what is masked for a query is so for its passage too
        masked = None if masked is None else masked[:, own].T
        losses = (losses + _in_batch(candidates[own], query, examples, masked, temperature)) / 2
    return losses


LOSSES["info_nce"] = Loss(info_nce)


def _in_batch(query: Tensor, candidates: Tensor, own: Tensor, masked: Tensor | None, temperature: float) -> Tensor:
    """Each of B queries among M candidates, (B,); in blocks of queries, scored again when the gradient is computed.

    At a batch of 4096 with 7 negatives all scores at once would be half a gigabyte, several times over.
    """
    from torch.utils.checkpoint import checkpoint

    def block(rows: slice, some: Tensor, all_candidates: Tensor) -> Tensor:
        scores = some @ all_candidates.T / temperature
        return _cross_entropy(scores, own[rows], None if masked is None else masked[rows])

    step = max(1, BLOCK.get(query.device.type, BLOCK["cuda"]) // len(candidates))
    if step >= len(query):
        return block(slice(None), query, candidates)
    blocks = [slice(start, start + step) for start in range(0, len(query), step)]
    return torch.cat([checkpoint(block, rows, query[rows], candidates, use_reentrant=False) for rows in blocks])


def _cross_entropy(scores: Tensor, wanted: Tensor, masked: Tensor | None) -> Tensor:
    """−log softmax of each row's wanted column, (B,); masked columns do not count, but the wanted always does."""
    if masked is not None:
        others = masked.scatter(1, wanted[:, None], torch.zeros_like(wanted, dtype=torch.bool)[:, None])
        scores = scores.masked_fill(others, float("-inf"))
    return torch.logsumexp(scores, dim=1) - scores.gather(1, wanted[:, None]).squeeze(1)

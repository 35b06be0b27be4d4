"""nDCG of rankings drawn from a Plackett–Luce model, and the gradient of its expectation by samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mixture.sampling import generator
from trainers.deferred import Deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

# The score of a candidate that is not in the ranking: under all others, and no noise lifts it.
NOWHERE = -1e30


def sampled_ndcg(scores: Tensor, gains: Tensor, noise: Tensor, *, cut: int) -> Tensor:
    """1 − the mean nDCG@cut of rankings drawn from the scores, (b,); its gradient is that of 1 − E[nDCG]
    without bias.

    A ranking is the order of scores plus Gumbel noise. ∇E[Δ] = E[Σ_k G_k ∇log π(r_k | r_1 … r_{k−1})]: the place k is
    credited with G_k, what is gained from k on (the reward to go). From G_k goes its mean over the other rankings
    drawn, which no r_k of this one depends on (leave-one-out, Kool et al. 2019; Neural PG-RANK, 2310.04407, too).

    scores: (b, M), over τ; −inf for candidates that are not in the ranking
    gains:  (b, M), 0 or more, linear as in trec_eval, one of them at least above 0
    noise:  (S, b, M) of `gumbel`, for S rankings
    """
    scores, depth = scores.clamp(min=NOWHERE), min(cut, scores.shape[1])
    order = (scores.detach() + noise).topk(depth, dim=2).indices
    every = scores.expand_as(noise)
    taken = every.gather(2, order)
    left = every.scatter(2, order, NOWHERE).logsumexp(dim=2)
    chances = []
    for place in reversed(range(depth)):  # from behind, so that sums grow
        left = torch.logaddexp(left, taken[..., place])
        chances.append(taken[..., place] - left)
    discounts = discounts_of(scores, depth)
    gained = gains.expand_as(noise).gather(2, order) * discounts / ideal(gains, cut)[:, None]
    to_go = gained.flip(2).cumsum(dim=2)  # from behind, as `chances`
    if len(noise) > 1:
        credit = to_go - (to_go.sum(dim=0) - to_go) / (len(noise) - 1)
    else:
        credit = to_go
    ascended = (credit * torch.stack(chances, dim=2)).sum(dim=2).mean(dim=0)
    return 1 - to_go[..., -1].mean(dim=0) - (ascended - ascended.detach())


def gumbel(key: tuple[int, ...], rows: Tensor, samples: int, candidates: int, like: Tensor) -> Tensor:
    """Standard Gumbel noise, (S, b, M), a function of the key and each row's place in the batch alone: the same in
    blocks of any size, on any rank and device."""
    drawn = [generator("gumbel", *key, row).gumbel(size=(samples, candidates)) for row in rows.tolist()]
    return torch.from_numpy(np.stack(drawn, axis=1)).to(like.device, like.dtype)


def ideal(gains: Tensor, cut: int) -> Tensor:
    """DCG@cut of the best ranking, (b,)."""
    best = gains.topk(min(cut, gains.shape[1]), dim=1).values
    return (best * discounts_of(gains, best.shape[1])).sum(dim=1)


def discounts_of(like: Tensor, depth: int) -> Tensor:
    """1/log₂(k + 2) of the places k from 0."""
    return 1 / torch.log2(torch.arange(depth, dtype=like.dtype, device=like.device) + 2)

"""Expected nDCG, a pure function of embeddings: what evaluation measures, as a loss."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from functools import cache, reduce
from typing import TYPE_CHECKING

import numpy as np

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.losses.loss import LOSSES, Loss
from trainers.losses.rankings import gumbel, ideal, sampled_ndcg
from trainers.losses.scores import of_scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

# The logarithm of a standard exponential time lies between these but for 1e-8.
EARLIEST, LATEST = -18.0, 3.0
LONGEST_CUT = 100
POSITIVES = ("one", "all")


def expected_ndcg(
    query: Tensor,
    passages: Tensor,
    *,
    temperature: float,
    in_batch: bool = False,
    masked: Tensor | None = None,
    symmetric: bool = False,
    ndcg_cut: int = 10,
    ndcg_positives: str = "one",
    ndcg_samples: int = 0,
    answers: Tensor | None = None,
    key: tuple[int, ...] = (),
) -> Tensor:
    """1 − E[nDCG@cut] of a ranking drawn from the scores, one loss an example: (B,), 0 to 1.

    Neural PG-RANK (2310.04407) draws rankings of the candidates from a Plackett–Luce model, π(r) = Π_k e^{s(r_k)/τ} /
    Σ_{j≥k} e^{s(r_j)/τ}, and descends −E[nDCG] with sampled gradients. With one positive p no sampling is needed: the
    ranking is the order of exponential clocks with rates e^{s_j/τ}, so that given the positive's clock the others run
    before it independently. Its rank is Poisson-binomial, PB, and

    E[nDCG@K] = ∫ Σ_{k<K} PB(k; p_j(x)) / log₂(k + 2) · e^{x − e^x} dx,   p_j(x) = 1 − exp(−e^{x + (s_j − s_p)/τ}),

    where x is the logarithm of the positive's time. The integral is Gauss–Legendre's sum over Q values of x, right to
    1e-7. At K = 1 it is the softmax probability whose −log InfoNCE is. With several positives DCG is a sum over them,
    and so is its expectation: each one's rank is Poisson-binomial among all others.

    query, passages, temperature, in_batch and masked are `info_nce`'s; a masked candidate is not in the ranking
    temperature:    0.02 to 0.1; under that nearly all rankings drawn are the same, and the gradient is 0
    ndcg_cut:       K, the ranks that count, 1 to `LONGEST_CUT`
    ndcg_positives: one: the example's own positive; all: those of `answers` too. The ideal ranking has them on top
    ndcg_samples:   0: the expectation; 2 or more: the mean over so many rankings drawn (`rankings.sampled_ndcg`)
    answers:        (B, B·N) bool with `in_batch`: the other candidates that are positives
    key:            of the noise, where rankings are drawn

    Raises `UsageError` with `symmetric`: evaluation ranks passages for a query alone.
    """
    if symmetric:
        raise UsageError("symmetric is True; expected_ndcg has no such form")
    if not 1 <= ndcg_cut <= LONGEST_CUT:
        raise UsageError(f"ndcg_cut is {ndcg_cut}; allowed: 1 to {LONGEST_CUT}")
    if ndcg_positives not in POSITIVES:
        raise UsageError(f"ndcg_positives is {ndcg_positives}; allowed: {', '.join(POSITIVES)}")
    if ndcg_samples < 0 or ndcg_samples == 1:
        raise UsageError(f"ndcg_samples is {ndcg_samples}; allowed: 0, or 2 or more")
    if ndcg_positives == "one":
        answers = None
    elif answers is not None and masked is not None:
        masked = masked & ~answers

    def loss(scores: Tensor, own: Tensor, hard: int, rows: Tensor) -> Tensor:
        if answers is None and not ndcg_samples:
            return ndcg_of_scores(scores, own, cut=ndcg_cut)
        gains = torch.zeros_like(scores).scatter(1, own[:, None], 1.0)
        if answers is not None:
            gains = gains.masked_fill(answers[rows], 1.0)
        if not ndcg_samples:
            return ndcg_of_gains(scores, gains, cut=ndcg_cut)
        noise = gumbel(key, rows, ndcg_samples, scores.shape[1], scores)
        return sampled_ndcg(scores, gains, noise, cut=ndcg_cut)

    return of_scores(
        loss, query, passages, temperature=temperature, in_batch=in_batch, masked=masked,
        held=ndcg_samples or len(_quadrature(ndcg_cut)[0]),
    )  # fmt: skip


def ndcg_of_gains(scores: Tensor, gains: Tensor, *, cut: int) -> Tensor:
    """1 − E[nDCG@cut], (b,), of (b, M) scores over τ and (b, M) gains, 0 or more, linear as in trec_eval; no row is
    without one. The memory is that of one positive a row, however many there are."""
    from torch.utils.checkpoint import checkpoint

    rows, columns = gains.nonzero(as_tuple=True)
    if len(rows) == len(scores):  # one each, in the rows' order
        return ndcg_of_scores(scores, columns, cut=cut)
    parts = zip(rows.split(len(scores)), columns.split(len(scores)), strict=True)
    lost = torch.cat([
        checkpoint(lambda s, r, c: ndcg_of_scores(s[r], c, cut=cut), scores, *part, use_reentrant=False)
        for part in parts
    ])  # fmt: skip
    discounts = torch.zeros_like(scores).index_put((rows, columns), 1 - lost)
    return 1 - (gains * discounts).sum(dim=1) / ideal(gains, cut)


def ndcg_of_scores(scores: Tensor, own: Tensor, *, cut: int) -> Tensor:
    """1 − E[nDCG@cut] where each row's own column (b,) is the positive; of (b, M) scores over τ: (b,)."""
    gaps = (scores - scores.gather(1, own[:, None])).scatter(1, own[:, None], float("-inf"))
    times, weights, gains = (torch.as_tensor(a, dtype=scores.dtype, device=scores.device) for a in _quadrature(cut))
    rates = (gaps[:, :, None] + times).clamp(max=30).exp()  # beyond, the clock has run for sure
    ranks = _poisson_binomial(torch.exp(-rates), -torch.expm1(-rates), cut)
    ndcg = _sum(of_rank * gain for of_rank, gain in zip(ranks, gains, strict=False))  # fewer candidates, fewer ranks
    return ((1 - ndcg) * weights).sum(dim=1)


def _poisson_binomial(never: Tensor, happens: Tensor, most: int) -> list[Tensor]:
    """The probabilities of 0, 1, ... up to `most` − 1 of M independent events, each (b, Q); from (b, M, Q).

    The product of the polynomials never + happens·z, cut off at z^most, in pairs: log₂ M passes, all terms positive.
    """
    terms = [never, happens][:most]
    while (events := terms[0].shape[1]) > 1:
        if events % 2:  # one more, that never happens
            pad = torch.nn.functional.pad
            terms = [pad(term, (0, 0, 0, 1), value=float(k == 0)) for k, term in enumerate(terms)]
        left, right = [t[:, 0::2] for t in terms], [t[:, 1::2] for t in terms]
        size = min(most, 2 * len(terms) - 1)
        terms = [_sum(left[i] * right[k - i] for i in range(len(left)) if 0 <= k - i < len(left)) for k in range(size)]
    return [term[:, 0] for term in terms]


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return reduce(operator.add, terms)


@cache
def _quadrature(cut: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of times (Q,), their probabilities (Q,), and the gain at each rank (cut,).

    Among many candidates the time by which `cut` have run is the sharper the larger `cut` is, as its root.
    """
    nodes, weights = np.polynomial.legendre.leggauss(max(56, math.ceil(28 * math.sqrt(cut))))
    times = EARLIEST + (LATEST - EARLIEST) * (nodes + 1) / 2
    weights = weights * np.exp(times - np.exp(times)) * (LATEST - EARLIEST) / 2
    weights[0] -= np.expm1(-np.exp(EARLIEST))  # whoever runs before is first
    return times, weights / weights.sum(), 1 / np.log2(np.arange(cut) + 2)


LOSSES["expected_ndcg"] = Loss(
    expected_ndcg, cannot=("symmetric_loss",), takes=("ndcg_cut", "ndcg_positives", "ndcg_samples"),
    of_batch=("ndcg_positives",), given=("answers", "key"), least_temperature=0.01,
)  # fmt: skip

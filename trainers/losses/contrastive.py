"""InfoNCE, a pure function of embeddings.

Shape legend: B examples, N = 1 + H passages an example (the positive first, then H hard negatives), D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.losses.loss import LOSSES, Loss
from trainers.losses.scores import by_example, of_scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

MARGINS = ("absolute", "relative")
JUDGES = ("model", "teacher")
DIRECTIONS = ("qd", "qq", "dq", "dd")


def info_nce(
    query: Tensor,
    passages: Tensor,
    *,
    temperature: float,
    in_batch: bool = False,
    masked: Tensor | None = None,
    symmetric: bool = False,
    margin: float | None = None,
    margin_strategy: str = "absolute",
    margin_by: str = "model",
    hardness: float = 0.0,
    directions: tuple[str, ...] = ("qd",),
    teacher: Tensor | None = None,
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
    margin:      likely false negatives do not count, in either direction: candidates that the model itself scores over
                 s⁺ − margin (`margin_strategy` absolute) or s⁺ − margin·|s⁺| (relative), s⁺ = s(q_i, d_i⁺); None: all
                 count. sentence-transformers' `GISTEmbedLoss` has the same of a guide's scores, NV-Retriever
                 (2407.15831) in mining; Qwen3 Embedding (2506.05176) trains with absolute −0.1
    margin_by:   model, or teacher: the same of the scores in `teacher`, which the example's own hard negatives alone
                 have
    teacher:     (B, N) scores of the example's passages, NaN where one has none
    hardness:    α ≥ 0: in C_i the example's own hard negatives weigh e^{α·sg(s(q_i, d))}, where sg has no gradient;
                 EmbeddingGemma (2509.20354) takes 5. From passage to query nothing weighs more
    directions:  with `in_batch`: what the sum over C_i holds. All four are GTE's (2308.03281, equations 5 and 6),

                 Σ_d e^{s(q_i, d)/τ} + Σ_{j≠i} e^{s(q_i, q_j)/τ} + Σ_j e^{s(q_j, d_i⁺)/τ} + Σ_{j≠i} e^{s(d_j⁺, d_i⁺)/τ}

                 for qd, qq, dq and dd; qd is always there. GTE's equation is of pairs: here d are all B·N passages, and
                 in dq and dd the positives alone. As in GTE dq has j = i, so that with it no loss is under log 2.
                 What `masked` says of d_j⁺ and q_i holds in all of them: in dq q_j does not count where d_i⁺ answers
                 it; in qq and dd example j does not where d_j⁺ answers q_i or d_i⁺ answers q_j, since the two ask the
                 same, as equal queries do. `margin` leaves out in all of them

    Raises `UsageError` for a temperature that is not above 0, for values that `margin_strategy`, `hardness` and
    `directions` cannot have, and for more directions than qd without `in_batch` or with `symmetric`.
    """
    if margin_strategy not in MARGINS:
        raise UsageError(f"margin_strategy is {margin_strategy}; allowed: {', '.join(MARGINS)}")
    if margin_by not in JUDGES:
        raise UsageError(f"margin_by is {margin_by}; allowed: {', '.join(JUDGES)}")
    if hardness < 0:
        raise UsageError(f"hardness is {hardness}; allowed: 0 or more")
    if fault := fault_of_directions(directions, in_batch=in_batch, symmetric=symmetric):
        raise UsageError(f"directions is {directions}; allowed: {fault}")
    if margin is not None and margin_by == "teacher":
        if teacher is None:
            raise UsageError("margin_by is teacher, which needs the scores of one")
        masked = _likely(teacher, margin, margin_strategy, in_batch, masked)
        margin = None
    passages = by_example(query, passages)
    more = None
    if len(directions) > 1 and temperature > 0:
        more = _other_directions(query, passages, directions, masked, temperature)
    loss = partial(_cross_entropy, temperature=temperature, margin=margin, strategy=margin_strategy, hardness=hardness,
                   more=more, again="dq" in directions)  # fmt: skip
    return of_scores(
        loss, query, passages, temperature=temperature, in_batch=in_batch, masked=masked, symmetric=symmetric,
        held=math.ceil((passages.shape[1] + len(directions) - 1) / passages.shape[1]),
    )  # fmt: skip


LOSSES["info_nce"] = Loss(
    info_nce, takes=("margin", "margin_strategy", "margin_by", "hardness", "directions"), of_batch=("directions",),
    given=("teacher",),
)  # fmt: skip


def fault_of_directions(directions: tuple[str, ...], *, in_batch: bool, symmetric: bool) -> str | None:
    """What is allowed where the directions are not."""
    if "qd" not in directions or len(set(directions) & set(DIRECTIONS)) < len(directions):
        return f"qd, with any of {', '.join(DIRECTIONS[1:])}, each once"
    if len(directions) > 1 and symmetric:
        return "qd with symmetric_loss, which is another form of it"
    return "qd without in_batch" if len(directions) > 1 and not in_batch else None


def _other_directions(
    query: Tensor, passages: Tensor, directions: tuple[str, ...], masked: Tensor | None, temperature: float
) -> Callable[[Tensor], Tensor]:
    """The scores of the other examples that the directions but qd add for some rows (b,) of the batch; (b, ·)."""
    query, positive = (torch.nn.functional.normalize(part, dim=-1) for part in (query, passages[:, 0]))
    itself = torch.eye(len(query), dtype=torch.bool, device=query.device)
    answers = itself if masked is None else masked[:, :: passages.shape[1]] | itself
    same = answers | answers.T
    whose = {"qq": (query, query, same), "dq": (positive, query, answers.T), "dd": (positive, positive, same)}

    def scores(rows: Tensor) -> Tensor:
        pairs = (whose[direction] for direction in DIRECTIONS[1:] if direction in directions)
        return torch.cat(
            [
                (ours[rows] @ theirs.T / temperature).masked_fill(out[rows], float("-inf"))
                for ours, theirs, out in pairs
            ],
            dim=1,
        )

    return scores


def _likely(teacher: Tensor, margin: float, strategy: str, in_batch: bool, masked: Tensor | None) -> Tensor:
    """`masked`, and the example's own negatives that a teacher (B, N) scores so high that they are likely answers."""
    positive = teacher[:, :1]
    likely = teacher > positive - margin * (positive.abs() if strategy == "relative" else 1)  # false of NaN
    likely[:, 0] = False
    if in_batch:
        own, each = likely, torch.arange(len(likely), device=likely.device)
        likely = own.new_zeros(len(own), *own.shape)
        likely[each, each] = own
        likely = likely.flatten(1)
    return likely if masked is None else masked | likely


def _cross_entropy(
    scores: Tensor, own: Tensor, hard: int, rows: Tensor, *, temperature: float, margin: float | None, strategy: str,
    hardness: float, more: Callable[[Tensor], Tensor] | None, again: bool,
) -> Tensor:  # fmt: skip
    """−log softmax of each row's own column, (b,), among these scores, those of `more`, and its own `again`."""
    positive = scores.gather(1, own[:, None])
    if more is not None:
        scores = torch.cat([scores, more(rows)], dim=1)
    if margin is not None:
        allowed = positive.abs() if strategy == "relative" else 1 / temperature
        likely = (scores > positive - margin * allowed).scatter(1, own[:, None], False)
        scores = scores.masked_fill(likely, float("-inf"))
    if hardness and hard:
        columns = own[:, None] + torch.arange(1, hard + 1, device=own.device)
        scores = scores.scatter_add(1, columns, hardness * temperature * scores.detach().gather(1, columns))
    if again:
        scores = torch.cat([scores, positive], dim=1)
    return torch.logsumexp(scores, dim=1) - positive.squeeze(1)

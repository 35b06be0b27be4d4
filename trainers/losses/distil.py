"""Distillation from a teacher's scores, a pure function of embeddings and of the scores that the store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixture.errors import UsageError
from trainers.deferred import Deferred
from trainers.losses.contrastive import info_nce
from trainers.losses.loss import LOSSES, Loss

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

KINDS = ("kl", "margin_mse")


def distil(
    query: Tensor,
    passages: Tensor,
    *,
    temperature: float,
    in_batch: bool = False,
    masked: Tensor | None = None,
    symmetric: bool = False,
    teacher: Tensor | None = None,
    distil_by: str = "kl",
    distil_weight: float = 0.5,
    teacher_temperature: float | None = None,
    **more: Any,
) -> Tensor:
    """(1 − w)·InfoNCE + w·D, one loss an example: (B,).

    D compares an example's own passages by their scores over temperatures, the model's z = s(q, d)/τ with the teacher's
    y = t(q, d)/τ_t. Passages without a teacher's score do not count in it.

    kl:         KL(p ‖ π) = Σ_d p_d (log p_d − log π_d), where p is the softmax of y and π that of z: RankDistil (Reddi
                et al. 2021), and `kl_div` of FlagEmbedding for a teacher of logits at τ_t = 1
    margin_mse: the mean over the negatives of ((z⁺ − z) − (y⁺ − y))²; Hofstätter et al. 2020 (2010.02666) equation 3,
                on logits where both temperatures are 1

    query, passages, temperature, in_batch, masked and symmetric are `info_nce`'s, and so is `more`
    teacher:             (B, N) scores, higher for the more relevant, NaN where a passage has none. An example whose
                         positive has none, or none of whose negatives has one, has InfoNCE alone
    distil_weight:       w, 0 to 1
    teacher_temperature: τ_t, above 0; None: as `temperature`, which suits cosines. For the logits of a cross-encoder 1

    Raises `UsageError` without `teacher`, and for values that the settings cannot have.
    """
    own = teacher_temperature if teacher_temperature is not None else temperature
    if teacher is None:
        raise UsageError("distil needs the scores of a teacher")
    if distil_by not in KINDS:
        raise UsageError(f"distil_by is {distil_by}; allowed: {', '.join(KINDS)}")
    if not 0 <= distil_weight <= 1:
        raise UsageError(f"distil_weight is {distil_weight}; allowed: 0 to 1")
    if own <= 0:
        raise UsageError(f"teacher_temperature is {own}; allowed: above 0")
    contrast = info_nce(query, passages, temperature=temperature, in_batch=in_batch, masked=masked,
                        symmetric=symmetric, teacher=teacher, **more)  # fmt: skip
    normalize = torch.nn.functional.normalize
    query, passages = normalize(query, dim=-1), normalize(passages.view(len(query), -1, query.shape[-1]), dim=-1)
    scores = torch.einsum("bd,bnd->bn", query, passages) / temperature
    known = teacher.isfinite()
    taught = known[:, 0] & known[:, 1:].any(dim=1)
    # What is not taught counts nowhere below; finite numbers keep its gradient 0, where NaN would spread.
    known = known | ~taught[:, None]
    target = torch.where(known, teacher.nan_to_num() / own, 0.0).to(scores)
    if distil_by == "kl":
        out = torch.finfo(scores.dtype).min
        target, learned = (x.masked_fill(~known, out).log_softmax(dim=1) for x in (target, scores))
        apart = (target.exp() * (target - learned)).masked_fill(~known, 0).sum(dim=1)
    else:
        gaps = (scores[:, :1] - scores[:, 1:]) - (target[:, :1] - target[:, 1:])
        counted = known[:, 1:]
        apart = (gaps.square() * counted).sum(dim=1) / counted.sum(dim=1)
    return torch.where(taught, (1 - distil_weight) * contrast + distil_weight * apart, contrast)


LOSSES["distil"] = Loss(
    distil,
    takes=("distil_by", "distil_weight", "teacher_temperature", *LOSSES["info_nce"].takes),
    of_batch=LOSSES["info_nce"].of_batch,
    given=("teacher",),
)

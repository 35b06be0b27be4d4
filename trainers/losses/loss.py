"""What a loss of embeddings is, the dictionary of all, and what any of them can be put into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mixture.errors import UsageError
from trainers.deferred import Deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class LossFunction(Protocol):
    """One loss an example, (B,), whose mean over the batch is descended.

    query:       (B, D), of any length
    passages:    (B, N, D), each example's positive first, then its hard negatives
    temperature: above 0
    in_batch:    whether all B·N passages of the batch are candidates, or the example's own N alone
    masked:      (B, B·N) bool, only with in_batch: candidates that must not count, since they answer the query; an
                 example's own positive always counts
    symmetric:   only with in_batch: the loss from passage to query too
    more:        the settings that `Loss.takes` names, and what `Loss.given` does
    """

    def __call__(
        self, query: Tensor, passages: Tensor, *, temperature: float, in_batch: bool, masked: Tensor | None,
        symmetric: bool, **more: Any,
    ) -> Tensor: ...  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """A loss to train with, and the settings of `FinetuneSettings` that suit it.

    cannot:            those that it has no form for, of in_batch, symmetric_loss and matryoshka_dims: refused with it
    takes:             those that are its own, given by their names: refused with losses that do not take them
    of_batch:          those of `takes` that set the batch's examples against each other: without in_batch they are at
                       their defaults
    given:             what it is told of the batch, of
                       answers: (B, B·N) bool, candidates of `masked` that answer the query, of equal texts one and none
                       that equals the example's own positive; None without in_batch
                       teacher: (B, N) float32, what a teacher scores each example's passages, NaN where one has no
                       score; None where no setting asks for it
                       key: numbers to draw noise from, others at each step and the same on every rank
    least_temperature: a lower temperature is refused with it
    """

    function: Callable[..., Tensor]  # a `LossFunction`
    cannot: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    of_batch: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    least_temperature: float = 0.0


# The name in the setting `loss` -> the loss. The modules beside this one fill it.
LOSSES: dict[str, Loss] = {}


def matryoshka(
    loss: Callable[[Tensor, Tensor], Tensor], query: Tensor, passages: Tensor, dims: Sequence[int]
) -> Tensor:
    """The mean of a loss of embeddings over their first d dimensions, for each d of `dims` (Kusupati et al. 2022,
    2205.13147, equation 1 with equal weights); (B,).

    loss:            of (B, d) and (..., d)
    query, passages: (B, D) and (..., D), every d at most D
    """
    longer = [d for d in dims if d > query.shape[-1]]
    if longer:
        raise UsageError(f"matryoshka_dims has {longer[0]}; the model's embeddings have {query.shape[-1]} dimensions")
    return torch.stack([loss(query[..., :d], passages[..., :d]) for d in dims]).mean(dim=0)

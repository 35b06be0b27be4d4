"""One fine-tuning in which the first layers are models, too: the setting `elastic_layers`.

Each step trains the whole model with its loss, and then its smallest depth and a random other one (the sandwich of
Yu and Huang 2019, 1903.05134, as AmoebaLLM has it, 2411.10606). These learn the scores that the whole model had in this
step. sentence-transformers' `AdaptiveLayerLoss` has the same goal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from mixture.errors import UsageError
from mixture.sampling import generator
from trainers.losses.agreement import agreement
from trainers.model.static import is_static
from trainers.shrinking.layers import layers_of, with_layers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from trainers.batch.texts import TextBatch
    from trainers.finetune.config import FinetuneSettings
    from trainers.loop.steps import TrainingLoop

# What a student's loss is divided by, at least.
LEAST = 1e-8


def check_depths(encoder: SentenceTransformer, settings: FinetuneSettings) -> None:
    """Raise `UsageError` where the model has not the depths that the settings name."""
    if not settings.elastic_layers:
        return
    if is_static(encoder):
        raise UsageError("elastic_layers names depths, and a static model has no layers; allowed: []")
    number = len(layers_of(encoder))
    if wrong := [depth for depth in settings.elastic_layers if depth >= number]:
        raise UsageError(f"elastic_layers has {wrong[0]}; allowed: 1 to {number - 1}, since the model has {number} "
                         "layers")  # fmt: skip


def depths_at(settings: FinetuneSettings, step: int) -> list[int]:
    """The depths that a step trains beside the whole model: the least, and of the others one that step and seed draw.

    It does not depend on anything else, so that a run that goes on trains the same.
    """
    least, *others = sorted(settings.elastic_layers)
    drawn = [int(generator(settings.seed, "depth", step).choice(others))] if others else []
    return [least, *drawn]


def student_losses(
    loop: TrainingLoop, batch: TextBatch, taught: tuple[Tensor, Tensor], full: Tensor, weight: float | Tensor, *,
    temperature: float, in_batch: bool, masked: Tensor | None,
) -> Iterator[Tensor]:  # fmt: skip
    """The loss of each depth of this step, scalars with gradients, one after the other: the activations of one depth
    can go before the next is computed.

    ℓ_i · sg(ℓ)/sg(ℓ_i), where ℓ_i is the mean `agreement` with the whole model's scores and ℓ the whole model's loss:
    each depth has the value of ℓ, so that none outweighs another.

    taught: queries (B, D) and passages (B, N, D) as the whole model embedded them
    full:   ℓ
    weight: of the losses of the batch, or of each example, (B,)
    """
    settings: FinetuneSettings = loop.settings  # type: ignore[assignment]
    for depth in depths_at(settings, loop.step):
        query, passages = loop.embed_batch(with_layers(loop.encoder, range(depth)), batch)
        passages = passages.unflatten(0, (len(query), -1))
        parts = [
            agreement(*(part[..., :dims] for part in (query, passages, *taught)), temperature=temperature,
                      in_batch=in_batch, masked=masked)
            for dims in settings.matryoshka_dims or (query.shape[-1],)
        ]  # fmt: skip
        losses = sum(parts[1:], parts[0]) / len(parts)
        loss = (losses * (weight if isinstance(weight, float) else weight.to(losses))).mean()
        yield loss * (full / loss.detach().clamp_min(LEAST))

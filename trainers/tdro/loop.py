"""The tDRO loop: weights and proxy model take turns (arXiv 2408.10613, section 3 and equations 3 to 6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.data import BatchSource, TextBatch
from trainers.encoder import add_lora, load_encoder
from trainers.loop import History, Progress, TrainingLoop
from trainers.losses import info_nce
from trainers.tdro.config import TdroSettings
from trainers.tdro.objective import group_mean, measure, step_weights, weighted_proxy_loss
from trainers.tdro.weights import WeightState

# Called with all rows of the history so far, at each checkpoint.
Record = Callable[[list[dict[str, Any]]], None]


def learn_weights(
    mixture: MaterialisedMixture,
    proxy: str,
    reference: str,
    settings: TdroSettings,
    folder: Path,
    *,
    record: Record | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Learn a weight for each collection of `mixture`; its own weights do not matter (batches are uniform).

    proxy, reference: models by folder or name; the reference stays frozen
    folder: checkpoints; a killed run goes on from the last one

    Returns collection -> weight, sum 1.
    """
    bare = [name for name, part in mixture.components.items() if part.num_with_negatives() == 0]
    if bare:
        raise UsageError(f"no hard negatives in: {', '.join(bare)}; run `mixture mine` on them first")
    names = tuple(sorted(mixture.components))
    encoder = load_encoder(proxy, max_tokens=settings.max_passage_tokens)
    add_lora(encoder, settings)
    frozen = load_encoder(reference, max_tokens=settings.max_passage_tokens).requires_grad_(False).eval()
    weights, history = WeightState.uniform(len(names)), History()
    loop = TrainingLoop(encoder, settings, folder, also=(weights, history))
    loop.resume()
    uniform = dict.fromkeys(names, 1.0 / len(names))
    source = BatchSource(
        mixture, BatchPlan(uniform, mixture.sizes, settings.batch_size, settings.seed), negatives=settings.negatives
    )
    loop.encoder.train()
    while loop.step < settings.steps:
        rows = _step(loop, frozen, source.mixed(loop.step), weights, names)
        history.rows.extend(rows)
        if loop.save_if_due() and record is not None:
            record(history.rows)
        if progress is not None:
            heaviest = max(rows, key=lambda row: row["weight"])
            progress(loop.step, settings.steps, f"heaviest {heaviest['collection']} {heaviest['weight']:.4f}")
    if record is not None:
        record(history.rows)  # once more: a run killed right after its last checkpoint comes here without a step
    chosen: Tensor = getattr(weights, settings.average)
    return dict(zip(names, chosen.tolist(), strict=True))


def _step(
    loop: TrainingLoop, frozen: SentenceTransformer, batch: TextBatch, weights: WeightState, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Weights first (equation 4), then the proxy with the new weights (equation 6). Returns the history's rows."""
    settings: TdroSettings = loop.settings  # type: ignore[assignment]
    groups = torch.from_numpy(batch.collections)
    proxy_loss = _losses(loop, loop.encoder, batch)
    with torch.no_grad():
        reference_loss = _losses(loop, frozen, batch).cpu()
    seen = proxy_loss.detach().cpu()
    measured = measure(seen, reference_loss, groups, len(names), settings.measurement, floor=settings.reference_floor)
    weights.advance(
        step_weights(weights.current, measured, lr=settings.weights_learning_rate, max_norm=settings.weights_max_norm)
    )
    loss = weighted_proxy_loss(proxy_loss, weights.current.to(proxy_loss.device), groups.to(proxy_loss.device))
    loop.check(loss, "a mixed batch")
    loop.descend(loss)
    proxy_means = group_mean(seen, groups, len(names)).tolist()
    reference_means = group_mean(reference_loss, groups, len(names)).tolist()
    counts = torch.bincount(groups, minlength=len(names)).tolist()
    return [
        {
            "step": loop.step,
            "collection": name,
            "weight": float(weights.current[g]),
            "mean_weight": float(weights.mean[g]),
            "ema_weight": float(weights.ema[g]),
            "proxy_loss": proxy_means[g] if counts[g] else None,
            "reference_loss": reference_means[g] if counts[g] else None,
            "measurement": float(measured[g]) if counts[g] else None,
            "num_examples": counts[g],
        }
        for g, name in enumerate(names)
    ]


def _losses(loop: TrainingLoop, encoder: SentenceTransformer, batch: TextBatch) -> Tensor:
    """Equation 2 on the batch, hard negatives only, (B,) float32."""
    query, passages = loop.embed(encoder, batch)
    return info_nce(query, passages, temperature=loop.settings.temperature)

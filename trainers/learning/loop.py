"""The loop of every learner: weights and proxy take turns. Of tDRO: arXiv 2408.10613, section 3, equations 3 to 6."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, silent
from mixture.sampling import BatchPlan
from mixture.specs import WEIGHT_COLUMNS
from mixture.store import layout
from mixture.weights import epoch_caps
from trainers.batch.feed import Feed
from trainers.batch.reference_cache import EmbeddingCache
from trainers.batch.texts import BatchSource, TextBatch, check_prompts
from trainers.learning.averages import WeightState, constrain, drift, hard_for_both
from trainers.learning.config import LearningSettings
from trainers.learning.gradients import gradient_products
from trainers.learning.learners import WeightLearner
from trainers.loop.recent import MOST, recent
from trainers.loop.steps import History, TrainingLoop
from trainers.loop.stopping import on_request
from trainers.losses import info_nce
from trainers.model.adapters import add_lora
from trainers.model.encoder import load_for_training
from trainers.model.fitting import fitted
from trainers.model.identity import model_identity
from trainers.model.template import template_of
from trainers.tdro.objective import group_mean

# Called with all rows of the history so far, at each checkpoint.
Record = Callable[[list[dict[str, Any]]], None]
# Called after each step with that step's rows of the history, one a collection.
Watch = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True)
class Learned:
    """What a run found.

    weights:  "current", "mean", "ema" -> collection -> weight, each of sum 1
    drift:    how far the algorithm's own average moved in the last tenth of the steps, and the tenth before (`drift`)
    at_floor: collection -> in how many steps the floor held its weight up
    at_cap:   collection -> in how many steps the epoch cap held it down
    hard_for_both: collection -> proxy's loss over the reference's, where weight may have gone to noise
    """

    weights: dict[str, dict[str, float]]
    drift: tuple[float, float]
    at_floor: dict[str, int]
    at_cap: dict[str, int]
    hard_for_both: dict[str, float]


def uniform_plan(mixture: MaterialisedMixture, settings: LearningSettings) -> BatchPlan:
    """What a run draws: of each collection alike, whatever the mixture's weights."""
    names = sorted(mixture.components)
    return BatchPlan(dict.fromkeys(names, 1.0 / len(names)), mixture.sizes, settings.batch_size, settings.seed)


def run_learner(
    mixture: MaterialisedMixture,
    proxy: str,
    reference: str | None,
    settings: LearningSettings,
    folder: Path,
    *,
    base: Mapping[str, float] | None = None,
    record: Record | None = None,
    progress: Progress = silent,
    watch: Watch | None = None,
) -> Learned:
    """Learn a weight for each collection of `mixture`; its own weights do not matter (batches are uniform).

    proxy, reference: models by folder or name; the reference stays frozen, and may be None where the settings'
                      `uses_reference` says that nothing needs it
    base:             collection -> weight, of a mixture to stay near, where the settings' `reads_base`
    folder:           checkpoints; a killed run goes on from the last one. The reference's embeddings are kept beside it
    """
    settings = fitted(settings, proxy)
    weights, caps = start(mixture, settings)
    names = tuple(sorted(mixture.components))
    encoder, template = load_for_training(proxy, settings), template_of(proxy, settings)
    check_prompts(encoder, mixture, settings, template)
    add_lora(encoder, settings)
    near = None if base is None else torch.tensor([base[name] for name in names], dtype=torch.float64)
    history, learner = History(), settings.learner(len(names), near)
    assert isinstance(learner, WeightLearner)
    loop = TrainingLoop(encoder, settings, folder, also=(weights, history, _LearnerState(learner)))
    # Before `resume` sets the random state: an adapter draws numbers while it is loaded.
    frozen = None if reference is None else Reference(loop, reference, folder.parent)
    loop.resume()
    run = Run(loop, learner, frozen, weights, caps)
    source = BatchSource(mixture, uniform_plan(mixture, settings), negatives=settings.negatives,
                         symmetric_prompts=settings.symmetric_prompts, template=template)  # fmt: skip
    loop.encoder.train()
    with on_request(), Feed(lambda n: loop.prepared(source.mixed(n)), loop.step, settings.steps) as batches:
        for batch in batches:
            rows = run.step(batch)
            history.rows.extend(rows)
            if loop.save_if_due() and record is not None:
                record(history.rows)
            heaviest = max(rows, key=lambda row: row["weight"])
            loss = recent(step_losses(history.rows[-MOST * len(names) :]), settings.steps)
            line = f"proxy's {loss.text}, heaviest {heaviest['collection']} {heaviest['weight']:.4f}"
            progress(loop.step, settings.steps, line)
            if watch is not None:
                watch(rows)
    if record is not None:
        record(history.rows)  # once more: a run killed right after its last checkpoint comes here without a step
    if frozen is not None:
        frozen.cache.close()
    return _found(weights, history, names, learner)


def start(mixture: MaterialisedMixture, settings: LearningSettings) -> tuple[WeightState, Tensor | None]:
    """The weights before the first step, equal but for the bounds, and the caps (G,), collections in order of name.

    Raises `UsageError` where a collection has no hard negatives, or no weights fit the bounds.
    """
    bare = [name for name, part in mixture.components.items() if part.num_with_negatives() == 0]
    if bare:
        raise UsageError(f"no hard negatives in: {', '.join(bare)}; run `mixture mine` on them first")
    sizes = np.array([mixture.sizes[name] for name in sorted(mixture.components)])
    caps = None
    if settings.max_epochs > 0:
        caps = torch.from_numpy(epoch_caps(sizes, settings.epoch_budget, settings.max_epochs))
    equal = torch.full((len(sizes),), 1.0 / len(sizes), dtype=torch.float64)
    return WeightState.start(constrain(equal, settings.min_weight, caps)[0]), caps


def embeddings_name(model: str, settings: LearningSettings) -> str:
    """The name of the folder that a reference's embeddings are kept in."""
    return layout.embeddings_name(model_identity(model), bf16=settings.bf16)


class Reference:
    """The frozen model and its embeddings, which seeds and ablations share; collective, as all encoding is."""

    def __init__(self, loop: TrainingLoop, model: str, runs: Path) -> None:
        settings: LearningSettings = loop.settings  # type: ignore[assignment]
        # Its own pooling and directions: it comes ready, from a training that had these settings.
        own = replace(settings, pooling="auto", bidirectional=False, lora_rank=0, four_bit=False)
        encoder = load_for_training(model, own)
        self.encoder: SentenceTransformer = encoder.requires_grad_(False).eval().to(loop.accelerator.device)
        folder = layout.embeddings(runs, embeddings_name(model, settings))
        self.cache = EmbeddingCache(folder, max_bytes=settings.reference_cache_mb * 2**20)
        self._loop = loop
        # Then the proxy's tokens, made in the background, serve here too.
        self._as_proxy = _spelling(encoder) == _spelling(loop.encoder)

    def losses(self, batch: TextBatch) -> Tensor:
        """Equation 2 (hard negatives only) on a batch, (B,) float32 on the CPU."""
        texts, limits = self._loop.limited(batch)
        tokens = batch.tokens.by_text if self._as_proxy and batch.tokens is not None else None
        with torch.no_grad():
            known = self.cache.embeddings(texts, limits, partial(self._embed, tokens))
        query, passages = known[: len(batch.queries)], known[len(batch.queries) :]
        return info_nce(query, passages, temperature=self._loop.settings.temperature)

    def _embed(
        self, tokens: Mapping[tuple[str, int], np.ndarray] | None, texts: Sequence[str], limits: Sequence[int]
    ) -> Tensor:
        return self._loop.embed_tokens(self.encoder, self._loop.tokens(self.encoder, texts, limits, known=tokens))


def _spelling(encoder: SentenceTransformer) -> Any:
    """What decides the token ids of a text: encoders that agree in it have the same ids for the same texts."""
    tokenizer = encoder.tokenizer
    static = isinstance(tokenizer, Tokenizer)
    backend = tokenizer if static else getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python: nothing tells what it does
        return object()
    rules = json.loads(backend.to_str()) | {"truncation": None, "padding": None}  # both are left from the last call
    return rules, None if static else tokenizer.truncation_side, encoder.max_seq_length


@dataclass
class Run:
    """The parts of a run that a step moves; `caps` (G,) are the highest weights allowed, None for no cap."""

    loop: TrainingLoop
    learner: WeightLearner
    reference: Reference | None
    weights: WeightState
    caps: Tensor | None

    def step(self, batch: TextBatch) -> list[dict[str, Any]]:
        """Weights first (equation 4), then the proxy with the new weights (equation 6). Returns the history's rows."""
        settings: LearningSettings = self.loop.settings  # type: ignore[assignment]
        with self.loop.explaining_oom(batch):
            groups = torch.from_numpy(batch.collections)
            proxy_loss = info_nce(*self.loop.embed_batch(self.loop.encoder, batch), temperature=settings.temperature)
            self.loop.check(proxy_loss, batch)
            reference_loss = None
            if self.reference is not None:
                reference_loss = self.reference.losses(batch)
                self.loop.check(reference_loss, batch, of="reference's loss")
            seen = proxy_loss.detach().cpu()
            products = None
            if self.learner.needs_group_gradients:
                products = gradient_products(proxy_loss, groups, len(batch.names), self.loop.parameters)
            new = self.learner.update(self.weights.current, seen, reference_loss, groups, products)
            self.weights.advance(*constrain(new, settings.min_weight, self.caps))
            shares = self.learner.example_weights(self.weights.current, seen, groups)
            self.loop.descend((proxy_loss * shares.to(proxy_loss.device)).sum(), batch)
        return self._rows(batch.names, groups, seen, reference_loss)

    def _rows(
        self, names: tuple[str, ...], groups: Tensor, proxy: Tensor, reference: Tensor | None
    ) -> list[dict[str, Any]]:
        proxy_means = group_mean(proxy, groups, len(names)).tolist()
        reference_means: list[float | None] | None = None
        if reference is not None:
            reference_means = group_mean(reference, groups, len(names)).tolist()
        elif self.learner.forecast is not None:
            reference_means = [None if math.isnan(loss) else loss for loss in self.learner.forecast.tolist()]
        counts = torch.bincount(groups, minlength=len(names)).tolist()
        measured = self.learner.measured
        return [
            {
                "step": self.loop.step,
                "collection": name,
                "weight": float(self.weights.current[g]),
                "mean_weight": float(self.weights.mean[g]),
                "ema_weight": float(self.weights.ema[g]),
                "proxy_loss": proxy_means[g] if counts[g] else None,
                "reference_loss": reference_means[g] if counts[g] and reference_means is not None else None,
                "measurement": float(measured[g]) if counts[g] and measured is not None else None,
                "num_examples": counts[g],
            }
            for g, name in enumerate(names)
        ]


def step_losses(rows: Sequence[dict[str, Any]]) -> list[float]:
    """The proxy's mean loss of each step of a history."""
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for row in rows:
        sums[row["step"]] = sums.get(row["step"], 0.0) + (row["proxy_loss"] or 0.0) * row["num_examples"]
        counts[row["step"]] = counts.get(row["step"], 0) + row["num_examples"]
    return [total / max(1, counts[step]) for step, total in sums.items()]


@dataclass
class _LearnerState:
    """What the algorithm remembers, for the checkpoint."""

    learner: WeightLearner

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state(state)


def _found(weights: WeightState, history: History, names: tuple[str, ...], learner: WeightLearner) -> Learned:
    tensors = {name: getattr(weights, name) for name in WEIGHT_COLUMNS}
    column = WEIGHT_COLUMNS[learner.average]
    by_step = [row[column] for row in history.rows]
    moved = drift([by_step[i : i + len(names)] for i in range(0, len(by_step), len(names))])
    floored, capped = (
        {name: count for name, count in zip(names, counts.tolist(), strict=True) if count}
        for counts in (weights.floored, weights.capped)
    )
    by_name = {name: dict(zip(names, t.tolist(), strict=True)) for name, t in tensors.items()}
    doubtful = {} if learner.forecasts else hard_for_both(history.rows, dict.fromkeys(names, 1.0 / len(names)), column)
    return Learned(by_name, moved, floored, capped, doubtful)

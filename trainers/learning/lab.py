"""What a learner that looks at a target can try: whole trainings of a mixture, and branches whose changes are merged.

A *trunk* is the proxy after a part of a training on the base mixture, at a constant rate. A *branch* goes on from it
for some steps, mostly on one collection; its change Δ is what that collection teaches. The trunk and Σ α_g Δ_g stand in
for a training on the weights α: merging as a proxy for mixing (MergeMix, arXiv 2601.17858, section 3.1; DeMix, arXiv
2602.00747). Trunk, branches and scores are kept in files as they are finished, under all that they depend on: a killed
run goes on, and another one finds what it can use.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save
from sentence_transformers import SentenceTransformer
from torch import Tensor

from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, silent
from mixture.sampling import BatchPlan, generator
from trainers.batch.feed import Feed
from trainers.batch.texts import BatchSource
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.loop import encoder_of, step
from trainers.learning.target import Measured, Target
from trainers.loop.checkpoints import fill, trained
from trainers.loop.steps import TrainingLoop
from trainers.loop.stopping import on_request
from trainers.model.adapters import has_lora, merge_lora
from trainers.model.template import template_of
from trainers.parallel import ranks

T = TypeVar("T")
Weights = dict[str, Tensor]
# Of a training from the middle: a fresh AdamW moves every weight by the same length at first.
BRANCH_WARMUP = 5
# Of a matrix that has an adapter, what stands in its name before the last part.
ADAPTED = ".base_layer."


@dataclass(frozen=True)
class Branching:
    """How branches are made.

    trunk: the share of the training's steps that the trunk takes
    steps: of a branch
    rate:  constant learning rate of a branch, as a share of the training's peak
    common: how often a branch's batch is one of the base mixture, the same in all branches
    """

    trunk: float = 1 / 3
    steps: int = 50
    rate: float = 0.3
    common: float = 0.5


class Lab:
    """Trains and measures, and remembers on disk what it has done.

    data:     the mixture whose components are weighed; its own weights do not matter
    settings: of the fine-tuning that the weights are for
    base:     component -> weight: what the trunk and the common batches are drawn by
    make:     makes the target for the encoder, whose prompts it has by then
    folder:   of this run; what other runs can use lies in `shared`
    key:      what the contents, the proxy and the texts' layout are known by
    min_weight, caps: bounds of the weights, as in `start` of the loop
    """

    def __init__(
        self, data: MaterialisedMixture, proxy: str, settings: FinetuneSettings, base: Mapping[str, float],
        make: Callable[[SentenceTransformer], Target], folder: Path, shared: Path, key: str,
        min_weight: float = 0.0, caps: np.ndarray | None = None, progress: Progress = silent,
    ) -> None:  # fmt: skip
        self.data, self.proxy, self.settings, self.base = data, proxy, settings, dict(base)
        self.names = tuple(sorted(data.components))
        self.base_weights = np.array([self.base[name] for name in self.names])
        self.min_weight, self.caps = min_weight, caps
        self.folder, self.shared, self._key = folder, shared, key
        self.template = template_of(proxy, settings)
        self._positives = data.positives()
        self.encoder = encoder_of(data, proxy, settings)
        self._adapters = _copied(trained(self.encoder)) if has_lora(self.encoder) else {}
        self._start = self._whole()
        self.target = make(self.encoder)
        # Merged models have no adapters: their weights are sums of whole matrices.
        self._plain = copy.deepcopy(self.encoder)
        merge_lora(self._plain)
        self._progress = progress
        self._planned, self._finished = 0, 0

    # --- progress

    def plan(self, count: int) -> None:
        """Announce so many pieces of work more."""
        self._planned += count

    def say(self, what: str, work: Callable[[], T]) -> T:
        """A piece of work, with its line of progress."""
        self._progress(self._finished, self._planned, what)
        done = work()
        self._finished += 1
        self._progress(self._finished, self._planned, what)
        return done

    # --- whole trainings

    def train(self, shares: np.ndarray, *, seed: int | None = None) -> Measured:
        """Measure the proxy after a training on these weights, (G,) in the order of `names`."""
        seed = self.settings.seed if seed is None else seed

        def work() -> Measured:
            folder = self.folder / f"training-{_digest(shares.tolist(), seed)}"
            plan = self._plan(dict(zip(self.names, shares.tolist(), strict=True)), seed)
            self._run(self._start, replace(self.settings, seed=seed), plan, folder)
            return self._measured(self.encoder)

        return self._once("training", work, shares.tolist(), seed)

    # --- branches

    def trunk(self, branching: Branching) -> Weights:
        """The trunk's weights, without adapters."""
        count = max(1, round(branching.trunk * self.settings.steps))
        settings = replace(self.settings, steps=count, min_learning_rate_ratio=1.0)

        def work() -> Weights:
            self._run(self._start, settings, self._plan(self.base, settings.seed), self.folder / "trunk")
            return self._whole()

        return self._kept(f"trunk-{self._of(settings, self.base)}", work)

    def branch(self, branching: Branching, name: str | None, *, number: int = 0) -> Weights:
        """The change that a branch on `name` makes to the trunk; None is a branch on the base mixture alone.

        number: of several branches on one collection, which differ in their rows
        """
        settings = self._of_branch(branching)
        weights = self.base if name is None else dict.fromkeys(self.names, 0.0) | {name: 1.0}
        key = f"branch-{self._of(settings, weights, asdict(branching), number)}"

        def work() -> Weights:
            trunk = self.trunk(branching)
            own = self._plan(weights, settings.seed + 1 + number)
            plan = BranchPlan(own, self._plan(self.base, settings.seed + 1), branching.common)
            self._run(trunk, settings, plan, self.folder / key)
            after = self._whole()
            return {n: after[n].float() - trunk[n].float() for n in trunk}

        return self._kept(key, work)

    def merged(self, branching: Branching, shares: np.ndarray) -> Measured:
        """Measure trunk + Σ shares_g Δ_g; `shares` (G,) in the order of `names`."""

        def work() -> Measured:
            with torch.no_grad():
                total = {n: w.float().clone() for n, w in self.trunk(branching).items()}
                for name, share in zip(self.names, shares.tolist(), strict=True):
                    if share:
                        for n, change in self.branch(branching, name).items():
                            total[n].add_(change, alpha=float(share))
            _write(self._plain, total)
            return self._measured(self._plain)

        return self._once("merged", work, shares.tolist(), asdict(branching))

    def with_branch(self, branching: Branching, name: str) -> SentenceTransformer:
        """The proxy as the branch on `name` leaves it; good until the next measurement."""
        trunk, change = self.trunk(branching), self.branch(branching, name)
        _write(self._plain, {n: w.float() + change[n] for n, w in trunk.items()})
        return self._plain

    # --- how

    def _plan(self, weights: Mapping[str, float], seed: int) -> BatchPlan:
        sizes = self.data.sizes
        return BatchPlan(weights, sizes, self.settings.batch_size, seed, positives=self._positives)

    def _of_branch(self, branching: Branching) -> FinetuneSettings:
        peak = self.settings.learning_rate or 0.0
        return replace(self.settings, steps=branching.steps, learning_rate=branching.rate * peak,
                       min_learning_rate_ratio=1.0, warmup_steps=BRANCH_WARMUP)  # fmt: skip

    def _run(self, start: Weights, settings: FinetuneSettings, plan: BatchPlan | BranchPlan, folder: Path) -> None:
        """Train the encoder from `start` by a plan."""
        self._put(start)
        self._train(settings, plan, folder)
        # A loop, its accelerator and its checkpoints hold each other, and with them all texts that it has seen.
        gc.collect()

    def _train(self, settings: FinetuneSettings, plan: BatchPlan | BranchPlan, folder: Path) -> None:
        source = BatchSource(self.data, plan, negatives=settings.negatives, template=self.template,
                             symmetric_prompts=settings.symmetric_prompts)  # fmt: skip
        loop = TrainingLoop(self.encoder, settings, folder)
        loop.resume()
        loop.encoder.train()
        with on_request(), Feed(lambda n: loop.prepared(source.homogeneous(n)), loop.step, settings.steps) as batches:
            for batch in batches:
                step(loop, batch)
                loop.save_if_due()
        # Without its wrapper: the next training puts its own around it.
        self.encoder = loop.accelerator.unwrap_model(loop.encoder, keep_fp32_wrapper=False)
        ranks.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))

    def _whole(self) -> Weights:
        """What training moves, as the encoder has it; with LoRA the matrices with adapters, these folded in."""
        if not has_lora(self.encoder):
            return _copied(trained(self.encoder))
        plain = copy.deepcopy(self.encoder)
        merge_lora(plain)
        adapted = {name.replace(ADAPTED, ".") for name, _ in self.encoder.named_parameters() if ADAPTED in name}
        return _copied({name: p for name, p in plain.named_parameters() if name in adapted})

    def _put(self, weights: Weights) -> None:
        """Have the encoder start from `weights`; adapters start as they did."""
        if has_lora(self.encoder):
            fill(self.encoder, self._adapters)
        _write(self.encoder, weights)

    def _measured(self, encoder: SentenceTransformer) -> Measured:
        return ranks.on_main(lambda: self.target.measure(encoder))

    def _once(self, kind: str, work: Callable[[], Measured], *key: Any) -> Measured:
        """What `work` measures; found, where a run has measured the same on every set of this target before."""
        file = self.shared / f"{kind}-{self._of(self.settings, *key)}.json"
        known: dict[str, list[float]] = ranks.on_main(lambda: json.loads(file.read_text()) if file.is_file() else {})
        keys = self.target.keys
        if not all(key in known for key in keys):
            found = work()
            known |= {key: [float(loss), float(ndcg)] for key, loss, ndcg in zip(keys, *found, strict=True)}
            ranks.on_main(lambda: _replace(file, json.dumps(known).encode()))
        loss, ndcg = zip(*(known[key] for key in keys), strict=True)
        return Measured(np.array(loss), np.array(ndcg))

    def _kept(self, name: str, work: Callable[[], Weights]) -> Weights:
        """Weights that `work` makes, kept in a file for all runs."""
        file = self.shared / f"{name}.safetensors"
        if not ranks.on_main(file.is_file):
            made = work()

            ranks.on_main(lambda: _replace(file, save({n: w.contiguous() for n, w in made.items()})))
        return load_file(file)

    def _of(self, settings: FinetuneSettings, *key: Any) -> str:
        return _digest(self._key, settings.deciding, *key)


class BranchPlan(BatchPlan):
    """The batches of `own`, but of those that a coin says those of `common`; the coin is the same for all branches."""

    def __init__(self, own: BatchPlan, common: BatchPlan, share: float) -> None:
        self.collections, self.seed, self.weights = own.collections, own.seed, common.weights
        self._own, self._common, self._share = own, common, share

    def batch(self, step: int) -> tuple[str, np.ndarray]:
        coins = generator(self._common.seed, "branch").random(step + 1) < self._share
        plan = self._common if coins[step] else self._own
        return plan.batch(int(np.count_nonzero(coins[:step] == coins[step])))


def _copied(weights: Mapping[str, Tensor]) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def _write(encoder: SentenceTransformer, weights: Weights) -> None:
    """Put `weights` where they belong, whether the matrix has an adapter beside it or not."""
    there = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    with torch.no_grad():
        for name, tensor in weights.items():
            parent, _, last = name.rpartition(".")
            (there[name] if name in there else there[f"{parent}{ADAPTED}{last}"]).copy_(tensor)


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".writing-{file.name}")
    scratch.write_bytes(content)
    scratch.replace(file)


def _digest(*key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]

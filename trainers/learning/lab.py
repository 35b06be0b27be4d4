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
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from sentence_transformers import SentenceTransformer

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, silent
from mixture.sampling import BatchPlan, generator
from trainers.batch.feed import Feed
from trainers.batch.texts import BatchSource
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.loop import encoder_of, step
from trainers.learning import kept
from trainers.learning.kept import Weights
from trainers.learning.target import Measured, Target
from trainers.loop import stopping
from trainers.loop.checkpoints import fill, trained
from trainers.loop.steps import TrainingLoop
from trainers.model.adapters import has_lora, merge_lora
from trainers.model.identity import model_identity
from trainers.model.template import identified, template_of
from trainers.parallel import ranks
from trainers.settings import run_id

T = TypeVar("T")
# Of a training from the middle: a fresh AdamW moves every weight by the same length at first.
BRANCH_WARMUP = 5
# Other groups of texts give other last bits: all trainings of a run have the token budget of its first.
BUDGET = "budget.json"


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
    together: components that are weighed as one, with what each is of it: name -> component -> share
    make:     makes the target for the encoder, whose prompts it has by then
    folder:   of this run; what other runs can use lies in `shared`
    min_weight, caps: bounds of the components' weights, as in `start` of the loop
    members:  weights (G,) of other mixtures of these components, by their names

    G counts what is weighed, `names`: the components, those that are weighed together under one name.
    """

    def __init__(
        self, data: MaterialisedMixture, proxy: str, settings: FinetuneSettings, base: Mapping[str, float],
        make: Callable[[SentenceTransformer], Target], folder: Path, shared: Path,
        min_weight: float = 0.0, caps: np.ndarray | None = None, progress: Progress = silent,
        members: Mapping[str, np.ndarray] | None = None, together: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:  # fmt: skip
        if settings.four_bit:
            raise UsageError("four_bit is true; allowed: false where models are merged")
        if settings.collection or settings.batching != "homogeneous" or settings.taught:
            raise UsageError(
                "settings of collections, mixed batches and a teacher's scores do not suit models that are merged"
            )
        self.data, self.proxy, self.settings, self.base = data, proxy, settings, dict(base)
        self.components = tuple(sorted(data.components))
        self._parts = _parts(self.components, together or {})
        self.names = tuple(self._parts)
        self._matrix = np.array([[part.get(c, 0.0) for c in self.components] for part in self._parts.values()])
        self.base_weights = np.array([sum(self.base[c] for c in part) for part in self._parts.values()])
        self.min_weight, self.caps = min_weight, None if caps is None else self._most(caps)
        self.members = dict(members or {})
        self.folder, self.shared = folder, shared
        # What all that is shared depends on; its own settings come to that, and what is measured on.
        self._key = run_id("branches", data.spec.id, replace(settings, steps=1, learning_rate=1.0),
                           proxy=model_identity(proxy), **identified(data, proxy, settings))  # fmt: skip
        self.template = template_of(proxy, settings)
        self._positives = data.positives()
        self.encoder = encoder_of(data, proxy, settings)
        self._adapters = kept.copied(trained(self.encoder)) if has_lora(self.encoder) else {}
        self.start = self._whole()
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

    # --- what is weighed

    def spread(self, shares: np.ndarray) -> np.ndarray:
        """The components' weights (C,), in the order of `components`, of weights (G,)."""
        return np.asarray(shares @ self._matrix)

    def _most(self, caps: np.ndarray) -> np.ndarray:
        """What may be given to each name, (G,), so that none of its components is above its cap, (C,)."""
        most = np.divide(caps, self._matrix, out=np.full(self._matrix.shape, np.inf), where=self._matrix > 0)
        return np.asarray(most.min(axis=1))

    def _weights(self, shares: np.ndarray) -> dict[str, float]:
        return dict(zip(self.components, self.spread(shares).tolist(), strict=True))

    # --- whole trainings

    def train(self, shares: np.ndarray) -> Measured:
        """Measure the proxy after a training on these weights, (G,) in the order of `names`."""

        weights = self._weights(shares)

        def work() -> Measured:
            folder = self.folder / f"training-{kept.digest(weights)}"
            self._run(self.start, self.settings, self._plan(weights, self.settings.seed), folder)
            return self._measured(self.encoder)

        return self._once("training", work, weights)

    # --- branches

    def trunk(self, branching: Branching) -> Weights:
        """The trunk's weights, without adapters."""
        count = max(1, round(branching.trunk * self.settings.steps))
        settings = replace(self.settings, steps=count, min_learning_rate_ratio=1.0)

        def work() -> Weights:
            self._run(self.start, settings, self._plan(self.base, settings.seed), self.folder / "trunk")
            return self._whole()

        return self._kept(self.shared / f"trunk-{self._of(settings, self.base)}.safetensors", work)

    def branch(self, branching: Branching, name: str, *, number: int = 0) -> Weights:
        """The change that a branch on `name` makes to the trunk.

        number: of several branches on one collection, which differ in their rows
        """
        settings = self._constant(branching.steps, branching.rate)
        weights = dict.fromkeys(self.components, 0.0) | self._parts[name]
        key = f"branch-{self._of(settings, self.base, weights, asdict(branching), number)}"

        def work() -> Weights:
            trunk = self.trunk(branching)
            own = self._plan(weights, settings.seed + 2 + number)
            plan = BranchPlan(own, self._plan(self.base, settings.seed + 1), branching.common)
            self._run(trunk, settings, plan, self.folder / key)
            return kept.difference(self._whole(), trunk)

        return self._kept(self.shared / f"{key}.safetensors", work)

    def merged(self, branching: Branching, shares: np.ndarray) -> Measured:
        """Measure trunk + Σ shares_g Δ_g; `shares` (G,) in the order of `names`."""

        def work() -> Measured:
            parts = ((share, self.branch(branching, name))
                     for name, share in zip(self.names, shares.tolist(), strict=True) if share)  # fmt: skip
            return self.measure(kept.added(self.trunk(branching), parts))

        return self._once("merged", work, shares.tolist(), self.base, self._parts, asdict(branching))

    def with_branch(self, branching: Branching, name: str) -> SentenceTransformer:
        """The proxy as the branch on `name` leaves it; good until the next measurement."""
        kept.write_into(self._plain, kept.added(self.trunk(branching), [(1.0, self.branch(branching, name))]))
        return self._plain

    def aim(self, branching: Branching) -> Weights:
        """The change that a branch's steps make to the trunk when each descends the whole target's loss."""
        settings = self._constant(branching.steps, branching.rate)
        file = self.folder / f"aim-{self._of(settings, self.base, asdict(branching))}.safetensors"

        def work() -> Weights:
            trunk = self.trunk(branching)
            self._put(trunk)
            loop = TrainingLoop(self.encoder, self._with_budget(settings), self.folder / "steps")
            self._note_budget(loop)
            loop.encoder.train()
            batch = self._source(self._plan(self.base, settings.seed)).homogeneous(0)  # named where a step fails
            with stopping.on_request():
                while loop.step < settings.steps:
                    loop.descend(self.target.loss(loop.encoder) / ranks.state().num_processes, batch)
                    self._stop_if_asked(loop)
            self._unwrap(loop)
            return kept.difference(self._whole(), trunk)

        return self._kept(file, work)

    # --- a few steps at a time

    def steps(self, start: Weights, shares: np.ndarray, count: int, rate: float, *, number: int) -> Weights:
        """Weights after `count` steps from `start` on batches drawn by `shares` (G,), with a fresh optimiser.

        rate:   constant learning rate, as a share of the training's peak
        number: of several such trainings, which differ in their rows
        """
        settings = self._constant(count, rate)
        plan = self._plan(self._weights(shares), settings.seed + 1 + number)
        self._run(start, settings, plan, None)
        return self._whole()

    def measure(self, weights: Weights) -> Measured:
        """Measure the proxy with these weights."""
        kept.write_into(self._plain, weights)
        return self._measured(self._plain)

    def losses(self, weights: Weights) -> np.ndarray:
        """The loss alone, (T,): nothing is ranked."""
        kept.write_into(self._plain, weights)
        return ranks.on_main(lambda: self.target.losses(self._plain))

    # --- how

    def _plan(self, weights: Mapping[str, float], seed: int) -> BatchPlan:
        sizes = self.data.sizes
        return BatchPlan(weights, sizes, self.settings.batch_size, seed, positives=self._positives)

    def _constant(self, count: int, rate: float) -> FinetuneSettings:
        """The settings of a training from the middle, at a share of the peak rate."""
        peak = self.settings.learning_rate or 0.0
        return replace(self.settings, steps=count, learning_rate=rate * peak, min_learning_rate_ratio=1.0,
                       warmup_steps=BRANCH_WARMUP)  # fmt: skip

    def _source(self, plan: BatchPlan) -> BatchSource:
        return BatchSource(self.data, plan, negatives=self.settings.negatives, template=self.template,
                           symmetric_prompts=self.settings.symmetric_prompts)  # fmt: skip

    def _run(self, start: Weights, settings: FinetuneSettings, plan: BatchPlan, folder: Path | None) -> None:
        """Train the encoder from `start` by a plan; with checkpoints in `folder`, or without."""
        self._put(start)
        self._train(settings, plan, folder)
        # A loop, its accelerator and its checkpoints hold each other, and with them all texts that it has seen.
        gc.collect()

    def _train(self, settings: FinetuneSettings, plan: BatchPlan, folder: Path | None) -> None:
        source = self._source(plan)
        loop = TrainingLoop(self.encoder, self._with_budget(settings), folder or self.folder / "steps")
        self._note_budget(loop)
        if folder is not None:
            loop.resume()
        loop.encoder.train()
        ahead = Feed(lambda n: loop.prepared(source.homogeneous(n)), loop.step, settings.steps)
        with stopping.on_request(), ahead as batches:
            for batch in batches:
                step(loop, batch)
                if folder is None:
                    self._stop_if_asked(loop)
                else:
                    loop.save_if_due()
        self._unwrap(loop)
        if folder is not None:
            ranks.on_main(lambda: kept.remove(folder))

    def _unwrap(self, loop: TrainingLoop) -> None:
        """Take the encoder back without its wrapper: the next training puts its own around it."""
        self.encoder = loop.accelerator.unwrap_model(loop.encoder, keep_fp32_wrapper=False)

    @staticmethod
    def _stop_if_asked(loop: TrainingLoop) -> None:
        if number := stopping.asked(loop.accelerator.device):
            stopping.stop(loop.step, number)

    def _with_budget(self, settings: FinetuneSettings) -> FinetuneSettings:
        file = self.folder / BUDGET
        known = ranks.on_main(lambda: json.loads(file.read_text()) if file.is_file() else {})
        return replace(settings, **{name: number for name, number in known.items() if not getattr(settings, name)})

    def _note_budget(self, loop: TrainingLoop) -> None:
        file, budget = self.folder / BUDGET, loop.budget
        if not ranks.on_main(file.is_file):
            body = json.dumps({"tokens_per_pass": budget.per_pass, "tokens_kept": budget.kept}).encode()
            ranks.on_main(lambda: kept.replace(file, body))

    def _whole(self) -> Weights:
        """What training moves, as the encoder has it; with LoRA the matrices with adapters, these folded in."""
        if not has_lora(self.encoder):
            return kept.copied(trained(self.encoder))
        plain = copy.deepcopy(self.encoder)
        merge_lora(plain)
        names = [name for name, _ in self.encoder.named_parameters()]
        adapted = {name.replace(kept.ADAPTED, ".") for name in names if kept.ADAPTED in name}
        return kept.copied({name: p for name, p in plain.named_parameters() if name in adapted})

    def _put(self, weights: Weights) -> None:
        """Have the encoder start from `weights`; adapters start as they did."""
        if has_lora(self.encoder):
            fill(self.encoder, self._adapters)
        kept.write_into(self.encoder, weights)

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
            ranks.on_main(lambda: kept.replace(file, json.dumps(known).encode()))
        loss, ndcg = zip(*(known[key] for key in keys), strict=True)
        return Measured(np.array(loss), np.array(ndcg))

    def _kept(self, file: Path, work: Callable[[], Weights]) -> Weights:
        """Weights that `work` makes, or that the file has of an earlier call."""
        if not ranks.on_main(file.is_file):
            made = work()
            ranks.on_main(lambda: kept.keep(file, made))
        return kept.load(file)

    def _of(self, settings: FinetuneSettings, *key: Any) -> str:
        return kept.digest(self._key, settings.deciding, *key)


def _parts(components: Sequence[str], together: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Name -> component -> share: what is weighed together, then each of the others."""
    taken = {component for part in together.values() for component in part}
    return {name: dict(part) for name, part in together.items()} | {c: {c: 1.0} for c in components if c not in taken}


class BranchPlan(BatchPlan):
    """The batches of `own`, but of those that a coin says those of `common`; the coin is the same for all branches."""

    def __init__(self, own: BatchPlan, common: BatchPlan, share: float) -> None:
        self.collections, self.seed, self.weights = own.collections, own.seed, common.weights
        self._own, self._common, self._share = own, common, share

    def batch(self, step: int) -> tuple[str, np.ndarray]:
        coins = generator(self._common.seed, "branch").random(step + 1) < self._share
        plan = self._common if coins[step] else self._own
        return plan.batch(int(np.count_nonzero(coins[:step] == coins[step])))

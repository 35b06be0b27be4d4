"""What both training loops need around a step: optimiser, schedule, checkpoints, and a stop where training fails."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from mixture.errors import MixtureError, UsageError
from trainers.batch.embedding import Remembered, Tokens, embed_across_ranks, tokenise
from trainers.batch.memory import token_budget
from trainers.batch.texts import TextBatch
from trainers.loop import stopping
from trainers.loop.checkpoints import Checkpoints, Stateful
from trainers.loop.rows import RowAdamW, clip_gradients
from trainers.model.fitting import RATES
from trainers.model.static import is_static
from trainers.parallel import ranks, sharding
from trainers.settings import TrainingSettings

WATCHED = 10
EXPLODED = 5.0
# Tokens of the texts whose tokens a static model's loop remembers: 128 MB, and about as much for the texts.
REMEMBERED = 2**25


@dataclass
class History:
    """Rows logged at each step; travels in the checkpoint, so that a resumed run has all of them."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


@dataclass
class LossWatch:
    """The first losses of each kind of batch and its last ones; travels in the checkpoint.

    A loss has exploded when the last `WATCHED` batches average more than `EXPLODED` times the first ones, and a nat
    more: training has then made the model far worse than it came. Batches of one collection are compared with batches
    of that collection only, since collections differ by more than that.
    """

    first: dict[str, list[float]] = field(default_factory=dict)
    last: dict[str, list[float]] = field(default_factory=dict)

    def exploded(self, kind: str, value: float) -> float | None:
        """What the loss was at the start, where it has exploded with this `value`."""
        first = self.first.setdefault(kind, [])
        if len(first) < WATCHED:
            first.append(value)
            return None
        last = self.last[kind] = [*self.last.get(kind, []), value][-WATCHED:]
        started = sum(first) / WATCHED
        exploded = len(last) == WATCHED and sum(last) / WATCHED > EXPLODED * started + 1.0
        return started if exploded else None

    def forget(self) -> None:
        """What comes is not to be compared with what was."""
        self.first, self.last = {}, {}

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.last = state["first"], state["last"]


class TrainingLoop:
    """Model, AdamW and schedule under `accelerate`, with atomic checkpoints in `folder`; on one rank or several.

    A checkpoint holds everything that moves: model, optimiser, schedule, random states, and what is given in `also`.
    On several ranks all take the same step. They hold the same model, and the first writes the checkpoints; with
    `fsdp` they hold a slice of it each (`sharding`), and write that.
    """

    def __init__(
        self, encoder: SentenceTransformer, settings: TrainingSettings, folder: Path, *, also: tuple[Stateful, ...] = ()
    ) -> None:
        ranks.state()
        self.settings = settings
        self.folder = folder
        self.accelerator = Accelerator(mixed_precision="bf16" if settings.bf16 else "no")
        kind = self.accelerator.distributed_type
        if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise UsageError(f"training under {kind.value}; launch with torchrun, and shard with `fsdp=true`")
        # Ranks encode different texts, and drop different units of them.
        set_seed(settings.seed + self.accelerator.process_index)
        # A single rank under torchrun shards as well: so NCCL and all of this can be tried on one GPU.
        self.sharded = settings.fsdp and torch.distributed.is_initialized()
        self.encoder = self._placed(encoder)
        self.static = is_static(encoder)
        self.parameters = [p for p in encoder.parameters() if p.requires_grad]
        # Biases and norms do not decay, as in the trainer of transformers, which the release uses.
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        rate = settings.learning_rate or RATES[self.static]
        optimizer: torch.optim.Optimizer
        if self.static:
            optimizer = RowAdamW(groups, lr=rate)
        else:
            optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        self.schedule = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer,
            num_warmup_steps=settings.num_warmup_steps,
            num_training_steps=settings.steps,
            min_lr_rate=settings.min_learning_rate_ratio,
        )
        self.optimizer = optimizer if self.sharded else self.accelerator.prepare(optimizer)
        self._tokenizer = copy.deepcopy(encoder.tokenizer)  # a tokenizer must not be used by two threads
        self._remembered = Remembered(REMEMBERED)
        self._watch = LossWatch()
        self.checkpoints = Checkpoints(
            self.accelerator, self.encoder, folder, keep=settings.keep_checkpoints,
            also=(self.schedule, self._watch, *also), sharded=optimizer if self.sharded else None,
        )  # fmt: skip
        self.step = 0
        # Of the last step; the norm is that before clipping.
        self.gradient_norm, self.learning_rate = 0.0, 0.0

    def _placed(self, encoder: SentenceTransformer) -> SentenceTransformer:
        """The encoder on this rank's device, sharded where that is asked for; its token budget is found before."""
        if self.sharded:
            encoder.to(self.accelerator.device)
        else:
            # Not wrapped for DDP, which would reduce gradients once a micro-batch: `descend` does it once a step.
            encoder = self.accelerator.prepare_model(encoder, evaluation_mode=True)
        self.budget = ranks.on_main(lambda: token_budget(encoder, self.settings, self.folder))
        if self.sharded:
            sharding.shard(encoder, self.accelerator.device, bf16=self.settings.bf16)
        return encoder

    def embed_batch(self, encoder: SentenceTransformer, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Queries (B, D) and passages (B·N, D) in float32: a loss in bf16 would be off by a nat at τ = 0.002."""
        both = self.embed_tokens(encoder, batch.tokens or self.tokens(encoder, *self.limited(batch)))
        return both[: len(batch.queries)], both[len(batch.queries) :]

    def prepared(self, batch: TextBatch) -> TextBatch:
        """A batch with its tokens for the model that is trained; safe in another thread."""
        tokens = self.tokens(self.encoder, *self.limited(batch), tokenizer=self._tokenizer, known=self._remembered)
        if self.static:
            self._remembered.add(tokens)
        return replace(batch, tokens=tokens)

    def limited(self, batch: TextBatch) -> tuple[list[str], list[int]]:
        """A batch's queries and then passages, and how many tokens each may have."""
        of = {group: self.settings.of(batch.names[group]) for group in np.unique(batch.collections)}
        own = [of[group] for group in batch.collections]
        each = len(batch.passages) // len(batch.queries)
        limits = [one.max_query_tokens for one in own] + [one.max_passage_tokens for one in own for _ in range(each)]
        return batch.queries + batch.passages, limits

    def tokens(
        self, encoder: SentenceTransformer, texts: Sequence[str], limits: Sequence[int], *, tokenizer: Any = None,
        known: Mapping[tuple[str, int], np.ndarray] | None = None,
    ) -> Tokens:  # fmt: skip
        """Texts as `encoder` takes them, cut to their limits and to its own; `tokenizer` stands in for its own."""
        longest = encoder.max_seq_length or max(limits, default=1)
        return tokenise(tokenizer or encoder.tokenizer, texts, [min(limit, longest) for limit in limits], known)

    def embed_tokens(self, encoder: SentenceTransformer, tokens: Tokens) -> Tensor:
        """(N, D) float32; a collective of all ranks."""
        # A sharded model has its precision built in.
        with nullcontext() if sharding.is_sharded(encoder) else self.accelerator.autocast():
            return embed_across_ranks(encoder, tokens, self.budget).float()

    def descend(self, loss: Tensor, batch: TextBatch, more: Iterable[Tensor] = ()) -> None:
        """One optimiser step on a scalar loss, the same on all ranks; counts it.

        more: further losses, whose gradients are added. Each is taken when that before it needs no memory any more
        """
        self.accelerator.backward(loss)
        for further in more:
            self.accelerator.backward(further)
        ranks.reduce_gradients(self.parameters)
        clip = clip_gradients if self.static else self.accelerator.clip_grad_norm_
        norm = clip(self.parameters, self.settings.max_gradient_norm)
        self.gradient_norm = float(sharding.whole(norm)) if norm is not None else 0.0
        if not math.isfinite(self.gradient_norm):
            raise self._diverged(f"the gradient became {self.gradient_norm}", batch)
        self.learning_rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def check(self, losses: Tensor, batch: TextBatch, *, of: str = "loss") -> float:
        """The mean of a batch's losses (B,); stops the run where one is not finite, or where they explode."""
        losses = losses.detach().cpu()  # once: each look at a device waits for all that it has to do
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            bad = torch.nonzero(~finite).flatten().tolist()
            raise self._diverged(f"the {of} became {float(losses[bad[0]])}", batch, bad)
        value = float(losses.mean())
        kinds = {batch.names[group] for group in batch.collections.tolist()}
        started = self._watch.exploded(kinds.pop() if len(kinds) == 1 else "", value) if of == "loss" else None
        if started is not None:
            worst = losses.topk(min(4, len(losses))).indices.tolist()
            raise self._diverged(f"the loss exploded to {value:.4g} from {started:.4g} at the start", batch, worst)
        return value

    def begin_phase(self) -> None:
        """From here on losses are others: of other rows, negatives or loss weights."""
        self._watch.forget()

    def _diverged(self, what: str, batch: TextBatch, places: Sequence[int] | None = None) -> MixtureError:
        where = batch.describe(places)
        return MixtureError(f"{what} at step {self.step} ({where}); lower `learning_rate`, or look at these rows")

    @contextmanager
    def explaining_oom(self, batch: TextBatch) -> Iterator[None]:
        """Around the work on a batch: where memory runs out, says at which step, on what, and what to change."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if type(error) is RuntimeError and "can't allocate memory" not in str(error):
                raise
            now = self.budget
            raise MixtureError(
                f"out of memory at step {self.step} ({batch.describe()}); keep fewer tokens at once: "
                f"`tokens_kept={max(1, now.kept // 2)}` and `tokens_per_pass={max(1, now.per_pass // 2)}` "
                f"(now {now.kept} and {now.per_pass})"
            ) from error

    def resume(self) -> bool:
        """Go on from the newest checkpoint, if there is one."""
        self.step = self.checkpoints.load()
        return self.step > 0

    def save_if_due(self) -> bool:
        """A checkpoint every `checkpoint_every` steps, at the end, and where a stop is asked for: then raises
        `Stopped`."""
        number = stopping.asked(self.accelerator.device)
        due = self.step % self.settings.checkpoint_every == 0 or self.step == self.settings.steps
        if due or number:
            self.checkpoints.save(self.step)
        if number:
            stopping.stop(self.step, number)
        return due

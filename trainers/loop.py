"""What both training loops need around a step: optimiser, schedule, checkpoints, and a stop where training fails."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from mixture.errors import MixtureError, UsageError
from trainers import ranks
from trainers.data import TextBatch
from trainers.embedding import embed
from trainers.settings import TrainingSettings

# Called after each step with (step, number of steps, one line to show).
Progress = Callable[[int, int, str], None]
WATCHED = 10
EXPLODED = 5.0


class Stateful(Protocol):
    """What a checkpoint can carry beside model and optimiser."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.last = state["first"], state["last"]


class TrainingLoop:
    """Model, AdamW and schedule under `accelerate`, with atomic checkpoints in `folder`; on one rank or several.

    A checkpoint holds everything that moves: model, optimiser, schedule, random states, and what is given in `also`.
    On several ranks all hold the same model and take the same step; the first writes the checkpoints.
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
            raise UsageError(f"training under {kind.value}; each rank holds the whole model: launch with torchrun")
        # Ranks encode different texts, and drop different units of them.
        set_seed(settings.seed + self.accelerator.process_index)
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=self.accelerator.device.type == "cuda",
        )
        self.schedule = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer,
            num_warmup_steps=settings.num_warmup_steps,
            num_training_steps=settings.steps,
            min_lr_rate=settings.min_learning_rate_ratio,
        )
        # Not wrapped for DDP, which would reduce gradients once a micro-batch: `descend` does it once a step.
        self.encoder: SentenceTransformer = self.accelerator.prepare_model(encoder, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare(optimizer)
        self._watch = LossWatch()
        self.accelerator.register_for_checkpointing(self.schedule, self._watch, *also)
        self.step = 0
        self.parameters = parameters

    def embed(self, encoder: SentenceTransformer, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Queries (B, D) and passages (B·N, D) in float32: a loss in bf16 would be off by a nat at τ = 0.002."""
        both = self.embed_texts(encoder, *self.limited(batch))
        return both[: len(batch.queries)], both[len(batch.queries) :]

    def limited(self, batch: TextBatch) -> tuple[list[str], list[int]]:
        """A batch's queries and then passages, and how many tokens each may have."""
        limits = [self.settings.max_query_tokens] * len(batch.queries)
        limits += [self.settings.max_passage_tokens] * len(batch.passages)
        return batch.queries + batch.passages, limits

    def embed_texts(self, encoder: SentenceTransformer, texts: Sequence[str], limits: Sequence[int]) -> Tensor:
        """(len(texts), D) float32; a collective of all ranks."""
        with self.accelerator.autocast():
            return embed(
                encoder, texts, max_tokens=limits, tokens_per_pass=self.settings.tokens_per_pass,
                cached=self.settings.gradient_cache,
            ).float()  # fmt: skip

    def descend(self, loss: Tensor, batch: TextBatch) -> None:
        """One optimiser step on a scalar loss, the same on all ranks; counts it."""
        self.accelerator.backward(loss)
        ranks.reduce_gradients(self.parameters)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm)
        if norm is not None and not math.isfinite(norm):
            raise self._diverged(f"the gradient became {float(norm)}", batch)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def check(self, losses: Tensor, batch: TextBatch, *, of: str = "loss") -> float:
        """The mean of a batch's losses (B,); stops the run where one is not finite, or where they explode."""
        finite = torch.isfinite(losses.detach()).cpu()
        if not bool(finite.all()):
            bad = torch.nonzero(~finite).flatten().tolist()
            raise self._diverged(f"the {of} became {float(losses[bad[0]].detach())}", batch, bad)
        value = float(losses.detach().mean())
        kinds = {batch.names[group] for group in batch.collections.tolist()}
        started = self._watch.exploded(kinds.pop() if len(kinds) == 1 else "", value) if of == "loss" else None
        if started is not None:
            worst = losses.detach().topk(min(4, len(losses))).indices.tolist()
            raise self._diverged(f"the loss exploded to {value:.4g} from {started:.4g} at the start", batch, worst)
        return value

    def _diverged(self, what: str, batch: TextBatch, places: Sequence[int] | None = None) -> MixtureError:
        where = batch.describe(places)
        return MixtureError(f"{what} at step {self.step} ({where}); lower --learning-rate, or look at these rows")

    @contextmanager
    def memory(self, batch: TextBatch) -> Iterator[None]:
        """Around the work on a batch: where memory runs out, says at which step, on what, and what to change."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if type(error) is RuntimeError and "can't allocate memory" not in str(error):
                raise
            now = self.settings.tokens_per_pass
            raise MixtureError(
                f"out of memory at step {self.step} ({batch.describe()}); "
                f"encode fewer tokens at once: --set tokens_per_pass={max(1, now // 2)} (now {now})"
            ) from error

    def resume(self) -> bool:
        """Go on from the newest checkpoint, if there is one."""
        found = ranks.on_main(
            lambda: sorted(self.folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
        )
        if not found:
            return False
        self.accelerator.load_state(str(found[-1]))
        self.step = int(json.loads((found[-1] / "step.json").read_text())["step"])
        return True

    def save_if_due(self) -> bool:
        """A checkpoint every `checkpoint_every` steps and at the end; the newest replaces the older."""
        if self.step % self.settings.checkpoint_every and self.step != self.settings.steps:
            return False
        scratch = self.folder / f".writing-{self.step}"
        ranks.on_main(lambda: shutil.rmtree(scratch, ignore_errors=True))
        self.accelerator.save_state(str(scratch))
        self.accelerator.wait_for_everyone()
        ranks.on_main(lambda: self._keep(scratch))
        return True

    def _keep(self, scratch: Path) -> None:
        target = self.folder / f"step-{self.step}"
        (scratch / "step.json").write_text(json.dumps({"step": self.step}))
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        for older in self.folder.glob("step-*"):
            if older != target:
                shutil.rmtree(older)

"""What both training loops need around a step: optimiser, schedule, checkpoints. Runs on one process for now."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sentence_transformers import SentenceTransformer
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from mixture.errors import MixtureError, UsageError
from trainers.data import TextBatch
from trainers.encoder import embed
from trainers.settings import TrainingSettings

# Called after each step with (step, number of steps, one line to show).
Progress = Callable[[int, int, str], None]


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


class TrainingLoop:
    """Model, AdamW and schedule under `accelerate`, with atomic checkpoints in `folder`.

    A checkpoint holds everything that moves: model, optimiser, schedule, random states, and what is given in `also`.
    """

    def __init__(
        self, encoder: SentenceTransformer, settings: TrainingSettings, folder: Path, *, also: tuple[Stateful, ...] = ()
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.accelerator = Accelerator(mixed_precision="bf16" if settings.bf16 else "no")
        if self.accelerator.num_processes > 1:
            raise UsageError("training runs on one process; start it without torchrun or accelerate launch")
        set_seed(settings.seed)
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.schedule = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer,
            num_warmup_steps=settings.num_warmup_steps,
            num_training_steps=settings.steps,
            min_lr_rate=settings.min_learning_rate_ratio,
        )
        # DDP would hide the sentence-transformers interface; accelerate keeps the module itself on one process.
        self.encoder: SentenceTransformer = self.accelerator.prepare(encoder)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.accelerator.register_for_checkpointing(self.schedule, *also)
        self.step = 0
        self._parameters = parameters

    def embed(self, encoder: SentenceTransformer, batch: TextBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries (B, D) and passages (B·N, D) in float32: a loss in bf16 would be off by a nat at τ = 0.002."""
        settings = self.settings
        with self.accelerator.autocast():
            query = embed(encoder, batch.queries, max_tokens=settings.max_query_tokens,
                          tokens_per_pass=settings.tokens_per_pass)  # fmt: skip
            passages = embed(encoder, batch.passages, max_tokens=settings.max_passage_tokens,
                             tokens_per_pass=settings.tokens_per_pass)  # fmt: skip
        return query.float(), passages.float()

    def descend(self, loss: torch.Tensor) -> None:
        """One optimiser step on a scalar loss; counts it."""
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self._parameters, self.settings.max_gradient_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def check(self, loss: torch.Tensor, where: str) -> float:
        """The loss as a number; stops the run where it is not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise MixtureError(f"the loss became {value} at step {self.step} ({where}); lower --learning-rate")
        return value

    def resume(self) -> bool:
        """Go on from the newest checkpoint, if there is one."""
        found = sorted(self.folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
        if not found:
            return False
        self.accelerator.load_state(str(found[-1]))
        self.step = int(json.loads((found[-1] / "step.json").read_text())["step"])
        return True

    def save_if_due(self) -> bool:
        """A checkpoint every `checkpoint_every` steps and at the end; the newest replaces the older."""
        if self.step % self.settings.checkpoint_every and self.step != self.settings.steps:
            return False
        target = self.folder / f"step-{self.step}"
        scratch = self.folder / f".writing-{self.step}"
        shutil.rmtree(scratch, ignore_errors=True)
        self.accelerator.save_state(str(scratch))
        (scratch / "step.json").write_text(json.dumps({"step": self.step}))
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        for older in self.folder.glob("step-*"):
            if older != target:
                shutil.rmtree(older)
        return True

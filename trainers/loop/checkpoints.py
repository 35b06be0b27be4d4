"""Checkpoints of a run: whole or absent, the last few of them, and the weights of the best step.

Layout: `<folder>/step-<n>/` what a resumed run needs, `<folder>/best-<n>/` the trained weights of the step that scored
best so far. Both are written beside (`.writing-…`) and renamed, so that a kill leaves the one before.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixture.errors import MixtureError, UsageError
from trainers.parallel import ranks, sharding

WEIGHTS = "trained.safetensors"
SLICES = "slices"
STEP = "step.json"


class Stateful(Protocol):
    """What a checkpoint can carry beside model and optimiser."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """What training moves: parameters that are not frozen, and buffers that a model is saved with; the tensors
    themselves."""
    kept = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return {name: p for name, p in model.named_parameters() if p.requires_grad} | buffers


class Checkpoints:
    """The checkpoints of `model` in `folder`, the last `keep` of them. Its optimiser, random states and `also` are
    those of `accelerator`.

    Frozen weights are not saved: they come with the model that the run starts from. All calls are collective; the first
    rank writes. Where the model is sharded, `sharded` is its optimiser, and all ranks write their slices of both.
    """

    def __init__(
        self, accelerator: Accelerator, model: torch.nn.Module, folder: Path, *, keep: int,
        also: tuple[Stateful, ...], sharded: torch.optim.Optimizer | None = None,
    ) -> None:  # fmt: skip
        self.accelerator, self.model, self.folder, self.keep = accelerator, model, folder, keep
        self.sharded = sharded
        self.best: int | None = None
        accelerator.register_for_checkpointing(*also)
        accelerator.register_save_state_pre_hook(self._save_model)
        accelerator.register_load_state_pre_hook(self._load_model)

    def load(self) -> int:
        """Restore the newest checkpoint; its step, 0 where there is none."""
        ranks.on_nodes(self._tidy)
        newest = ranks.of_all(self._newest())
        if (latest := max(newest)) > newest[0]:
            raise UsageError(f"the machine of rank {newest.index(latest)} has the checkpoint of step {latest}, and the "
                             "first one has not; start that machine as the first")  # fmt: skip
        if not latest:
            return 0
        found = self.folder / f"step-{latest}"
        ranks.send(found)
        self.accelerator.load_state(str(found))
        marks = json.loads((found / STEP).read_text("utf-8"))
        self.best = marks["best"]
        return int(marks["step"])

    def save(self, step: int) -> None:
        """Write the checkpoint of `step`; older ones go, but for the last `keep`."""

        def write(scratch: Path) -> None:
            self.accelerator.save_state(str(scratch))
            self.accelerator.wait_for_everyone()
            self._gather_random_states(scratch)
            if ranks.is_main():
                (scratch / STEP).write_text(json.dumps({"step": step, "best": self.best}), "utf-8")

        self._write(f"step-{step}", write)
        ranks.on_nodes(self._prune)

    def save_best(self, step: int) -> None:
        """Keep the weights as they are now as the best so far. The ones before go with the next checkpoint: until
        then a resumed run may still count on them."""

        def write(scratch: Path) -> None:
            weights = self.weights()
            if ranks.is_main():
                scratch.mkdir()
                save_file(weights, scratch / WEIGHTS)

        self._write(f"best-{step}", write)
        self.best = step

    def weights(self) -> dict[str, Tensor]:
        """The trained weights as they are now, on the first rank; others get none."""
        return sharding.wholes(trained(self.model))

    def load_best(self) -> None:
        """Put the weights of the best step into the model."""
        ranks.send(self.folder / f"best-{self.best}")
        self.restore_best(self.model)
        self.accelerator.wait_for_everyone()  # the first rank deletes what the others still read

    def restore_best(self, model: torch.nn.Module) -> None:
        """Put the weights of the best step into `model`, which is built like the one that is trained."""
        _restore(model, self.folder / f"best-{self.best}")

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        token = ranks.on_main(lambda: uuid.uuid4().hex[:8])  # nothing is left of that name by a kill
        scratch, target = self.folder / f".writing-{name}-{token}", self.folder / name

        def finish() -> None:
            # On machines that share no folder each has what its own ranks wrote. On others it is renamed already; a
            # network's file system may still show it, so that to look first would be to remove what was renamed.
            try:
                scratch.rename(target)
            except FileNotFoundError:
                return
            except OSError:
                shutil.rmtree(target, ignore_errors=True)
                scratch.rename(target)

        ranks.on_nodes(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        write(scratch)
        ranks.on_main(finish)
        ranks.on_nodes(lambda: None if ranks.is_main() else finish())

    def _gather_random_states(self, scratch: Path) -> None:
        """Have those of all ranks on the first machine, for one that takes the place of another."""
        kept = ranks.keeps_own_files()
        own = {file.name: file.read_bytes() for file in scratch.glob(f"{RNG_STATE_NAME}_*.pkl")} if kept else {}
        for name, state in (pair for states in ranks.of_all(own) for pair in states.items()):
            if ranks.is_main():
                (scratch / name).write_bytes(state)

    def _steps(self, kind: str) -> list[Path]:
        """Folders of a kind, newest first."""
        return sorted(self.folder.glob(f"{kind}-*"), key=lambda p: -_number(p.name))

    def _tidy(self) -> None:
        """What a kill left half written goes."""
        for scratch in self.folder.glob(".writing-*"):
            shutil.rmtree(scratch, ignore_errors=True)

    def _newest(self) -> int:
        """The step of the newest whole checkpoint of this machine, 0 for none. Of machines that share no folder all but
        the first have parts."""
        return max((_number(one.name) for one in self._steps("step") if (one / STEP).is_file()), default=0)

    def _prune(self) -> None:
        for old in self._steps("step")[self.keep :]:
            shutil.rmtree(old, ignore_errors=True)
        for old in self._steps("best"):
            if old.name != f"best-{self.best}":
                shutil.rmtree(old, ignore_errors=True)

    def _save_model(self, models: list[torch.nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        # Instead of accelerate's own, which would save all of them.
        weights.clear()
        if self.sharded is not None:
            sharding.save(self.model, self.sharded, Path(folder) / SLICES)
        elif ranks.is_main():
            save_file(self.weights(), Path(folder) / WEIGHTS)

    def _load_model(self, models: list[torch.nn.Module], folder: str) -> None:
        models.clear()
        slices = Path(folder) / SLICES
        if slices.is_dir() != (self.sharded is not None):
            wanted = "two processes or more" if slices.is_dir() else "one process"
            raise MixtureError(f"checkpoint {folder} is of a run with fsdp on {wanted}; resume it so")
        if self.sharded is not None:
            sharding.load(self.model, self.sharded, slices)
        else:
            _restore(self.model, Path(folder))


def _restore(model: torch.nn.Module, folder: Path) -> None:
    saved, wanted = load_file(folder / WEIGHTS), trained(model)
    if saved.keys() != wanted.keys():
        odd = sorted(saved.keys() ^ wanted.keys())
        raise MixtureError(f"checkpoint {folder} is of another model: {odd[0]} is in only one of them; start a new run")
    fill(model, saved)


def fill(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Put trained weights, whole, into a model that is built like the one they are of."""
    with torch.no_grad():
        for name, tensor in trained(model).items():
            tensor.copy_(sharding.sliced(weights[name], tensor))


def _number(name: str) -> int:
    """The step of `step-N` and `best-N`."""
    return int(name.rpartition("-")[2])

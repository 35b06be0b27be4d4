"""Checkpoints: whole or absent, the last few, the best one, only what training moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from mixture.errors import MixtureError
from trainers.finetune import FinetuneSettings
from trainers.loop.checkpoints import WEIGHTS, trained
from trainers.loop.steps import TrainingLoop
from trainers.model.adapters import add_lora

SETTINGS = FinetuneSettings(steps=9, checkpoint_every=2, tracker="none")


def _loop(model: Path, folder: Path, settings: FinetuneSettings = SETTINGS) -> TrainingLoop:
    encoder = SentenceTransformer(str(model))
    add_lora(encoder, settings)
    return TrainingLoop(encoder, settings, folder)


def _shift(loop: TrainingLoop, by: float) -> None:
    with torch.no_grad():
        for parameter in loop.parameters:
            parameter += by


@pytest.mark.parametrize(("keep", "left"), [(1, [9]), (3, [6, 8, 9])])
def test_the_last_few_stay(tiny_model: Path, tmp_path: Path, keep: int, left: list[int]) -> None:
    loop = _loop(tiny_model, tmp_path, replace(SETTINGS, keep_checkpoints=keep))
    saved = []
    for loop.step in range(1, 10):
        if loop.save_if_due():
            saved.append(loop.step)
    assert saved == [2, 4, 6, 8, 9]
    assert sorted(int(p.name.removeprefix("step-")) for p in tmp_path.glob("step-*")) == left


def test_what_a_kill_left_half_written_is_not_loaded_and_goes(tiny_model: Path, tmp_path: Path) -> None:
    loop = _loop(tiny_model, tmp_path)
    loop.checkpoints.save(2)
    before = [p.detach().clone() for p in loop.parameters]
    (tmp_path / ".writing-step-4").mkdir()
    (tmp_path / ".writing-step-4" / WEIGHTS).write_bytes(b"half")
    _shift(loop, 1.0)
    assert loop.resume()
    assert loop.step == 2
    assert all(torch.equal(p, q) for p, q in zip(before, loop.parameters, strict=True))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["step-2"]
    assert not _loop(tiny_model, tmp_path / "new").resume()


def test_the_best_weights_stay_until_a_checkpoint_knows_better_ones(tiny_model: Path, tmp_path: Path) -> None:
    loop = _loop(tiny_model, tmp_path)
    loop.checkpoints.save_best(1)
    best = [p.detach().clone() for p in loop.parameters]
    loop.checkpoints.save(2)
    _shift(loop, 1.0)
    loop.checkpoints.save_best(3)  # and now it is killed: the checkpoint of step 2 still means step 1
    again = _loop(tiny_model, tmp_path)
    again.resume()
    assert (again.step, again.checkpoints.best) == (2, 1)
    _shift(again, 5.0)
    again.checkpoints.load_best()
    assert all(torch.equal(p, q) for p, q in zip(best, again.parameters, strict=True))
    again.checkpoints.save_best(3)
    again.checkpoints.save(4)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["best-3", "step-4"]


def test_frozen_weights_are_not_in_it(tiny_model: Path, tmp_path: Path) -> None:
    loop = _loop(tiny_model, tmp_path, replace(SETTINGS, lora_rank=2))
    loop.checkpoints.save(2)
    (file,) = (tmp_path / "step-2").glob("*.safetensors")
    saved = load_file(file)
    assert saved.keys() == trained(loop.encoder).keys()
    assert saved
    assert all("lora" in name for name in saved)
    whole = sum(p.numel() for p in loop.encoder.parameters())
    assert sum(tensor.numel() for tensor in saved.values()) < whole / 5


def test_a_checkpoint_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    _loop(tiny_model, tmp_path, replace(SETTINGS, lora_rank=2)).checkpoints.save(2)
    with pytest.raises(MixtureError, match="is of another model"):
        _loop(tiny_model, tmp_path).resume()

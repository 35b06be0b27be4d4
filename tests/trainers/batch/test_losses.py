"""The forms of the fine-tuning loss that settings ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.batch.texts import BatchSource
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import batch_losses
from trainers.loop.steps import TrainingLoop
from trainers.losses import info_nce
from trainers.model.encoder import load_encoder
from trainers.settings import resolve

SETTINGS = FinetuneSettings(steps=1, batch_size=8, temperature=0.05, negatives=2, max_query_tokens=40,
                            max_passage_tokens=32)  # fmt: skip


def test_settings_choose_the_form_of_the_loss(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 8, 1, positives=mixture_data.positives())
    batch = BatchSource(mixture_data, plan, negatives=2).homogeneous(0)
    name = batch.names[int(batch.collections[0])]
    encoder = load_encoder(str(tiny_model)).eval()
    with torch.no_grad():
        found = {
            what: batch_losses(TrainingLoop(encoder, replace(SETTINGS, **changes), tmp_path), batch)
            for what, changes in {
                "plain": {}, "hard": {"in_batch": False}, "hard_only": {"hard_only": (name,)},
                "other_hard_only": {"hard_only": ("another",)}, "symmetric": {"symmetric_loss": True},
                "half": {"matryoshka_dims": (32, 64)},
            }.items()
        }  # fmt: skip
        query, passages = TrainingLoop(encoder, SETTINGS, tmp_path).embed(encoder, batch)

    def expected(dims: int = 64, *, in_batch: bool = True, symmetric: bool = False) -> torch.Tensor:
        return info_nce(query[:, :dims], passages[:, :dims], temperature=0.05, in_batch=in_batch,
                        masked=batch.masked if in_batch else None, symmetric=symmetric)  # fmt: skip

    torch.testing.assert_close(found["plain"], expected())
    torch.testing.assert_close(found["hard"], expected(in_batch=False))
    torch.testing.assert_close(found["hard_only"], found["hard"])
    torch.testing.assert_close(found["other_hard_only"], found["plain"])
    torch.testing.assert_close(found["symmetric"], expected(symmetric=True))
    torch.testing.assert_close(found["half"], (expected(32) + expected()) / 2)
    different = [found[what] for what in ("plain", "hard", "symmetric", "half")]
    assert all(not torch.allclose(a, b, rtol=1e-3) for i, a in enumerate(different) for b in different[:i])


def test_a_collection_that_the_mixture_lacks_is_a_mistake(
    mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"hadr.*hard"):
        finetune(mixture_data, str(tiny_model), replace(SETTINGS, hard_only=("hadr",)), tmp_path / "out")


def test_lists_are_read_from_options_and_checked() -> None:
    given = resolve(FinetuneSettings, None, {}, ["matryoshka_dims=[16, 64]", 'hard_only=["a", "b"]'])
    assert (given.matryoshka_dims, given.hard_only) == ((16, 64), ("a", "b"))
    for text, said in {
        "matryoshka_dims=16": "must be a list", 'matryoshka_dims=["16"]': "must be of type int",
        "matryoshka_dims=[0]": "1 or more", "matryoshka_dims=[8, 8]": "each once",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=said):
            resolve(FinetuneSettings, None, {}, [text])
    with pytest.raises(UsageError, match="false without in_batch"):
        resolve(FinetuneSettings, None, {}, ["symmetric_loss=true", "in_batch=false"])

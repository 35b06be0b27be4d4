"""Inner products of gradients: those of each collection alone, dense or sparse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.batch.texts import BatchSource
from trainers.learning.config import LearningSettings
from trainers.learning.gradients import gradient_products
from trainers.loop.steps import TrainingLoop
from trainers.losses import info_nce
from trainers.model.encoder import load_for_training

SETTINGS = LearningSettings(steps=1, batch_size=12, temperature=0.05, negatives=2, max_query_tokens=32,
                            max_passage_tokens=32, tokens_per_pass=60, tokens_kept=60)  # fmt: skip


@pytest.mark.parametrize("kind", ["tiny_model", "static_model"])
def test_group_gradients_are_those_of_each_collection_alone(
    mixture_data: MaterialisedMixture, kind: str, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoder = load_for_training(str(request.getfixturevalue(kind)), SETTINGS).eval()
    loop = TrainingLoop(encoder, SETTINGS, tmp_path)
    plan = BatchPlan(mixture_data.spec.weights, mixture_data.sizes, 12, 1)
    batch = BatchSource(mixture_data, plan, negatives=2).mixed(0)
    groups = torch.from_numpy(batch.collections)
    groups[groups == 1] = 0  # the second collection is absent

    def losses() -> torch.Tensor:
        return info_nce(*loop.embed_batch(loop.encoder, batch), temperature=0.05)

    alone, sparse = {}, set()
    for group in (0, 2):
        loop.encoder.zero_grad()
        losses()[groups == group].mean().backward()
        gradients = [p.grad for p in loop.parameters if p.grad is not None]
        sparse |= {g.is_sparse for g in gradients}
        alone[group] = torch.cat([g.to_dense().flatten() for g in gradients])
    assert sparse == {kind == "static_model"}

    def refuse(*_: object) -> None:
        raise AssertionError("a table of millions of numbers is made for each collection")

    monkeypatch.setattr(torch.Tensor, "to_dense", refuse)
    products = gradient_products(losses(), groups, 3, loop.parameters)
    for i in range(3):
        for j in range(3):
            expected = float(alone[i] @ alone[j]) if i in alone and j in alone else 0.0
            assert float(products[i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert float(products[0, 2].abs()) > 1e-4


def test_groups_that_touch_different_rows_or_parameters() -> None:
    """Worked by hand: one group's loss uses rows 1 and 7 of the table, the other's 7 and 4 and a dense parameter."""
    table, dense, idle = (torch.nn.Parameter(t) for t in (torch.ones(10_000, 2), torch.ones(3), torch.ones(2)))
    rows = torch.nn.functional.embedding(torch.tensor([[1, 7], [7, 4]]), table, sparse=True)
    first = 2 * rows[0, 0].sum() + 3 * rows[0, 1].sum()
    second = 5 * rows[1, 0].sum() + rows[1, 1].sum() + 4 * dense.sum()
    products = gradient_products(torch.stack([first, second]), torch.tensor([2, 0]), 3, [table, dense, idle])
    assert products.tolist() == [[2 * (25 + 1) + 48, 0, 30], [0, 0, 0], [30, 0, 2 * (4 + 9)]]

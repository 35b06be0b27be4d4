"""InfoNCE against worked numbers and a naive loop."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mixture.errors import UsageError
from trainers import losses
from trainers.losses import info_nce, matryoshka


def test_worked_example() -> None:
    """cos(q, d⁺) = 1, cos(q, d⁻) = 0, τ = 0.5: ℓ = −log(e² / (e² + 1)) = log(1 + e⁻²)."""
    query = torch.tensor([[3.0, 0.0]])
    passages = torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    assert info_nce(query, passages, temperature=0.5).item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-7)


def _naive(query: torch.Tensor, passages: torch.Tensor, temperature: float, in_batch: bool, masked) -> list[float]:  # type: ignore[no-untyped-def]
    batch, count, _ = passages.shape
    losses = []
    for i in range(batch):
        own = i * count if in_batch else 0
        pool = passages.reshape(batch * count, -1) if in_batch else passages[i]
        total = 0.0
        for j, candidate in enumerate(pool):
            if j == own or masked is None or not masked[i, j]:
                total += math.exp(cosine_similarity(query[i], candidate, dim=0).item() / temperature)
        losses.append(-cosine_similarity(query[i], pool[own], dim=0).item() / temperature + math.log(total))
    return losses


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_equals_the_naive_loop(in_batch: bool, with_mask: bool) -> None:
    torch.manual_seed(0)
    query, passages = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 3, 8, dtype=torch.float64)
    masked = torch.rand(5, 15 if in_batch else 3) < 0.3 if with_mask else None
    got = info_nce(query, passages, temperature=0.2, in_batch=in_batch, masked=masked)
    assert got.tolist() == pytest.approx(_naive(query, passages, 0.2, in_batch, masked), abs=1e-9)


def test_flat_passages_are_grouped_by_example() -> None:
    torch.manual_seed(0)
    query, passages = torch.randn(4, 6), torch.randn(4, 3, 6)
    flat = info_nce(query, passages.reshape(12, 6), temperature=0.1)
    torch.testing.assert_close(flat, info_nce(query, passages, temperature=0.1))
    with pytest.raises(UsageError, match="7 passages do not divide among 4"):
        info_nce(query, torch.randn(7, 6), temperature=0.1)


def test_masking_everything_leaves_the_own_positive_and_no_loss() -> None:
    query, passages = torch.randn(3, 4), torch.randn(3, 2, 4)
    everything = torch.ones(3, 6, dtype=torch.bool)
    losses = info_nce(query, passages, temperature=0.1, in_batch=True, masked=everything)
    torch.testing.assert_close(losses, torch.zeros(3), atol=1e-6, rtol=0)


def test_the_papers_temperature_does_not_overflow() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    losses = info_nce(query, torch.tensor([[[-1.0, 0.0], [1.0, 0.1]]]), temperature=0.002)
    losses.sum().backward()
    assert losses.item() == pytest.approx(2 / 0.002, rel=0.01)
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()
    with pytest.raises(UsageError, match="temperature is 0"):
        info_nce(query, torch.zeros(1, 1, 2), temperature=0)


@pytest.mark.parametrize("with_mask", [False, True])
def test_the_symmetric_loss_is_the_mean_of_both_directions(with_mask: bool) -> None:
    torch.manual_seed(1)
    query, passages = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 3, 8, dtype=torch.float64)
    masked = torch.rand(5, 15) < 0.3 if with_mask else None
    got = info_nce(query, passages, temperature=0.2, in_batch=True, masked=masked, symmetric=True)
    # Back: the positives look for their queries; what is masked for a query is so for the passage.
    back = None if masked is None else masked[:, ::3].T
    backward = _naive(passages[:, 0], query[:, None], 0.2, True, back)
    forward = _naive(query, passages, 0.2, True, masked)
    assert got.tolist() == pytest.approx([(a + b) / 2 for a, b in zip(forward, backward, strict=True)], abs=1e-9)
    with pytest.raises(UsageError, match="needs in_batch"):
        info_nce(query, passages, temperature=0.2, symmetric=True)


def test_matryoshka_is_the_mean_over_the_first_dimensions() -> None:
    torch.manual_seed(2)
    query, passages = torch.randn(3, 8), torch.randn(3, 2, 8)
    loss = partial(info_nce, temperature=0.1, in_batch=True)
    expected = (loss(query[:, :2], passages[:, :, :2]) + loss(query, passages)) / 2
    torch.testing.assert_close(matryoshka(loss, query, passages, (2, 8)), expected)
    with pytest.raises(UsageError, match="matryoshka_dims has 9; the model's embeddings have 8"):
        matryoshka(loss, query, passages, (2, 9))


def test_blocks_of_queries_give_the_same_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    found = []
    for scores_at_once in (losses.BLOCK["cpu"], 40):  # 2 of 7 queries with 14 candidates each
        monkeypatch.setitem(losses.BLOCK, "cpu", scores_at_once)
        torch.manual_seed(3)
        query, passages = torch.randn(7, 8, requires_grad=True), torch.randn(7, 2, 8, requires_grad=True)
        masked = torch.rand(7, 14) < 0.3
        got = info_nce(query, passages, temperature=0.1, in_batch=True, masked=masked, symmetric=True)
        got.sum().backward()
        found.append((got.detach(), query.grad, passages.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)

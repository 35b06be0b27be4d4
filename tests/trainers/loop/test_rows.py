"""Optimiser and clipping for gradients that have some rows of a table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainers.loop.rows import AT_ONCE, RowAdamW, clip_gradients

ROWS = 2 * AT_ONCE + 100


def _gradients(steps: int, share: float = 0.6) -> list[Tensor]:
    """Sparse gradients of a table (ROWS, 3), of other rows at each step."""
    made = torch.Generator().manual_seed(5)
    found = []
    for _ in range(steps):
        rows = torch.randperm(ROWS, generator=made)[: int(share * ROWS)]
        values = torch.randn(len(rows), 3, generator=made)
        found.append(torch.sparse_coo_tensor(rows[None], values, (ROWS, 3), check_invariants=True))
    return found


def _moved(optimizer: torch.optim.Optimizer, table: torch.nn.Parameter, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        table.grad = gradient
        optimizer.step()
    return table.detach()


def _table() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-1, 1, ROWS * 3).reshape(ROWS, 3))


def test_without_decay_it_is_sparse_adam() -> None:
    ours, theirs = _table(), _table()
    got = _moved(RowAdamW([{"params": [ours]}], lr=0.05), ours, _gradients(6))
    wanted = _moved(torch.optim.SparseAdam([theirs], lr=0.05), theirs, _gradients(6))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)  # its eps comes before the bias correction
    assert float((got - _table().detach()).abs().max()) > 0.1


@pytest.mark.parametrize("sparse", [True, False])
def test_where_every_row_has_a_gradient_it_is_adamw(sparse: bool) -> None:
    ours, theirs = _table(), _table()
    whole = [gradient.to_dense() for gradient in _gradients(6, share=1.0)]
    groups = [{"params": [ours], "weight_decay": 0.3}]
    got = _moved(RowAdamW(groups, lr=0.05), ours, _gradients(6, share=1.0) if sparse else whole)
    wanted = _moved(torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.3), theirs, whole)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_rows_without_a_gradient_keep_their_bits() -> None:
    table = _table()
    groups = [{"params": [table], "weight_decay": 0.3}]
    optimizer = RowAdamW(groups, lr=0.05)
    first, second = _gradients(2)
    _moved(optimizer, table, [first])
    before = {name: value.clone() for name, value in optimizer.state[table].items()} | {"weights": table.clone()}
    _moved(optimizer, table, [second])
    still = torch.ones(ROWS, dtype=torch.bool)
    still[second.coalesce().indices()[0]] = False
    now = {**optimizer.state[table], "weights": table}
    for name in ("weights", "mean", "square"):
        assert torch.equal(now[name][still], before[name][still])
        assert not torch.isclose(now[name][~still], before[name][~still], rtol=0, atol=1e-9).all(dim=1).any()


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_is_torchs(most: float) -> None:
    (gradient,) = _gradients(1)
    parameters = [_table(), torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(2))]
    alike = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    parameters[0].grad, alike[0].grad = gradient, gradient.to_dense()
    parameters[1].grad, alike[1].grad = torch.arange(4.0), torch.arange(4.0)  # the last has none
    norm = clip_gradients(parameters, most)
    assert float(norm) == pytest.approx(float(torch.nn.utils.clip_grad_norm_(alike, most)))
    for ours, theirs in zip(parameters[:2], alike[:2], strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)

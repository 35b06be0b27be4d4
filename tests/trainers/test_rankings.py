"""nDCG of rankings drawn: the mean of what can be drawn, and its gradient, are those of all permutations."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
import torch

from trainers.losses import expected_ndcg
from trainers.losses.ndcg import ndcg_of_gains
from trainers.losses.rankings import gumbel, sampled_ndcg

SCORES = (1.0, 0.5, 0.0, -0.5)
ONE, TWO = (0.0, 1.0, 0.0, 0.0), (2.0, 0.0, 1.0, 0.0)
# What finite differences give, too.
WORKED = {ONE: (0.669954, (-0.059211, 0.123651, -0.037559, -0.026881)),
          TWO: (0.806965, (0.082226, -0.059287, 0.007803, -0.030743))}  # fmt: skip
ORDERS = list(permutations(range(4)))


def _probability(order: tuple[int, ...], scores: tuple[float, ...] = SCORES) -> float:
    return math.prod(1 / sum(math.exp(scores[j] - scores[one]) for j in order[k:]) for k, one in enumerate(order))


def _drawn(
    orders: tuple[tuple[int, ...], ...], gains: tuple[float, ...], cut: int = 10, scores: tuple[float, ...] = SCORES
) -> tuple[float, np.ndarray]:
    """nDCG and its gradient where the noise made these orders."""
    noise = torch.zeros(len(orders), 1, len(scores), dtype=torch.float64)
    for sample, order in enumerate(orders):
        for place, one in enumerate(order):
            noise[sample, 0, one] = -10.0 * place - scores[one]
    given = torch.tensor([scores], dtype=torch.float64, requires_grad=True)
    value = 1 - sampled_ndcg(given, torch.tensor([gains], dtype=torch.float64), noise, cut=cut)
    value.sum().backward()
    assert given.grad is not None
    return value.item(), given.grad[0].numpy()


def test_worked_probabilities() -> None:
    assert _probability((0, 1, 2, 3)) == pytest.approx(0.143462, abs=1e-6)
    assert _probability((1, 0, 2, 3)) == pytest.approx(0.107983, abs=1e-6)
    assert sum(map(_probability, ORDERS)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("gains", [ONE, TWO])
def test_it_is_unbiased_with_one_ranking_and_with_two(gains: tuple[float, ...]) -> None:
    """All rankings, and all pairs of them with the mean of the other as baseline."""
    value, gradient = WORKED[gains]
    for samples in (1, 2):
        mean, mean_gradient = 0.0, np.zeros(4)
        for orders in product(ORDERS, repeat=samples):
            probability = math.prod(map(_probability, orders))
            drawn, found = _drawn(orders, gains)
            mean += probability * drawn
            mean_gradient += probability * found
        assert mean == pytest.approx(value, abs=1e-6)
        assert mean_gradient == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_it_is_unbiased_at_a_cut(cut: int) -> None:
    scores = torch.tensor([SCORES], dtype=torch.float64, requires_grad=True)
    exact = 1 - ndcg_of_gains(scores, torch.tensor([TWO], dtype=torch.float64), cut=cut)
    exact.sum().backward()
    weighted = [(_probability(order), *_drawn((order,), TWO, cut)) for order in ORDERS]
    assert sum(p * value for p, value, _ in weighted) == pytest.approx(exact.item(), abs=1e-6)
    assert scores.grad is not None
    assert sum(p * found for p, _, found in weighted) == pytest.approx(scores.grad[0].numpy(), abs=1e-6)


def test_worked_variances_of_one_ranking() -> None:
    """Traces: the plain score function, the reward to go (which one ranking has), and the baseline E[Δ]."""
    value, gradient = WORKED[ONE]
    plain, to_go, baseline = 0.0, 0.0, 0.0
    for order in ORDERS:
        score_function = np.zeros(4)
        for place, one in enumerate(order):
            left = list(order[place:])
            score_function[one] += 1
            score_function[left] -= np.exp(np.array(SCORES)[left]) / np.exp(np.array(SCORES)[left]).sum()
        drawn, found = _drawn((order,), ONE)
        probability = _probability(order)
        plain += probability * ((drawn * score_function - gradient) ** 2).sum()
        to_go += probability * ((found - gradient) ** 2).sum()
        baseline += probability * (((drawn - value) * score_function - gradient) ** 2).sum()
    assert (plain, to_go, baseline) == pytest.approx((0.801, 0.484, 0.064), abs=5e-4)
    pairs = sum(
        _probability(one) * _probability(two) * ((_drawn((one, two), ONE)[1] - gradient) ** 2).sum()
        for one, two in product(ORDERS, repeat=2)
    )
    assert pairs < to_go / 4  # two rankings drawn halve it; the baseline does the rest


@pytest.mark.parametrize("gains", [ONE, TWO])
def test_draws_agree_within_their_standard_error(gains: tuple[float, ...]) -> None:
    """4,000 rows of 16 rankings each, at the noise that training has."""
    rows = torch.arange(4000)
    scores = torch.tensor([SCORES], dtype=torch.float64).repeat(len(rows), 1).requires_grad_()
    noise = gumbel((42, 7), rows, 16, 4, scores)
    values = 1 - sampled_ndcg(scores, torch.tensor([gains], dtype=torch.float64).repeat(len(rows), 1), noise, cut=10)
    values.sum().backward()
    assert scores.grad is not None
    value, gradient = WORKED[gains]
    error = values.std().item() / len(rows) ** 0.5
    assert error < 1e-3
    assert abs(values.mean().item() - value) < 3 * error
    errors = scores.grad.std(dim=0) / len(rows) ** 0.5
    assert bool(((scores.grad.mean(dim=0) - torch.tensor(gradient)).abs() < 3.5 * errors).all())


def test_noise_is_a_function_of_key_and_row() -> None:
    like = torch.zeros(1)
    whole = gumbel((1, 2), torch.arange(6), 3, 5, like)
    assert whole.shape == (3, 6, 5)
    torch.testing.assert_close(gumbel((1, 2), torch.tensor([4, 1]), 3, 5, like), whole[:, [4, 1]], rtol=0, atol=0)
    assert not torch.equal(gumbel((1, 3), torch.arange(6), 3, 5, like), whole)
    assert len(torch.unique(whole)) == whole.numel()
    many = gumbel((3,), torch.arange(100), 10, 100, like)
    assert many.mean().item() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert many.std().item() == pytest.approx(math.pi / 6**0.5, rel=0.02)


def test_who_is_masked_is_in_no_ranking() -> None:
    gains = torch.tensor([[1.0, 0, 0, 1, 0, 0]], dtype=torch.float64)
    scores = torch.tensor([[1.0, 0.5, -math.inf, 0.0, -math.inf, -0.5]], dtype=torch.float64, requires_grad=True)
    noise = gumbel((5,), torch.arange(1), 8, 6, scores)
    value = sampled_ndcg(scores, gains, noise, cut=10)
    value.sum().backward()
    kept = [0, 1, 3, 5]
    alone = scores.detach()[:, kept].requires_grad_()
    expected = sampled_ndcg(alone, gains[:, kept], noise[:, :, kept], cut=10)
    expected.sum().backward()
    torch.testing.assert_close(value, expected)
    assert scores.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(scores.grad[:, kept], alone.grad)
    assert scores.grad[0, [2, 4]].tolist() == [0.0, 0.0]


def test_the_loss_draws_by_its_key() -> None:
    torch.manual_seed(0)
    query, passages = torch.randn(5, 8, requires_grad=True), torch.randn(5, 3, 8)

    def loss(samples: int, *key: int) -> torch.Tensor:
        return expected_ndcg(query, passages, temperature=0.2, in_batch=True, ndcg_samples=samples, key=key)

    exact = loss(0)
    assert torch.equal(loss(16, 1, 2), loss(16, 1, 2))
    assert not torch.equal(loss(16, 1, 2), loss(16, 1, 3))
    torch.testing.assert_close(loss(4000, 1), exact, atol=0.02, rtol=0)
    (by_draws,) = torch.autograd.grad(loss(32_000, 1).sum(), query)
    (by_integral,) = torch.autograd.grad(exact.sum(), query)
    assert float((by_draws - by_integral).norm() / by_integral.norm()) < 0.05


def test_at_low_temperatures_values_and_gradients_stay_finite() -> None:
    scores = torch.tensor([[500.0, -500.0, 480.0, -math.inf]], requires_grad=True)
    gains = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    value = sampled_ndcg(scores, gains, gumbel((1,), torch.arange(1), 4, 4, scores), cut=3)
    value.sum().backward()
    found = (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3))
    assert value.item() == pytest.approx(1 - found, abs=1e-6)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()

"""Expected nDCG against all permutations, trec_eval's nDCG, finite differences and a naive loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import pytest
import pytrec_eval
import torch
from torch.nn.functional import cosine_similarity

from mixture.errors import UsageError
from trainers import losses
from trainers.losses import expected_ndcg, info_nce
from trainers.losses.ndcg import LONGEST_CUT, ndcg_of_gains, ndcg_of_scores

SCORES = (0.5, 1.0, 0.0, -0.5)  # the positive first


def _ndcg(scores: tuple[float, ...], cut: int = 10) -> float:
    found = ndcg_of_scores(torch.tensor([scores], dtype=torch.float64), torch.tensor([0]), cut=cut)
    return 1 - found.item()


def _rankings(scores: tuple[float, ...]) -> Iterator[tuple[tuple[int, ...], float]]:
    """All rankings of the candidates, each with its Plackett–Luce probability."""
    for order in permutations(range(len(scores))):
        yield (
            order,
            math.prod(1 / sum(math.exp(scores[j] - scores[one]) for j in order[k:]) for k, one in enumerate(order)),
        )


def _enumerated(scores: tuple[float, ...], cut: int = 10) -> float:
    found = ((order.index(0), probability) for order, probability in _rankings(scores))
    return sum(probability / math.log2(rank + 2) for rank, probability in found if rank < cut)


def test_worked_numbers() -> None:
    assert _ndcg(SCORES) == pytest.approx(0.669954, abs=1e-6)
    assert _ndcg(SCORES, 2) == pytest.approx(0.476111, abs=1e-6)
    assert _ndcg(SCORES, 1) == pytest.approx(0.276004, abs=1e-6)
    assert _ndcg(SCORES, 1) == pytest.approx(math.exp(0.5) / sum(map(math.exp, SCORES)), abs=1e-7)
    scores = torch.tensor([SCORES], dtype=torch.float64, requires_grad=True)
    (1 - ndcg_of_scores(scores, torch.tensor([0]), cut=10)).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([0.123651, -0.059211, -0.037559, -0.026881], abs=1e-6)
    assert float(scores.grad.sum()) == pytest.approx(0, abs=1e-12)


def test_at_a_cut_of_1_its_logarithm_is_info_nce() -> None:
    torch.manual_seed(0)
    query, passages = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 3, 6, dtype=torch.float64)
    first = 1 - expected_ndcg(query, passages, temperature=0.3, in_batch=True, ndcg_cut=1)
    torch.testing.assert_close(-first.log(), info_nce(query, passages, temperature=0.3, in_batch=True))


@pytest.mark.parametrize("cut", [1, 2, 3, 10])
@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.3, 0.1, 0.05, 0.02, 0.01])
def test_equals_the_mean_over_all_permutations(cut: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(int(1000 * temperature))
    for num in range(1, 7):
        cosines = torch.rand(num, generator=generator, dtype=torch.float64) * 0.6
        scores = tuple((cosines / temperature).tolist())
        assert _ndcg(scores, cut) == pytest.approx(_enumerated(scores, cut), abs=1e-7)


def test_the_utility_is_trec_evals() -> None:
    """pytrec_eval's nDCG@10 of every ranking, weighted by the ranking's probability."""
    evaluator = pytrec_eval.RelevanceEvaluator({"q": {"d0": 1}}, {"ndcg_cut.10"})
    mean = total = 0.0
    for order, probability in _rankings(SCORES):
        run = {"q": {f"d{one}": float(-rank) for rank, one in enumerate(order)}}
        mean += probability * evaluator.evaluate(run)["q"]["ndcg_cut_10"]
        total += probability
    assert total == pytest.approx(1, abs=1e-12)
    assert _ndcg(SCORES) == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("cut", [1, 10, 30, LONGEST_CUT])
def test_many_candidates_with_one_score_are_in_any_order(cut: int) -> None:
    """The quadrature at its steepest: the positive's rank among M equals is uniform."""
    for num in (2, 7, 64, 300):
        expected = sum(1 / math.log2(rank + 2) for rank in range(min(cut, num))) / num
        assert _ndcg((0.0,) * num, cut) == pytest.approx(expected, abs=2e-7)


def test_limits_of_the_temperature() -> None:
    query, passages = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.5], [1.0, 0.1], [1.0, 2.0], [-1.0, 0.3]]])
    sorted_list = expected_ndcg(query, passages, temperature=0.001)
    assert sorted_list.item() == pytest.approx(1 - 1 / math.log2(3), abs=1e-6)
    any_order = expected_ndcg(query, passages, temperature=1e6)
    assert any_order.item() == pytest.approx(1 - sum(1 / math.log2(rank + 2) for rank in range(4)) / 4, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_gradients_are_those_of_finite_differences(temperature: float) -> None:
    torch.manual_seed(1)
    query = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    passages = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    masked = torch.rand(3, 6) < 0.3

    def loss(query: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        return expected_ndcg(query, passages, temperature=temperature, in_batch=True, masked=masked, ndcg_cut=3)

    assert torch.autograd.gradcheck(loss, (query, passages), atol=1e-5)


def test_a_higher_score_of_the_positive_is_never_worse() -> None:
    generator = torch.Generator().manual_seed(2)
    for temperature in (1.0, 0.1, 0.02):
        for num, cut in ((2, 10), (6, 3), (40, 10)):
            scores = torch.rand(num, generator=generator, dtype=torch.float64).repeat(60, 1)
            scores[:, 0] = torch.linspace(-0.5, 1.5, 60, dtype=torch.float64)
            values = 1 - ndcg_of_scores(scores / temperature, torch.zeros(60, dtype=torch.long), cut=cut)
            assert bool((values.diff() > -1e-7).all())
            assert values[-1] > values[0] + 0.1


def _naive(query: torch.Tensor, passages: torch.Tensor, in_batch: bool, masked: torch.Tensor | None) -> list[float]:
    """At a temperature of 0.2 and a cut of 4, by enumeration."""
    batch, count, _ = passages.shape
    found = []
    for i in range(batch):
        own = i * count if in_batch else 0
        pool = passages.reshape(batch * count, -1) if in_batch else passages[i]
        scores = [cosine_similarity(query[i], candidate, dim=0).item() / 0.2 for candidate in pool]
        others = [s for j, s in enumerate(scores) if j != own and (masked is None or not masked[i, j])]
        found.append(1 - _enumerated((scores[own], *others), 4))
    return found


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_equals_the_naive_loop(in_batch: bool, with_mask: bool) -> None:
    torch.manual_seed(0)
    query, passages = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 2, 8, dtype=torch.float64)
    masked = torch.rand(3, 6 if in_batch else 2) < 0.3 if with_mask else None
    forms = {"temperature": 0.2, "in_batch": in_batch, "masked": masked, "ndcg_cut": 4}
    got = expected_ndcg(query, passages, **forms)
    assert got.tolist() == pytest.approx(_naive(query, passages, in_batch, masked), abs=1e-6)
    torch.testing.assert_close(expected_ndcg(query.float(), passages.float(), **forms), got.float(), atol=1e-6, rtol=0)


def test_masked_candidates_are_not_there_and_the_positive_always_is() -> None:
    torch.manual_seed(4)
    query, passages = torch.randn(2, 6), torch.randn(2, 3, 6)
    masked = torch.tensor([[True, True, False], [True, False, True]])
    got = expected_ndcg(query, passages, temperature=0.1, masked=masked)
    kept = torch.stack([passages[0, [0, 2]], passages[1, [0, 1]]])
    torch.testing.assert_close(got, expected_ndcg(query, kept, temperature=0.1))
    nothing = expected_ndcg(query, passages, temperature=0.1, masked=torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(nothing, torch.zeros(2), atol=1e-6, rtol=0)


def test_far_scores_give_finite_gradients() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    passages = torch.tensor([[[-1.0, 0.1], [1.0, 0.1], [0.3, 1.0]]])
    loss = expected_ndcg(query, passages, temperature=0.002, masked=torch.tensor([[False, False, True]]), ndcg_cut=1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1, abs=1e-6)
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


def test_blocks_of_queries_give_the_same_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for scores_at_once in (losses.BLOCK["cpu"], 2600):  # 2 of 7 queries, 14 candidates and 89 times each
        monkeypatch.setitem(losses.BLOCK, "cpu", scores_at_once)
        torch.manual_seed(3)
        query, passages = torch.randn(7, 8, requires_grad=True), torch.randn(7, 2, 8, requires_grad=True)
        got = expected_ndcg(query, passages, temperature=0.1, in_batch=True, masked=torch.rand(7, 14) < 0.3)
        got.sum().backward()
        found.append((got.detach(), query.grad, passages.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_what_it_has_no_form_for_is_refused() -> None:
    query, passages = torch.randn(2, 4), torch.randn(2, 3, 4)
    with pytest.raises(UsageError, match="symmetric is True"):
        expected_ndcg(query, passages, temperature=0.1, in_batch=True, symmetric=True)
    for cut in (0, LONGEST_CUT + 1):
        with pytest.raises(UsageError, match=f"ndcg_cut is {cut}; allowed: 1 to 100"):
            expected_ndcg(query, passages, temperature=0.1, ndcg_cut=cut)
    with pytest.raises(UsageError, match="temperature is 0"):
        expected_ndcg(query, passages, temperature=0)
    with pytest.raises(UsageError, match="ndcg_positives is some; allowed: one, all"):
        expected_ndcg(query, passages, temperature=0.1, ndcg_positives="some")
    for samples in (-1, 1):
        with pytest.raises(UsageError, match=f"ndcg_samples is {samples}; allowed: 0, or 2 or more"):
            expected_ndcg(query, passages, temperature=0.1, ndcg_samples=samples)


def _of_gains(scores: Sequence[float], gains: Sequence[float], cut: int = 10) -> float:
    """E[nDCG@cut] by enumeration."""
    ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains, reverse=True)[:cut]))
    return sum(
        probability * gains[one] / math.log2(place + 2) / ideal
        for order, probability in _rankings(tuple(scores))
        for place, one in enumerate(order[:cut])
    )


def test_worked_numbers_of_several_positives() -> None:
    scores = torch.tensor([[1.0, 0.5, 0.0, -0.5]], dtype=torch.float64, requires_grad=True)
    gains = torch.tensor([[2.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    value = 1 - ndcg_of_gains(scores, gains, cut=10)
    value.sum().backward()
    assert value.item() == pytest.approx(0.806965, abs=1e-6)
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([0.082226, -0.059287, 0.007803, -0.030743], abs=1e-6)


@pytest.mark.parametrize("cut", [1, 2, 3, 10])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
def test_several_positives_equal_the_mean_over_all_permutations(cut: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(int(1000 * temperature))
    for num in range(1, 7):
        cosines = torch.rand(4, num, generator=generator, dtype=torch.float64) * 0.6
        gains = torch.randint(0, 3, (4, num), generator=generator).double()
        gains[:, 0] += 1
        found = 1 - ndcg_of_gains(cosines / temperature, gains, cut=cut)
        expected = [_of_gains((c / temperature).tolist(), g.tolist(), cut) for c, g in zip(cosines, gains, strict=True)]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("cut", [3, 10])
@pytest.mark.parametrize("gains", [(1, 1, 0, 0), (2, 0, 1, 0), (0, 3, 1, 1, 0), (1, 0, 1, 0, 0, 1)])
def test_the_utility_of_several_positives_is_trec_evals(gains: tuple[int, ...], cut: int) -> None:
    measure = f"ndcg_cut.{cut}"
    evaluator = pytrec_eval.RelevanceEvaluator({"q": {f"d{n}": gain for n, gain in enumerate(gains)}}, {measure})
    scores = tuple(torch.linspace(1, -0.5, len(gains), dtype=torch.float64).tolist())
    mean = 0.0
    for order, probability in _rankings(scores):
        run = {"q": {f"d{one}": float(-rank) for rank, one in enumerate(order)}}
        mean += probability * evaluator.evaluate(run)["q"][measure.replace(".", "_")]
    of_scores = torch.tensor([scores], dtype=torch.float64), torch.tensor([gains], dtype=torch.float64)
    assert 1 - ndcg_of_gains(*of_scores, cut=cut).item() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("with_answers", [False, True])
def test_marked_candidates_are_positives_or_left_out(with_answers: bool) -> None:
    torch.manual_seed(5)
    query, passages = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 2, 8, dtype=torch.float64)
    answers = torch.tensor([[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    masked = answers.clone()
    masked[0, 3] = masked[2, 1] = True  # another rank's, say
    forms: dict[str, Any] = {"temperature": 0.2, "in_batch": True, "ndcg_cut": 4}
    told = answers if with_answers else None
    one = expected_ndcg(query, passages, masked=masked, answers=told, **forms)
    torch.testing.assert_close(one, expected_ndcg(query, passages, masked=masked, **forms))
    got = expected_ndcg(query, passages, masked=masked, answers=told, ndcg_positives="all", **forms)
    if not with_answers:
        torch.testing.assert_close(got, one)
        return
    expected = []
    for i in range(3):
        kept = [j for j in range(6) if not (masked[i, j] and not answers[i, j])]
        scores = [cosine_similarity(query[i], passages.flatten(0, 1)[j], dim=0).item() / 0.2 for j in kept]
        gains = [float(j == 2 * i or answers[i, j]) for j in kept]
        expected.append(1 - _of_gains(scores, gains, 4))
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(got[2], one[2])
    assert not torch.isclose(got[1], one[1])


@pytest.mark.parametrize("samples", [0, 4])
def test_blocks_of_several_positives_give_the_same(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for scores_at_once in (losses.BLOCK["cpu"], 2600 if not samples else 120):
        monkeypatch.setitem(losses.BLOCK, "cpu", scores_at_once)
        torch.manual_seed(3)
        query, passages = torch.randn(7, 8, requires_grad=True), torch.randn(7, 2, 8, requires_grad=True)
        answers = torch.rand(7, 14) < 0.3
        got = expected_ndcg(query, passages, temperature=0.1, in_batch=True, masked=answers, answers=answers,
                            ndcg_positives="all", ndcg_samples=samples, key=(1, 2))  # fmt: skip
        got.sum().backward()
        found.append((got.detach(), query.grad, passages.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)

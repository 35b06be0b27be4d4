"""InfoNCE against worked numbers and a naive loop."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import (
    GlobalOrthogonalRegularizationLoss,
    MultipleNegativesRankingLoss,
)
from torch.nn.functional import cosine_similarity

from mixture.errors import UsageError
from trainers import losses
from trainers.losses import info_nce, matryoshka, spread_out


def test_worked_example() -> None:
    """cos(q, d⁺) = 1, cos(q, d⁻) = 0, τ = 0.5: ℓ = −log(e² / (e² + 1)) = log(1 + e⁻²)."""
    query = torch.tensor([[3.0, 0.0]])
    passages = torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    assert info_nce(query, passages, temperature=0.5).item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-7)


def _naive(  # type: ignore[no-untyped-def]
    query: torch.Tensor, passages: torch.Tensor, temperature: float, in_batch: bool, masked,
    margin: float | None = None, relative: bool = False, hardness: float = 0.0,
) -> list[float]:  # fmt: skip
    batch, count, _ = passages.shape
    losses = []
    for i in range(batch):
        own = i * count if in_batch else 0
        pool = passages.reshape(batch * count, -1) if in_batch else passages[i]
        positive = cosine_similarity(query[i], pool[own], dim=0).item()
        total = 0.0
        for j, candidate in enumerate(pool):
            score = cosine_similarity(query[i], candidate, dim=0).item()
            if j != own and masked is not None and masked[i, j]:
                continue
            if j != own and margin is not None and score > positive - margin * (abs(positive) if relative else 1):
                continue
            weight = math.exp(hardness * score) if own < j < own + count else 1.0
            total += weight * math.exp(score / temperature)
        losses.append(-positive / temperature + math.log(total))
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


@pytest.mark.parametrize(
    "forms",
    [{"symmetric": True}, {"directions": ("qd", "qq", "dq", "dd")}, {"directions": ("dd", "qd"), "margin": 0.1}],
)
def test_blocks_of_queries_give_the_same_losses_and_gradients(
    forms: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for scores_at_once in (losses.BLOCK["cpu"], 40):  # 1 or 2 of 7 queries with 14 candidates each
        monkeypatch.setitem(losses.BLOCK, "cpu", scores_at_once)
        torch.manual_seed(3)
        query, passages = torch.randn(7, 8, requires_grad=True), torch.randn(7, 2, 8, requires_grad=True)
        masked = torch.rand(7, 14) < 0.3
        got = info_nce(query, passages, temperature=0.1, in_batch=True, masked=masked, **forms)
        got.sum().backward()
        found.append((got.detach(), query.grad, passages.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


# cos(q, d) = 0.8 for the positive, then 0.75, 0.3.
QUERY = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
PASSAGES = torch.tensor([[[0.8, 0.6], [0.75, 0.4375**0.5], [0.3, 0.91**0.5]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("forms", "others"),
    [
        ({}, math.exp(1.5) + math.exp(0.6)),
        ({"margin": 0.1}, math.exp(0.6)),  # 0.75 > 0.7
        ({"margin": 0.04}, math.exp(1.5) + math.exp(0.6)),  # 0.75 < 0.76
        ({"margin": 0.05, "margin_strategy": "relative"}, math.exp(1.5) + math.exp(0.6)),  # 0.75 < 0.76
        ({"margin": 0.1, "margin_strategy": "relative"}, math.exp(0.6)),  # 0.75 > 0.72
        ({"margin": 0.6}, 0.0),
        ({"hardness": 5.0}, math.exp(1.5 + 3.75) + math.exp(0.6 + 1.5)),
        ({"margin": 0.1, "hardness": 5.0}, math.exp(0.6 + 1.5)),
    ],
)
def test_worked_margins_and_hardness(forms: dict[str, Any], others: float) -> None:
    """τ = 0.5: the scores over it are 1.6, 1.5, 0.6."""
    got = info_nce(QUERY, PASSAGES, temperature=0.5, **forms)
    assert got.item() == pytest.approx(-1.6 + math.log(math.exp(1.6) + others), abs=1e-9)


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("margin", [None, -0.1, 0.0, 0.2])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("hardness", [0.0, 5.0])
def test_margins_and_hardness_equal_the_naive_loop(
    in_batch: bool, margin: float | None, relative: bool, hardness: float
) -> None:
    torch.manual_seed(6)
    query, passages = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 3, 8, dtype=torch.float64)
    passages[:, 0] += query  # some positives score high
    masked = torch.rand(5, 15 if in_batch else 3) < 0.2
    forms: dict[str, Any] = {"margin": margin, "hardness": hardness}
    strategy = "relative" if relative else "absolute"
    found = partial(info_nce, query, passages, temperature=0.2, in_batch=in_batch, masked=masked,
                    margin_strategy=strategy, **forms)  # fmt: skip
    forward = _naive(query, passages, 0.2, in_batch, masked, relative=relative, **forms)
    assert found().tolist() == pytest.approx(forward, abs=1e-9)
    if in_batch:  # from passage to query there is a margin, and no hard negative
        backward = _naive(passages[:, 0], query[:, None], 0.2, True, masked[:, ::3].T, margin, relative)
        means = [(a + b) / 2 for a, b in zip(forward, backward, strict=True)]
        assert found(symmetric=True).tolist() == pytest.approx(means, abs=1e-9)


def test_hardness_is_sentence_transformers() -> None:
    torch.manual_seed(7)
    query, passages = torch.randn(4, 6), torch.randn(4, 3, 6)
    theirs = MultipleNegativesRankingLoss(
        torch.nn.Identity(), scale=20.0, hardness_mode="hard_negatives", hardness_strength=5.0
    )
    expected = theirs.compute_loss_from_embeddings([query, *passages.unbind(1)], torch.empty(0))
    torch.testing.assert_close(
        info_nce(query, passages, temperature=0.05, in_batch=True, hardness=5.0).mean(), expected
    )


def test_weights_have_no_gradient_and_who_is_left_out_has_none() -> None:
    """d ℓ / d s is that of a softmax whose weights are constants."""
    passages = PASSAGES.clone().requires_grad_()
    info_nce(QUERY, passages, temperature=0.5, margin=0.1, hardness=5.0).sum().backward()
    found = passages.grad
    weight, constant = math.exp(5 * 0.3), PASSAGES.clone().requires_grad_()
    scores = cosine_similarity(QUERY[:, None], constant, dim=-1)[0] / 0.5
    (torch.log(scores[0].exp() + weight * scores[2].exp()) - scores[0]).backward()
    torch.testing.assert_close(found, constant.grad)
    assert found is not None
    assert found[0, 1].tolist() == [0.0, 0.0]


def test_values_that_margins_and_hardness_cannot_have() -> None:
    with pytest.raises(UsageError, match="margin_strategy is half; allowed: absolute, relative"):
        info_nce(QUERY, PASSAGES, temperature=0.5, margin=0.1, margin_strategy="half")
    with pytest.raises(UsageError, match="hardness is -1; allowed: 0 or more"):
        info_nce(QUERY, PASSAGES, temperature=0.5, hardness=-1)


ALL = ("qd", "qq", "dq", "dd")


def _with_directions(  # type: ignore[no-untyped-def]
    query: torch.Tensor, passages: torch.Tensor, directions: tuple[str, ...], masked, margin: float | None = None
) -> list[float]:
    """Pair by pair, at a temperature of 0.2."""
    batch, count, _ = passages.shape
    answers = [
        [i == j or (masked is not None and bool(masked[i, j * count])) for j in range(batch)] for i in range(batch)
    ]

    def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
        return cosine_similarity(one, two, dim=0).item()

    losses = []
    for i in range(batch):
        own, found = cosine(query[i], passages[i, 0]), []
        for j in range(batch):
            for n in range(count):
                if (j, n) != (i, 0) and not (masked is not None and masked[i, j * count + n]):
                    found.append(cosine(query[i], passages[j, n]))
            alike = answers[i][j] or answers[j][i]
            if "qq" in directions and not alike:
                found.append(cosine(query[i], query[j]))
            if "dq" in directions and not answers[j][i]:
                found.append(cosine(passages[i, 0], query[j]))
            if "dd" in directions and not alike:
                found.append(cosine(passages[i, 0], passages[j, 0]))
        kept = [one for one in found if margin is None or one <= own - margin]
        total = sum(math.exp(one / 0.2) for one in kept) + (1 + ("dq" in directions)) * math.exp(own / 0.2)
        losses.append(math.log(total) - own / 0.2)
    return losses


@pytest.mark.parametrize("directions", [("qd", "qq"), ("dq", "qd"), ("qd", "dd"), ALL])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("margin", [None, -0.1, 0.1])
def test_directions_equal_the_naive_loop(directions: tuple[str, ...], with_mask: bool, margin: float | None) -> None:
    torch.manual_seed(8)
    query, passages = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 3, 8, dtype=torch.float64)
    passages[:, 0] += query
    masked = torch.rand(6, 18) < 0.2 if with_mask else None
    forms: dict[str, Any] = {"temperature": 0.2, "in_batch": True, "masked": masked, "margin": margin}
    got = info_nce(query, passages, directions=directions, **forms)
    assert got.tolist() == pytest.approx(_with_directions(query, passages, directions, masked, margin), abs=1e-9)
    flat = info_nce(query, passages.flatten(0, 1), directions=directions, **forms)
    torch.testing.assert_close(flat, got)
    assert not torch.allclose(got, info_nce(query, passages, **forms))


def test_worked_directions() -> None:
    """q₁ = d₁⁺ = (1, 0), q₂ = d₂⁺ = (0, 1), τ = 0.5: own pairs have e², all others e⁰."""
    query = torch.eye(2, dtype=torch.float64)
    for directions, total in {("qd",): 1, ("qd", "qq"): 2, ("qd", "dd"): 2, ALL: math.exp(2) + 4}.items():
        got = info_nce(query, query[:, None], temperature=0.5, in_batch=True, directions=directions)
        assert got.tolist() == pytest.approx([math.log(math.exp(2) + total) - 2] * 2, abs=1e-9)


@pytest.mark.parametrize("directions", [("qd", "qq"), ("qd", "dq"), ("qd", "dd"), ALL])
def test_directions_are_sentence_transformers(directions: tuple[str, ...]) -> None:
    """Of pairs: with hard negatives theirs has those of others in dd too, where GTE's equation is of pairs."""
    torch.manual_seed(9)
    query, passages = torch.randn(5, 6), torch.randn(5, 3, 6)
    names = {"qd": "query_to_doc", "qq": "query_to_query", "dq": "doc_to_query", "dd": "doc_to_doc"}
    theirs = MultipleNegativesRankingLoss(
        torch.nn.Identity(), scale=20.0, directions=tuple(names[one] for one in directions)
    )
    for count in (1, 3) if "dd" not in directions else (1,):
        expected = theirs.compute_loss_from_embeddings([query, *passages[:, :count].unbind(1)], torch.empty(0))
        got = info_nce(query, passages[:, :count], temperature=0.05, in_batch=True, directions=directions)
        torch.testing.assert_close(got.mean(), expected)


def test_an_equal_query_counts_in_no_direction() -> None:
    """Queries 0 and 1 are one question: each one's positive is marked for the other."""
    torch.manual_seed(10)
    query, passages = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 2, 6, dtype=torch.float64)
    query[1] = query[0]
    masked = torch.zeros(4, 8, dtype=torch.bool)
    masked[0, [0, 2]] = masked[1, [0, 2]] = True
    forms: dict[str, Any] = {"temperature": 0.05, "in_batch": True}
    got = info_nce(query, passages, masked=masked, directions=("qd", "qq"), **forms)
    assert got[0] < info_nce(query, passages, masked=masked, **forms)[0] + 2  # s(q₀, q₁)/τ is 20
    passages[1, 0] = passages[0, 0]
    for directions in (("qd", "qq"), ("qd", "dq"), ("qd", "dd"), ALL):
        alone = [i for i in range(4) if i != 1]
        kept = [n for n in range(8) if n not in (2, 3)]
        without = info_nce(query[alone], passages[alone], masked=masked[alone][:, kept], directions=directions, **forms)
        masked[0, 3] = True  # the negative of the equal query aside
        got = info_nce(query, passages, masked=masked, directions=directions, **forms)
        torch.testing.assert_close(got[0], without[0])


def test_directions_that_there_are_not() -> None:
    forms: dict[str, Any] = {"temperature": 0.5, "in_batch": True}
    for directions in ((), ("qq",), ("qd", "qx"), ("qd", "dd", "dd")):
        with pytest.raises(UsageError, match="allowed: qd, with any of qq, dq, dd, each once"):
            info_nce(QUERY, PASSAGES, directions=directions, **forms)
    with pytest.raises(UsageError, match="allowed: qd without in_batch"):
        info_nce(QUERY, PASSAGES, temperature=0.5, directions=ALL)
    with pytest.raises(UsageError, match="allowed: qd with symmetric_loss"):
        info_nce(QUERY, PASSAGES, directions=ALL, symmetric=True, **forms)


def test_spread_out_is_the_mean_squared_cosine_of_others() -> None:
    """Worked: three queries at 0, 60 and 90 degrees, positives at right angles or opposite."""
    query = torch.tensor([[2.0, 0.0], [0.5, 0.75**0.5], [0.0, 3.0]], dtype=torch.float64)
    passages = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[-4.0, 0.0]]], dtype=torch.float64)
    of_queries, of_positives = [0.125, 0.5, 0.375], [0.5, 0.0, 0.5]
    expected = [a + b for a, b in zip(of_queries, of_positives, strict=True)]
    assert spread_out(query, passages).tolist() == pytest.approx(expected, abs=1e-12)
    assert spread_out(query[:1], passages[:1]).tolist() == [0.0]


def test_spread_out_equals_the_naive_loop_and_sentence_transformers() -> None:
    torch.manual_seed(11)
    query, passages = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 3, 5, dtype=torch.float64)
    query[:, 0] += 2  # above 1/D, under which theirs has 0
    passages[:, :, 1] += 3
    expected = [
        sum(
            cosine_similarity(side[i], side[j], dim=0).item() ** 2 / 6
            for side in (query, passages[:, 0])
            for j in range(7)
            if j != i
        )
        for i in range(7)
    ]
    got = spread_out(query, passages)
    assert got.tolist() == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(spread_out(query, passages.flatten(0, 1)), got)
    torch.testing.assert_close(spread_out(query.float(), passages.float()), got.float(), atol=1e-6, rtol=0)
    theirs = GlobalOrthogonalRegularizationLoss(torch.nn.Identity(), mean_weight=None, aggregation="sum")
    excess = theirs.compute_loss_from_embeddings([query, passages[:, 0]])["gor_second_moment"]
    torch.testing.assert_close(got.mean(), excess + 2 / 5)


def test_spread_out_has_no_gradient_between_equal_texts() -> None:
    vector = torch.tensor([0.3, -0.4, 0.5], dtype=torch.float64)
    query = vector.repeat(4, 1).requires_grad_()
    value = spread_out(query, vector.repeat(4, 1)[:, None]).mean()
    value.backward()
    assert value.item() == pytest.approx(2, abs=1e-12)
    assert query.grad is not None
    assert query.grad.abs().max() < 1e-12
    even = torch.nn.functional.normalize(torch.randn(4000, 16, generator=torch.Generator().manual_seed(0)))
    assert spread_out(even, even[:, None]).mean().item() == pytest.approx(2 / 16, rel=0.02)

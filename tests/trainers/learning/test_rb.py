"""R&B's balance: its formula, its bound, and which steps its weights come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixture.errors import MixtureError, UsageError
from trainers.learning.learners.rb import Rb, rb_weights


def _equal(groups: int) -> Tensor:
    return torch.full((groups,), 1 / groups, dtype=torch.float64)


def _gradients(groups: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(groups, 5)) * np.geomspace(0.1, 10, groups)[:, None]


@given(groups=st.integers(1, 15), seed=st.integers(0, 1000), sharpness=st.floats(0, 5))
@settings(deadline=None, max_examples=50)
def test_the_formula_and_its_bound(groups: int, seed: int, sharpness: float) -> None:
    gradients = _gradients(groups, seed)
    random = np.random.default_rng(seed)
    evaluation = random.dirichlet(np.ones(groups))
    gain = gradients @ (evaluation @ gradients)  # each collection's gradient along that of the evaluation
    raised = np.exp(sharpness * gain / np.linalg.norm(gain))
    found = rb_weights(torch.from_numpy(gradients @ gradients.T), torch.from_numpy(evaluation), sharpness=sharpness)
    np.testing.assert_allclose(found, raised / raised.sum(), rtol=1e-9)
    assert float(found.max() / found.min()) <= math.exp(math.sqrt(2) * sharpness) * (1 + 1e-12)


def test_the_bound_is_reached() -> None:
    """Two collections that pull apart, the evaluation being all of one."""
    products = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    found = rb_weights(products, torch.tensor([1.0, 0.0]).double(), sharpness=1.5)
    assert float(found[0] / found[1]) == pytest.approx(math.exp(math.sqrt(2) * 1.5))


def test_orthogonal_gradients_of_one_length_say_nothing() -> None:
    assert rb_weights(9.0 * torch.eye(5).double(), _equal(5), sharpness=3.0).tolist() == pytest.approx([0.2] * 5)
    assert rb_weights(torch.zeros(3, 3).double(), _equal(3), sharpness=3.0).tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(MixtureError, match="infinite or NaN"):
        rb_weights(torch.full((2, 2), math.nan).double(), _equal(2), sharpness=1.0)


def test_who_goes_along_gains_and_who_goes_against_loses() -> None:
    gradients = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.5, -0.5, 0.0]]).double()
    found = rb_weights(gradients @ gradients.T, _equal(4), sharpness=1.0)
    assert found[0] > found[1] == found[2] > found[3]


def test_weights_are_set_anew_from_the_steps_since_the_last_time() -> None:
    learner = Rb(3, Rb.Options(refresh=2, sharpness=2.0))
    first, second, third, fourth = (torch.from_numpy(_gradients(3, s) @ _gradients(3, s).T) for s in range(4))
    losses, groups = torch.ones(3), torch.arange(3)
    kept = learner.update(_equal(3), losses, None, groups, first)
    assert torch.equal(kept, _equal(3))
    new = learner.update(kept, losses, None, groups, second)
    torch.testing.assert_close(new, rb_weights(first + second, _equal(3), sharpness=2.0))
    # Neither the weights before nor the gradients before matter any more.
    other = torch.tensor([0.8, 0.1, 0.1]).double()
    assert torch.equal(learner.update(other, losses, None, groups, third), other)
    again = learner.update(other, losses, None, groups, fourth)
    torch.testing.assert_close(again, rb_weights(third + fourth, _equal(3), sharpness=2.0))
    assert learner.average == "mean"


def test_a_collection_that_is_seen_more_often_does_not_look_stronger() -> None:
    """Equal gradients, of which the third is in one batch of four: all three weigh the same."""
    learner, weights = Rb(3, Rb.Options(refresh=4, sharpness=2.0)), _equal(3)
    for step in range(4):
        groups = torch.arange(3) if step == 0 else torch.arange(2)
        products = torch.zeros(3, 3).double()
        products[: len(groups), : len(groups)] = 4.0
        weights = learner.update(weights, torch.ones(len(groups)), None, groups, products)
    assert weights.tolist() == pytest.approx([1 / 3] * 3)


def test_mistakes_are_said() -> None:
    with pytest.raises(UsageError, match="rb needs the inner products"):
        Rb(2).update(_equal(2), torch.ones(2), None, torch.arange(2))
    with pytest.raises(UsageError, match="refresh is 0; allowed: 1 or more"):
        Rb.Options(refresh=0)
    with pytest.raises(UsageError, match="sharpness is -1; allowed: 0 or more"):
        Rb.Options(sharpness=-1)

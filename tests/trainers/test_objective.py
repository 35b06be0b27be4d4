"""tDRO's mathematics against an independent transcription in NumPy, and worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixture.errors import UsageError
from trainers.tdro import update_weights
from trainers.tdro.objective import group_mean, relative_measurement, weighted_proxy_loss
from trainers.tdro.weights import WeightState


def _numpy_step(weights, proxy, reference, groups, lr, max_norm):  # type: ignore[no-untyped-def]
    """Facts 1 and 2 of the release, written a second time."""
    scaled = reference / np.abs(reference).sum()
    scaled = np.array([r if r >= 1e-4 else 1.0 for r in scaled])
    ratio = np.maximum(proxy / scaled, 0.0)
    gradient = np.zeros(len(weights))
    for g in range(len(weights)):
        if (groups == g).any():
            gradient[g] = ratio[groups == g].mean()
    norm = np.sqrt((gradient**2).sum())
    if norm > max_norm:
        gradient = gradient * max_norm / (norm + 1e-6)
    logits = np.log(weights) + lr * gradient
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def test_a_thousand_heavy_tailed_steps_equal_the_transcription() -> None:
    random = np.random.default_rng(0)
    scale = random.lognormal(0, 1.5, 25)
    ours = torch.full((25,), 1 / 25, dtype=torch.float64)
    theirs = np.full(25, 1 / 25)
    for _ in range(1000):
        groups = random.integers(0, 25, 64)  # some groups are absent in a step
        reference = scale[groups] * random.lognormal(0, 2, 64) * (random.random(64) > 0.1)
        proxy = reference * random.lognormal(0.2, 0.5, 64)
        tensors = (torch.from_numpy(proxy), torch.from_numpy(reference), torch.from_numpy(groups))
        ours = update_weights(ours, *tensors, lr=2e-2)
        theirs = _numpy_step(theirs, proxy, reference, groups, 2e-2, 1.0)
    assert np.abs(ours.numpy() - theirs).max() < 1e-9
    assert float(ours.sum()) == pytest.approx(1.0, abs=1e-12)
    assert ours.max() > 2 * ours.min()


def test_worked_step() -> None:
    """Reference losses 1 and 3 become 1/4 and 3/4; proxy 1 and 1 give 4 and 4/3; norm 4.2164 scales to 1."""
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    losses = torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)
    new = update_weights(weights, *losses, torch.tensor([0, 1]), lr=0.1)
    gradient = np.array([4, 4 / 3]) / np.hypot(4, 4 / 3)
    wanted = np.exp(0.1 * gradient) / np.exp(0.1 * gradient).sum()
    assert new.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_small_gradients_are_not_scaled_up() -> None:
    measured = relative_measurement(torch.tensor([0.02, 0.01]), torch.tensor([1.0, 1.0]), torch.tensor([0, 1]), 2)
    torch.testing.assert_close(measured, torch.tensor([0.04, 0.02]))
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    new = update_weights(weights, torch.tensor([0.02, 0.01]), torch.ones(2), torch.tensor([0, 1]), lr=1.0)
    wanted = torch.softmax(torch.tensor([0.04, 0.02], dtype=torch.float64), 0)
    torch.testing.assert_close(new, wanted, atol=1e-7, rtol=0)


def test_what_the_reference_has_solved_counts_next_to_nothing() -> None:
    """A reference loss under 1e-4 of the batch's sum is set to 1 instead of dividing by nearly nothing."""
    reference = torch.tensor([1e-9, 1.0, 1.0])
    measured = relative_measurement(torch.ones(3), reference, torch.tensor([0, 1, 1]), 2)
    assert measured.tolist() == pytest.approx([1.0, 2.0])


def test_absent_groups_measure_zero_and_lose_weight() -> None:
    measured = relative_measurement(torch.ones(2), torch.ones(2), torch.tensor([0, 0]), 3)
    assert measured.tolist() == pytest.approx([2.0, 0.0, 0.0])
    new = update_weights(torch.full((3,), 1 / 3), torch.ones(2), torch.ones(2), torch.tensor([0, 0]), lr=0.1)
    assert new[0] > 1 / 3 > new[1] == new[2]


def test_negative_ratios_count_as_nothing_and_all_zero_losses_change_nothing() -> None:
    assert relative_measurement(-torch.ones(1), torch.ones(1), torch.tensor([0]), 1).item() == 0
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    new = update_weights(weights, torch.zeros(2), torch.zeros(2), torch.tensor([0, 1]), lr=0.1)
    torch.testing.assert_close(new, weights)
    assert update_weights(torch.ones(1), torch.ones(1), torch.ones(1), torch.tensor([0]), lr=1.0).tolist() == [1.0]


def test_unknown_measurement_names_the_known() -> None:
    with pytest.raises(UsageError, match="'excess'; allowed: relative"):
        update_weights(torch.ones(1), torch.ones(1), torch.ones(1), torch.tensor([0]), lr=1.0, measurement="excess")


def test_proxy_loss_weighs_examples_by_the_share_of_their_collection() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    loss = weighted_proxy_loss(losses, torch.tensor([0.1, 0.3]), torch.tensor([0, 1, 1]))
    assert loss.item() == pytest.approx((0.1 * 1 + 0.3 * 2 + 0.3 * 4) / 0.7)
    loss.backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([1 / 7, 3 / 7, 3 / 7])


def test_group_mean_of_many_groups() -> None:
    groups = torch.arange(10_000).repeat_interleave(2)
    values = torch.arange(20_000, dtype=torch.float64)
    torch.testing.assert_close(group_mean(values, groups, 10_000), torch.arange(10_000, dtype=torch.float64) * 2 + 0.5)


def test_three_averages() -> None:
    state = WeightState.uniform(2)
    steps = [torch.tensor([0.6, 0.4], dtype=torch.float64), torch.tensor([0.8, 0.2], dtype=torch.float64)]
    for step in steps:
        state.advance(step)
    assert state.current.tolist() == [0.8, 0.2]
    assert state.mean.tolist() == pytest.approx([0.7, 0.3])
    assert state.ema.tolist() == pytest.approx([(0.5 * 0.9 + 0.06) * 0.9 + 0.08, (0.5 * 0.9 + 0.04) * 0.9 + 0.02])
    copy = WeightState.uniform(2)
    copy.load_state_dict(state.state_dict())
    assert (copy.num_steps, copy.mean.tolist()) == (2, state.mean.tolist())


def test_the_floor_is_a_share_of_the_batchs_reference_loss() -> None:
    """At a batch of 4 the release's 1e-4 lets a nearly solved example dominate; 0.2 / 4 does not."""
    proxy, reference = torch.ones(4), torch.tensor([0.003, 1.0, 1.0, 1.0])
    groups = torch.tensor([0, 1, 1, 1])
    dominated = relative_measurement(proxy, reference, groups, 2)
    assert dominated.tolist() == pytest.approx([3.003 / 0.003, 3.003])
    assert relative_measurement(proxy, reference, groups, 2, floor=0.2 / 4).tolist() == pytest.approx([1.0, 3.003])
    tensors = (torch.tensor([0.5, 0.5]), proxy, reference, groups)
    assert update_weights(*tensors, lr=0.1)[0] > 0.5 > update_weights(*tensors, lr=0.1, floor=0.05)[0]

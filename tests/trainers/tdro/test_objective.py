"""tDRO's mathematics against an independent transcription in NumPy, and worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from mixture.errors import MixtureError, UsageError
from trainers.learning.averages import WeightState
from trainers.learning.config import LearningSettings
from trainers.tdro import update_weights
from trainers.tdro.objective import (
    MEASUREMENTS,
    example_shares,
    group_mean,
    measure,
    relative_measurement,
    step_weights,
)

# Of the paper's 25 collections: mean loss after uniform training (its table 7), weight it learned (its table 8).
PAPER = np.array([
    (3.9257, 0.0838), (1.1098, 0.0131), (2.9479, 0.0425), (0.8673, 0.0154), (2.2658, 0.1314), (0.6925, 0.011),
    (2.1364, 0.0875), (0.6387, 0.0066), (2.1336, 0.0847), (0.4839, 0.0063), (2.1148, 0.094), (0.2786, 0.0072),
    (1.8961, 0.0623), (0.2707, 0.0005), (1.5894, 0.0563), (0.1549, 0.0019), (1.5815, 0.0885), (0.0496, 0.0011),
    (1.3679, 0.0472), (0.0465, 0.0009), (1.3312, 0.0713), (0.0248, 0.0007), (1.3301, 0.0252), (0.0163, 0.0006),
    (1.2492, 0.06),
])  # fmt: skip


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


def test_relative_spreads_as_the_paper_and_the_literal_ratio_stays_nearly_uniform() -> None:
    """Heavy-tailed losses with the paper's means, batches of its size, 1,000 steps; proxy and reference lose alike."""
    random, means = np.random.default_rng(0), PAPER[:, 0]
    learned = {name: torch.full((25,), 1 / 25, dtype=torch.float64) for name in ("relative", "relative_group", "loss")}
    for _ in range(1000):
        groups = random.integers(0, 25, 2048)
        reference = means[groups] * random.lognormal(-0.5, 1.0, 2048)
        proxy = 1.1 * reference * random.lognormal(-0.045, 0.3, 2048)
        tensors = (torch.from_numpy(proxy), torch.from_numpy(reference), torch.from_numpy(groups))
        for name in learned:
            learned[name] = update_weights(learned[name], *tensors, lr=2e-2, measurement=name)
    relative = learned["relative"].numpy()
    assert 0.0003 < relative.min() < 0.001
    assert 0.07 < relative.max() < 0.13
    assert scipy.stats.spearmanr(relative, PAPER[:, 1]).statistic > 0.85
    assert 0.038 < learned["relative_group"].min() < learned["relative_group"].max() < 0.042
    assert learned["loss"].max() > 0.7  # the hardest collection takes nearly all, as the paper says of Group DRO
    assert learned["loss"].argmax() == 0


def test_the_default_floor_gives_the_weights_of_the_releases_script() -> None:
    """It gathers 512 examples, with a floor of 1e-4 of their sum, and adds up the measurements of four such parts."""
    random, means = np.random.default_rng(1), PAPER[:, 0]
    ours = script = literal = torch.full((25,), 1 / 25, dtype=torch.float64)
    floor = LearningSettings(batch_size=2048).reference_floor
    for _ in range(1000):
        groups = random.integers(0, 25, 2048)
        reference = means[groups] * random.lognormal(-0.5, 1.0, 2048)
        proxy = 1.1 * reference * random.lognormal(-0.045, 0.3, 2048)
        tensors = (torch.from_numpy(proxy), torch.from_numpy(reference), torch.from_numpy(groups))
        ours = update_weights(ours, *tensors, lr=2e-2, floor=floor or 0.0)
        literal = update_weights(literal, *tensors, lr=2e-2)
        parts = [measure(*(t[at : at + 512] for t in tensors), 25, "relative") for at in range(0, 2048, 512)]
        script = step_weights(script, torch.stack(parts).sum(0), lr=2e-2)
    assert float((ours - script).abs().sum()) / 2 < 0.003
    assert float((literal - script).abs().sum()) / 2 > 0.1  # 1e-4 of 2,048 examples is another floor
    assert scipy.stats.spearmanr(ours.numpy(), PAPER[:, 1]).statistic > 0.85


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        # Reference 1, 3, 4: over 8 they are 1/8, 3/8, 1/2. Groups 0 and 1 hold examples 0, 1 and 2.
        ("relative", [(2 / (1 / 8) + 3 / (3 / 8)) / 2, 2 / (1 / 2), 0]),
        ("relative_group", [2.5 / 2, 2 / 4, 0]),
        ("excess", [(1 + 0) / 2, 0, 0]),
        ("loss", [2.5, 2, 0]),
    ],
)
def test_measurements_by_hand(name: str, wanted: list[float]) -> None:
    """Proxy 2, 3, 2; the proxy is better than the reference on the last, and the excess does not count that."""
    tensors = torch.tensor([2.0, 3.0, 2.0]), torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 0, 1])
    measured = measure(*tensors, 3, name)
    assert measured.tolist() == pytest.approx(wanted)
    new = update_weights(torch.full((3,), 1 / 3, dtype=torch.float64), *tensors, lr=0.5, measurement=name)
    gradient = np.array(wanted) / max(1.0, np.linalg.norm(wanted))
    assert new.tolist() == pytest.approx((np.exp(0.5 * gradient) / np.exp(0.5 * gradient).sum()).tolist(), abs=1e-6)


def test_a_collection_that_the_reference_has_solved_counts_next_to_nothing_in_the_ratio_of_means() -> None:
    proxy, reference = torch.tensor([0.5, 1.0, 1.0]), torch.tensor([0.0, 1.0, 3.0])
    measured = measure(proxy, reference, torch.tensor([0, 1, 2]), 3, "relative_group")
    assert measured.tolist() == pytest.approx([0.5 / 4, 1.0, 1 / 3])
    assert measure(proxy, torch.zeros(3), torch.tensor([0, 1, 2]), 3, "relative_group").tolist() == [0.5, 1.0, 1.0]


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


def test_absent_groups_keep_their_weights_up_to_renormalisation() -> None:
    weights = torch.tensor([0.5, 0.1, 0.3, 0.1], dtype=torch.float64)
    for name in MEASUREMENTS:
        new = update_weights(
            weights, torch.ones(2), torch.full((2,), 0.5), torch.tensor([0, 0]), lr=0.1, measurement=name
        )
        assert (new[1:] / new[1]).tolist() == pytest.approx([1, 3, 1])
        assert new[1] < 0.1


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_nothing_to_learn_from_changes_nothing(name: str) -> None:
    """No examples at all, losses of zero, one collection, and a weight of zero."""
    weights, empty = torch.tensor([0.3, 0.7], dtype=torch.float64), torch.zeros(0)
    none = update_weights(weights, empty, empty, torch.zeros(0, dtype=torch.int64), lr=0.1, measurement=name)
    zero = update_weights(weights, torch.zeros(2), torch.zeros(2), torch.tensor([0, 1]), lr=0.1, measurement=name)
    torch.testing.assert_close(torch.stack([none, zero]), weights.expand(2, 2))
    one = update_weights(torch.ones(1), torch.ones(3), torch.ones(3), torch.zeros(3, dtype=torch.int64), lr=1.0)
    assert one.tolist() == [1.0]
    shut = torch.tensor([0.0, 1.0], dtype=torch.float64)
    new = update_weights(shut, 5 * torch.ones(2), torch.ones(2), torch.tensor([0, 1]), lr=1.0, measurement=name)
    assert new.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("of", ["proxy", "reference"])
def test_losses_that_are_not_finite_are_refused_and_their_groups_named(bad: float, of: str) -> None:
    losses = {"proxy": torch.ones(3), "reference": torch.ones(3)}
    losses[of][2] = bad
    with pytest.raises(MixtureError, match=f"1 of 3 {of} losses are infinite or NaN, in groups 4;") as caught:
        update_weights(torch.full((5,), 0.2), losses["proxy"], losses["reference"], torch.tensor([0, 1, 4]), lr=0.1)
    assert caught.value.exit_code == 1


def test_ten_thousand_collections() -> None:
    random = np.random.default_rng(1)
    groups, count = random.integers(0, 10_000, 2048), 10_000
    proxy, reference = random.lognormal(0, 1, 2048), random.lognormal(0, 1, 2048)
    new = update_weights(
        torch.full((count,), 1 / count, dtype=torch.float64), torch.from_numpy(proxy), torch.from_numpy(reference),
        torch.from_numpy(groups), lr=2e-2,
    )  # fmt: skip
    wanted = _numpy_step(np.full(count, 1 / count), proxy, reference, groups, 2e-2, 1.0)
    np.testing.assert_allclose(new.numpy(), wanted, rtol=1e-8)
    assert float(new.sum()) == pytest.approx(1.0, abs=1e-12)


def test_update_is_pure() -> None:
    arguments = [torch.tensor([0.4, 0.6]), torch.tensor([1.0, 2.0], requires_grad=True), torch.ones(2), torch.arange(2)]
    before = [a.detach().clone() for a in arguments]
    new = update_weights(*arguments, lr=0.1)
    assert not new.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


def test_arguments_that_do_not_fit_are_refused_with_what_is_allowed() -> None:
    half, ones, groups = torch.tensor([0.5, 0.5]), torch.ones(2), torch.tensor([0, 1])
    for arguments, options, message in [
        ((half, ones, ones, groups), {"measurement": "ratio"}, "'ratio'; allowed: relative, rel"),
        ((half, ones, None, groups), {"measurement": "excess"}, "'excess' needs the losses of a reference model"),
        ((half, ones, ones, torch.tensor([0, 2])), {}, "group ids are 0 to 2; allowed: 0 to 1"),
        ((half, torch.ones(3), ones, groups), {}, r"proxy losses of shape \(3,\) and group ids of shape \(2,\)"),
        ((half, ones, torch.ones(1), groups), {}, r"reference losses of shape \(1,\)"),
        ((torch.tensor([1.0, -0.1]), ones, ones, groups), {}, "weights must be finite, 0 or more"),
        ((torch.zeros(2), ones, ones, groups), {}, "not all 0"),
        ((half, ones, ones, groups), {"lr": float("nan")}, "learning rate is nan; allowed: 0 or more"),
        ((half, ones, ones, groups), {"max_norm": 0.0}, "max_norm is 0.0; allowed: above 0"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=message):
            update_weights(*arguments, **dict({"lr": 0.1}, **options))  # type: ignore[arg-type]


def test_the_loss_measurement_needs_no_reference() -> None:
    groups, losses = torch.tensor([0, 1]), torch.tensor([0.3, 0.1])
    new = update_weights(torch.tensor([0.5, 0.5]), losses, None, groups, lr=1.0, measurement="loss")
    torch.testing.assert_close(new, torch.softmax(losses, 0))


def test_proxy_loss_weighs_examples_by_the_share_of_their_collection() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    loss = (losses * example_shares(torch.tensor([0.1, 0.3]), torch.tensor([0, 1, 1]))).sum()
    assert loss.item() == pytest.approx((0.1 * 1 + 0.3 * 2 + 0.3 * 4) / 0.7)
    loss.backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([1 / 7, 3 / 7, 3 / 7])


def test_group_mean_of_many_groups() -> None:
    groups = torch.arange(10_000).repeat_interleave(2)
    values = torch.arange(20_000, dtype=torch.float64)
    torch.testing.assert_close(group_mean(values, groups, 10_000), torch.arange(10_000, dtype=torch.float64) * 2 + 0.5)


def test_three_averages() -> None:
    state = WeightState.start(torch.full((2,), 0.5, dtype=torch.float64))
    steps = [torch.tensor([0.6, 0.4], dtype=torch.float64), torch.tensor([0.8, 0.2], dtype=torch.float64)]
    for step in steps:
        state.advance(step)
    assert state.current.tolist() == [0.8, 0.2]
    assert state.mean.tolist() == pytest.approx([0.7, 0.3])
    assert state.ema.tolist() == pytest.approx([(0.5 * 0.9 + 0.06) * 0.9 + 0.08, (0.5 * 0.9 + 0.04) * 0.9 + 0.02])
    copy = WeightState.start(torch.ones(2, dtype=torch.float64))
    copy.load_state_dict(state.state_dict())
    assert (copy.num_steps, copy.mean.tolist()) == (2, state.mean.tolist())


def test_the_floor_is_a_share_of_the_batchs_reference_loss() -> None:
    """At a batch of 4 the release's 1e-4 lets a nearly solved example dominate; a share of the mean does not."""
    proxy, reference = torch.ones(4), torch.tensor([0.003, 1.0, 1.0, 1.0])
    groups = torch.tensor([0, 1, 1, 1])
    dominated = relative_measurement(proxy, reference, groups, 2)
    assert dominated.tolist() == pytest.approx([3.003 / 0.003, 3.003])
    assert relative_measurement(proxy, reference, groups, 2, floor=0.2 / 4).tolist() == pytest.approx([1.0, 3.003])
    tensors = (torch.tensor([0.5, 0.5]), proxy, reference, groups)
    assert update_weights(*tensors, lr=0.1)[0] > 0.5 > update_weights(*tensors, lr=0.1, floor=0.05)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, measurement: str) -> None:
    """2,048 losses of 1 sum to 256 in bfloat16, and a thousandth of a weight is nothing in it."""
    torch.manual_seed(3)
    proxy, reference = (torch.rand(2048) + 0.5).to(dtype), (torch.rand(2048) + 0.5).to(dtype)
    groups, weights = torch.randint(0, 4, (2048,)), torch.full((4,), 0.25, dtype=dtype)
    found = update_weights(weights, proxy, reference, groups, lr=2e-2, measurement=measurement)
    wide = update_weights(weights.float(), proxy.float(), reference.float(), groups, lr=2e-2, measurement=measurement)
    assert torch.equal(found, wide)
    assert found.dtype == torch.float32


def test_group_ids_are_any_integers_and_shapes_are_checked() -> None:
    weights, losses = torch.full((3,), 1 / 3), torch.tensor([1.0, 2.0, 0.5])
    plain = update_weights(weights, losses, losses, torch.tensor([0, 1, 1]), lr=0.1)
    for kind in (torch.int32, torch.int16, torch.uint8):
        ids = torch.tensor([0, 1, 1], dtype=kind)
        assert torch.equal(update_weights(weights, losses, losses, ids, lr=0.1), plain)
    for kind in (torch.float32, torch.bool):
        with pytest.raises(UsageError, match="allowed: integers"):
            update_weights(weights, losses, losses, torch.tensor([0, 1, 1], dtype=kind), lr=0.1)
    with pytest.raises(UsageError, match="weights of shape"):
        update_weights(weights[:, None], losses, losses, torch.tensor([0, 1, 1]), lr=0.1)
    for floor in (0.0, -1.0, float("nan"), 1.0):
        with pytest.raises(UsageError, match="the reference's floor is"):
            update_weights(weights, losses, losses, torch.tensor([0, 1, 1]), lr=0.1, floor=floor)

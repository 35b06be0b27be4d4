"""drpruning and its parts: the χ² and KL balls around a base against a solver, curves forecast, noise left alone."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from mixture.errors import UsageError
from trainers.learning.forecast import fit_power_law
from trainers.learning.learners import Chi2, Cvar, DrPruning, GroupDro, Kl, Tdro, WeightLearner
from trainers.learning.learners.chi2 import chi2_weights
from trainers.learning.learners.cvar import cvar_weights
from trainers.learning.learners.kl import kl_weights

BASE, EXCESS = [0.5, 0.3, 0.2], [0.1, 0.4, 0.2]


def _tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("radius", "weights", "value"),
    [
        (0.1, (0.310794, 0.496086, 0.193120), 0.268138), (0.5, (0.076923, 0.738462, 0.184615), 0.34),
        (0.01, None, 0.228385), (0.0, BASE, 0.21),
    ],
)  # fmt: skip
def test_chi2_around_a_base_by_hand(radius: float, weights: tuple[float, ...] | None, value: float) -> None:
    """While all q ≥ 0: q = p (1 + √(2ρ) (ℓ − mean) / σ), mean 0.21 and σ 0.13 under p."""
    q = chi2_weights(_tensor(EXCESS), _tensor(BASE), radius=radius)
    assert float(q @ _tensor(EXCESS)) == pytest.approx(value, abs=1e-6)
    if weights is not None:
        assert q.tolist() == pytest.approx(weights, abs=1e-6)


def _chi2(q: np.ndarray, p: np.ndarray) -> float:
    return float((p * (q / p - 1) ** 2).sum() / 2)


def _kl(q: np.ndarray, p: np.ndarray) -> float:
    return float((q * np.log(np.maximum(q, 1e-300) / p)).sum())


@pytest.mark.parametrize(("weigh", "distance"), [(chi2_weights, _chi2), (kl_weights, _kl)])
@pytest.mark.parametrize("radius", [0.01, 0.1, 0.7])
def test_the_balls_against_a_solver(weigh: object, distance: object, radius: float) -> None:
    random = np.random.default_rng(int(100 * radius))
    for size in (2, 5, 12):
        losses, base = random.lognormal(0, 1, size), random.dirichlet(np.full(size, 3.0))
        found = weigh(torch.from_numpy(losses), torch.from_numpy(base), radius=radius).numpy()  # type: ignore[operator]
        assert found.sum() == pytest.approx(1.0, abs=1e-12)
        assert (found >= 0).all()
        assert distance(found, base) <= radius + 1e-9  # type: ignore[operator]
        solved = scipy.optimize.minimize(
            lambda q, ell=losses: -q @ ell, base, jac=lambda q, ell=losses: -ell, bounds=[(1e-12, 1)] * size,
            constraints=[{"type": "eq", "fun": lambda q: q.sum() - 1},
                         {"type": "ineq", "fun": lambda q, p=base: radius - distance(q, p)}],  # type: ignore[operator]
            options={"maxiter": 500, "ftol": 1e-13},
        )  # fmt: skip
        assert found @ losses >= solved.x @ losses - 1e-6
        np.testing.assert_allclose(found, solved.x, atol=2e-3)


@pytest.mark.parametrize("weigh", [chi2_weights, kl_weights])
def test_what_does_not_change_a_worst_case(weigh: object) -> None:
    def worst(losses: Tensor, base: Tensor, radius: float) -> Tensor:
        return weigh(losses, base, radius=radius)  # type: ignore[operator, no-any-return]

    random = np.random.default_rng(3)
    losses, base = torch.from_numpy(random.lognormal(0, 1, 9)), torch.from_numpy(random.dirichlet(np.ones(9)))
    q = worst(losses, base, 0.2)
    torch.testing.assert_close(worst(losses - 5, base, 0.2), q)
    torch.testing.assert_close(worst(100 * losses, base, 0.2), q)
    order = torch.from_numpy(random.permutation(9))
    torch.testing.assert_close(worst(losses[order], base[order], 0.2), q[order])
    assert torch.equal(worst(losses, base, 0.0), base)
    torch.testing.assert_close(worst(torch.ones(9).double(), base, 0.2), base)
    # All mass on the worst, from the radius on at which the ball holds that; ties share it in proportion to the base.
    top = float(base[losses.argmax()])
    border = (1 / top - 1) / 2 if weigh is chi2_weights else -math.log(top)
    assert worst(losses, base, border + 1e-9).tolist() == [float(i == int(losses.argmax())) for i in range(9)]
    assert float(worst(losses, base, 0.98 * border).max()) < 1
    assert worst(_tensor([1, 3, 3]), _tensor([0.5, 0.3, 0.2]), 9.0).tolist() == pytest.approx([0, 0.6, 0.4])
    # What has no mass gets none, the greatest loss or not.
    some = worst(_tensor([9, *EXCESS]), _tensor([0, *BASE]), 0.1)
    assert some.tolist() == pytest.approx([0, *worst(_tensor(EXCESS), _tensor(BASE), 0.1).tolist()])
    with pytest.raises(UsageError, match="radius is -1"):
        worst(losses, base, -1)


def test_an_equal_base_is_no_base() -> None:
    losses = torch.from_numpy(np.random.default_rng(4).lognormal(0, 1, 49))
    for radius in (0.0, 0.1, 1.0, 5.0, 30.0):
        equal = torch.full((49,), 1 / 49).double()
        torch.testing.assert_close(chi2_weights(losses, equal, radius=radius), chi2_weights(losses, radius=radius))


# Mean losses after n examples of a collection.
CURVES = (lambda n: 8 * n**-0.6 + 0.02, lambda n: 20 * n**-0.35 + 0.3, lambda n: 0.05 * n**-0.5 + 2.05)
STEPS, EACH = 200, 50


def _batch(step: int, scatter: float = 0.0, groups: int = 3) -> tuple[Tensor, None, Tensor]:
    """A batch of easy, hard and noise; step counts from 1."""
    ids = torch.arange(groups).repeat_interleave(EACH)
    means = _tensor([CURVES[g]((step - 0.5) * EACH) for g in range(groups)])
    random = torch.Generator().manual_seed(step)
    return means[ids] + scatter * torch.randn(len(ids), generator=random).double(), None, ids


def _run(learner: WeightLearner, steps: int, scatter: float = 0.0, *, first: int = 1) -> list[Tensor]:
    weights, found = learner.around, []
    for step in range(first, first + steps):
        weights = learner.update(weights, *_batch(step, scatter))
        found.append(weights)
    return found


def test_hard_gains_and_noise_does_not() -> None:
    learner = DrPruning.of(3, DrPruning.Options(), None, steps=STEPS)
    weights = _run(learner, 100)
    # Nothing is forecast from the plateau, nor from too few points (3 steps each here); until then the base.
    assert torch.equal(weights[71], learner.around)
    assert not torch.equal(weights[72], learner.around)
    assert learner.forecast is not None
    for g, curve in enumerate(CURVES):
        assert float(learner.forecast[g]) == pytest.approx(curve(STEPS * EACH), rel=0.01)
    excess = [curve(100 * EACH) - curve(STEPS * EACH) for curve in CURVES]
    assert learner.measured is not None
    assert learner.measured.tolist() == pytest.approx(excess, rel=0.02, abs=1e-4)
    assert weights[-1][1] > 0.5
    assert weights[-1][2] < 1 / 3
    # With the plain losses noise comes first.
    assert int(chi2_weights(_tensor([curve(5000) for curve in CURVES]), radius=0.1).argmax()) == 2


def test_scatter_of_the_losses_does_not_give_noise_more_than_its_share() -> None:
    """A batch mean of 50 examples scattered by 0.7 is off by 0.1, five times as much as noise falls."""
    for measured in (DrPruning.of(3, DrPruning.Options(), None, steps=STEPS),
                     Tdro.of(3, Tdro.Options(measurement="forecast"), None, steps=STEPS)):  # fmt: skip
        mean = torch.stack(_run(measured, STEPS, scatter=0.7)).mean(0)
        assert mean.argmax() == 1
        assert mean[2] < 1 / 3


def test_at_the_end_nothing_is_left_to_fall() -> None:
    learner = DrPruning.of(3, DrPruning.Options(), None, steps=STEPS)
    weights = _run(learner, STEPS)
    assert learner.measured is not None
    assert float(learner.measured.abs().max()) < 0.02
    assert sum(map(float, weights[-1])) == pytest.approx(1)


def test_tdro_climbs_the_excess_over_the_forecast() -> None:
    learner = Tdro.of(3, Tdro.Options(measurement="forecast"), 0.5, steps=STEPS)
    before, last = _run(learner, 100)[-2:]
    assert learner.needs_reference is False
    assert learner.measured is not None
    gradient = learner.measured / max(1.0, float(learner.measured.norm()))
    raised = before * torch.exp(0.5 * gradient)
    torch.testing.assert_close(last, raised / raised.sum(), rtol=1e-5, atol=1e-7)
    assert learner.measured.argmax() == 1


def test_a_collection_without_a_forecast_keeps_its_share_of_the_base() -> None:
    base = _tensor([0.2, 0.5, 0.1, 0.2])
    learner = DrPruning.of(4, DrPruning.Options(), None, steps=STEPS, base=base)
    weights = learner.around
    for step in range(1, 101):
        weights = learner.update(weights, *_batch(step))  # the fourth is in no batch
    assert learner.forecast is not None
    assert learner.forecast.isnan().tolist() == [False, False, False, True]
    assert float(weights[3]) == pytest.approx(0.2)
    assert float(weights[1]) > 0.5 + 0.05


def test_a_run_that_goes_on_from_its_state_ends_with_the_same_bits() -> None:
    for first in (DrPruning.of(3, DrPruning.Options(), None, steps=90),
                  Tdro.of(3, Tdro.Options(measurement="forecast"), None, steps=90)):  # fmt: skip
        other = copy.deepcopy(first)
        _run(first, 49, 0.3)
        other.load_state(copy.deepcopy(first.state()))
        whole, resumed = (_run(learner, 41, 0.3, first=50) for learner in (first, other))
        assert all(map(torch.equal, whole, resumed))
        assert not torch.equal(whole[0], whole[20])


def test_points_are_means_of_spans_over_the_examples_seen_by_their_middle() -> None:
    """Of 200 steps the curve has those from 41 on, in spans of 3."""
    learner = DrPruning.of(3, DrPruning.Options(), None, steps=STEPS)
    _run(learner, 73)
    spans = [range(40 + 3 * k, 43 + 3 * k) for k in range(11)]
    counts = [(span.start + 1.5) * EACH for span in spans]
    losses = [np.mean([CURVES[1]((step + 0.5) * EACH) for step in span]) for span in spans]
    assert learner.forecast is not None
    law = fit_power_law(counts, losses)
    assert float(learner.forecast[1]) == pytest.approx(law.at(STEPS * EACH), rel=1e-9)


def test_a_base_moves_chi2_and_cvar() -> None:
    losses, groups = _tensor([5.0, 1.0, 4.0, 1.0, 1.0, 3.0]), torch.tensor([0, 0, 1, 1, 1, 2])
    base = _tensor([0.2, 0.3, 0.5])
    shares = _tensor([0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
    chi2 = Chi2.of(3, Chi2.Options(radius=0.3), None, base=base)
    q = chi2_weights(losses, shares, radius=0.3)
    new = chi2.update(base, losses, None, groups)
    assert new.tolist() == pytest.approx([float(q[groups == g].sum()) for g in range(3)])
    assert chi2.example_weights(new, losses, groups).tolist() == pytest.approx(q.tolist())
    batch = Cvar.of(3, Cvar.Options(unit="example", fraction=0.25), None, base=base)
    assert batch.update(base, losses, None, groups).tolist() == pytest.approx([0.4, 0.4, 0.2])
    topic = Cvar.of(3, Cvar.Options(fraction=0.6), None, base=base)
    means = _tensor([3.0, 2.0, 3.0])
    assert topic.update(base, losses, None, groups).tolist() == pytest.approx(
        cvar_weights(means, base, fraction=0.6).tolist()
    )
    # Where no collection of the batch is in the base, its examples count alike.
    alone = Chi2.of(3, Chi2.Options(radius=0.3), None, base=_tensor([0.0, 1.0, 0.0]))
    assert alone.update(base, _tensor([1.0, 2.0]), None, torch.tensor([0, 2])).sum() == pytest.approx(1)


def test_kl_follows_its_running_losses_around_the_base() -> None:
    base = _tensor([0.2, 0.3, 0.5])
    learner = Kl.of(3, Kl.Options(ball=0.05), None, base=base)
    learner.update(base, _tensor([1.0, 2.0, 3.0]), None, torch.arange(3))
    new = learner.update(base, _tensor([4.0]), None, torch.tensor([0]))
    assert learner.measured is not None
    assert learner.measured.tolist() == pytest.approx([1.3, 2.0, 3.0])
    torch.testing.assert_close(new, kl_weights(_tensor([1.3, 2.0, 3.0]), base, radius=0.05))


def test_a_base_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="groupdro stays near no mixture; leave `base` out"):
        GroupDro.of(2, GroupDro.Options(), None, base=_tensor([0.5, 0.5]))
    for wrong in ([0.5, 0.5], [-1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [math.nan, 1.0, 1.0]):
        with pytest.raises(UsageError, match="allowed: 3 weights, 0 or more, not all 0"):
            DrPruning.of(3, DrPruning.Options(), None, base=_tensor(wrong))
    learner = DrPruning.of(2, DrPruning.Options(), None, base=_tensor([3.0, 1.0]))
    assert learner.around.tolist() == [0.75, 0.25]
    with pytest.raises(UsageError, match="ball is -1"):
        DrPruning.Options(ball=-1.0)

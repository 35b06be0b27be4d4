"""Algorithms that learn weights, against solvers, the authors' formulas and each other."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from mixture.errors import MixtureError, UsageError
from trainers.learning.averages import constrain
from trainers.learning.learners import LEARNERS, Cgd, Chi2, Cvar, DoReMi, GroupDro, Tdro, WeightLearner
from trainers.learning.learners.cgd import cgd_step
from trainers.learning.learners.chi2 import chi2_weights
from trainers.learning.learners.cvar import BatchCvar, cvar_weights, running_losses
from trainers.learning.learners.doremi import doremi_step
from trainers.learning.learners.groupdro import groupdro_step
from trainers.tdro import update_weights
from trainers.tdro.objective import example_shares

GROUPS = 6


def _tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _learners() -> list[WeightLearner]:
    kinds = [kind for kind in LEARNERS.values() if issubclass(kind, WeightLearner)]
    of = [kind.of(GROUPS, kind.Options(), None, steps=36) for kind in kinds]
    forecast = Tdro.of(GROUPS, Tdro.Options(measurement="forecast"), None, steps=36)
    return [*of, BatchCvar(GROUPS), forecast]


def _batches(steps: int, size: int = 16, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Proxy losses, reference losses, groups (some absent), inner products of random group gradients."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        groups = random.integers(0, GROUPS - 1 if size < GROUPS * 4 else GROUPS, size)
        reference = (1 + groups) * random.lognormal(0, 1, size)
        gradients = random.normal(size=(GROUPS, 9)) * np.isin(np.arange(GROUPS), groups)[:, None]
        parts = (reference * random.lognormal(0, 0.5, size), reference, groups, gradients @ gradients.T)
        found.append(tuple(torch.from_numpy(p) for p in parts))
    return found  # type: ignore[return-value]


def _uniform() -> Tensor:
    return torch.full((GROUPS,), 1 / GROUPS, dtype=torch.float64)


@pytest.mark.parametrize("learner", _learners(), ids=lambda learner: type(learner).__name__)
def test_every_algorithm_keeps_the_contract(learner: WeightLearner) -> None:
    learner, weights, start = copy.deepcopy(learner), _uniform(), _uniform()
    for proxy, reference, groups, products in _batches(30):
        before = weights.clone()
        new = learner.update(weights, proxy.float(), reference if learner.needs_reference else None, groups, products)
        assert torch.equal(weights, before)
        assert (new.dtype, new.shape, new.device.type) == (torch.float64, (GROUPS,), "cpu")
        assert float(new.sum()) == pytest.approx(1.0, abs=1e-12)
        assert bool((new >= 0).all())
        shares = learner.example_weights(new, proxy.float().requires_grad_(), groups)
        assert (shares.dtype, shares.shape, shares.requires_grad) == (torch.float32, proxy.shape, False)
        assert float(shares.sum()) == pytest.approx(1.0, abs=1e-5)
        weights = new
    assert float((weights - start).abs().max()) > 1e-3
    assert learner.measured is not None
    assert bool(torch.isfinite(learner.measured).all())


@pytest.mark.parametrize("learner", _learners(), ids=lambda learner: type(learner).__name__)
def test_a_learner_goes_on_from_its_saved_state_with_the_same_bits(learner: WeightLearner) -> None:
    first, second = copy.deepcopy(learner), copy.deepcopy(learner)
    batches, weights = _batches(20), _uniform()
    for batch in batches[:10]:
        weights = first.update(weights, *batch)
    second.load_state(copy.deepcopy(first.state()))
    other = weights
    for batch in batches[10:]:
        weights, other = first.update(weights, *batch), second.update(other, *batch)
        assert torch.equal(weights, other)
    with pytest.raises(UsageError, match="start the run anew"):
        second.load_state({"other": 1.0})


@pytest.mark.parametrize("learner", _learners(), ids=lambda learner: type(learner).__name__)
def test_losses_that_are_not_finite_stop_every_algorithm(learner: WeightLearner) -> None:
    ones = torch.ones(2)
    with pytest.raises(MixtureError, match="infinite or NaN, in groups 1;"):
        copy.deepcopy(learner).update(
            _uniform(), torch.tensor([1.0, math.nan]), ones, torch.tensor([0, 1]), torch.eye(GROUPS)
        )


@pytest.mark.parametrize("measurement", ["relative", "relative_group", "excess", "loss"])
def test_tdro_gives_the_bits_of_update_weights(measurement: str) -> None:
    learner, ours, theirs = Tdro(GROUPS, Tdro.Options(measurement=measurement)), _uniform(), _uniform()
    for proxy, reference, groups, _ in _batches(50):
        losses = proxy.float(), reference.float(), groups
        ours = learner.update(ours, *losses)
        theirs = update_weights(theirs, *losses, lr=2e-2, measurement=measurement)
        assert torch.equal(ours, theirs)
        multipliers = learner.example_weights(ours, losses[0], groups)
        assert torch.equal(multipliers, example_shares(ours.float(), groups))
    assert learner.needs_reference == (measurement != "loss")


def test_the_group_mean_objective() -> None:
    """Group DRO's loss is Σ α_g · mean loss_g over the collections of the batch, α scaled to sum 1 over these."""
    learner = GroupDro(3)
    losses, groups = _tensor([1.0, 3.0, 8.0]), torch.tensor([0, 0, 2])
    multipliers = learner.example_weights(_tensor([0.2, 0.5, 0.3]), losses, groups)
    shares = np.array([0.2 / 2, 0.2 / 2, 0.3])
    assert multipliers.tolist() == pytest.approx((shares / shares.sum()).tolist())
    assert learner.example_weights(_tensor([0.0, 1.0, 0.0]), losses, groups).tolist() == [0, 0, 0]


def test_group_dro_against_the_formula() -> None:
    weights, losses = _tensor([0.5, 0.25, 0.25]), _tensor([2.0, 0.0, 1.0])
    raised = weights.numpy() * np.exp(0.3 * losses.numpy())
    np.testing.assert_allclose(groupdro_step(weights, losses, lr=0.3), raised / raised.sum(), rtol=1e-12)
    assert groupdro_step(weights, 1e6 * losses, lr=1.0).tolist() == [1, 0, 0]  # nothing overflows


def test_doremi_against_the_authors_algorithm() -> None:
    """Clipped excess, the last score for an absent collection, α ∝ α e^{ηλ}, then smoothing."""
    learner, ours = DoReMi(GROUPS, DoReMi.Options(smoothing=0.05), lr=0.5), _uniform()
    theirs, scores = np.full(GROUPS, 1 / GROUPS), np.zeros(GROUPS)
    for proxy, reference, groups, _ in _batches(40):
        ours = learner.update(ours, proxy, reference, groups)
        for g in range(GROUPS):
            if (groups == g).any():
                scores[g] = np.maximum((proxy - reference)[groups == g].numpy(), 0).mean()
        raised = theirs * np.exp(0.5 * scores)
        theirs = 0.95 * raised / raised.sum() + 0.05 / GROUPS
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert scores[-1] == 0  # never in a batch: only the smoothing holds it up
    assert ours[-1] >= 0.05 / GROUPS
    assert learner.average == "mean"
    assert doremi_step(_tensor([0.5, 0.5]), _tensor([3.0, 0.0]), lr=1.0, smoothing=1.0).tolist() == [0.5, 0.5]


def test_cgd_against_the_authors_double_loop() -> None:
    random = np.random.default_rng(3)
    gradients, losses, weights = random.normal(size=(4, 7)), random.lognormal(0, 1, 4), random.dirichlet(np.ones(4))
    for exponent, memory in ((0.5, 1.0), (0.25, 0.1)):
        scores = np.zeros(4)
        for i in range(4):
            for j in range(4):
                cosine = gradients[i] @ gradients[j] / np.linalg.norm(gradients[i]) / np.linalg.norm(gradients[j])
                scores[i] += (losses[i] * losses[j]) ** exponent * cosine / 4
        raised = weights**memory * np.exp(0.7 * scores)
        found = cgd_step(
            torch.from_numpy(weights), torch.from_numpy(losses), torch.from_numpy(gradients @ gradients.T),
            lr=0.7, exponent=exponent, memory=memory,
        )  # fmt: skip
        np.testing.assert_allclose(found, raised / raised.sum(), rtol=1e-10)


def test_cgd_prefers_the_collection_whose_gradient_helps_the_others() -> None:
    """Equal losses, in which Group DRO sees no difference: what two others agree with gains, the odd one loses."""
    gradients = _tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    new = cgd_step(torch.full((4,), 0.25).double(), torch.ones(4).double(), gradients @ gradients.T, lr=1.0)
    assert new[0] > new[1] == new[2] > new[3]
    products = (gradients @ gradients.T) * _tensor([[1, 1, 1, 0]] * 3 + [[0] * 4])
    kept = cgd_step(_tensor([0.25] * 4), _tensor([1.0, 1.0, 1.0, 0.0]), products, lr=1.0)
    assert float(kept[3] * torch.exp(_tensor([(1 + 2**-0.5) / 4])) / kept[1]) == pytest.approx(1.0)  # absent: e^0
    for products, kind in ((torch.eye(3), UsageError), (torch.full((4, 4), math.nan), MixtureError)):
        with pytest.raises(kind):
            cgd_step(_tensor([0.25] * 4), torch.ones(4), products, lr=1.0)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.37, 0.9, 1.0])
def test_cvar_against_a_linear_program(fraction: float) -> None:
    random = np.random.default_rng(int(100 * fraction))
    for size in (1, 2, 7, 40):
        losses, base = random.lognormal(0, 1, size), random.dirichlet(np.ones(size))
        found = cvar_weights(torch.from_numpy(losses), torch.from_numpy(base), fraction=fraction).numpy()
        best = scipy.optimize.linprog(
            -losses, A_eq=np.ones((1, size)), b_eq=[1.0], bounds=[(0, p / fraction) for p in base]
        )
        assert found.sum() == pytest.approx(1.0)
        assert (found <= base / fraction + 1e-12).all()
        np.testing.assert_allclose(found, best.x, atol=1e-7)


def test_cvar_shares_ties_and_spends_all() -> None:
    equal = _tensor([0.25] * 4)
    assert cvar_weights(_tensor([1.0, 1.0, 1.0, 1.0]), equal, fraction=0.1).tolist() == pytest.approx([0.25] * 4)
    assert cvar_weights(_tensor([2.0, 3.0, 3.0, 1.0]), equal, fraction=0.25).tolist() == pytest.approx([0, 0.5, 0.5, 0])
    with pytest.raises(UsageError, match="fraction is 0"):
        cvar_weights(equal, equal, fraction=0)


def _slsqp(losses: np.ndarray, radius: float) -> np.ndarray:
    size = len(losses)
    found = scipy.optimize.minimize(
        lambda q: -q @ losses,
        np.full(size, 1 / size),
        jac=lambda q: -losses,
        bounds=[(0, 1)] * size,
        constraints=[
            {"type": "eq", "fun": lambda q: q.sum() - 1},
            {"type": "ineq", "fun": lambda q: radius - ((size * q - 1) ** 2).sum() / (2 * size)},
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return found.x


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 3.0])
def test_chi2_against_a_solver(radius: float) -> None:
    random = np.random.default_rng(int(100 * radius))
    for size in (5, 12, 30):
        losses = random.lognormal(0, 1, size)
        found = chi2_weights(torch.from_numpy(losses), radius=radius).numpy()
        assert found.sum() == pytest.approx(1.0)
        assert (found >= 0).all()
        assert ((size * found - 1) ** 2).sum() / (2 * size) <= radius + 1e-9
        solved = _slsqp(losses, radius)
        assert found @ losses >= solved @ losses - 1e-6
        np.testing.assert_allclose(found, solved, atol=2e-3)


def test_chi2_at_its_ends() -> None:
    assert chi2_weights(_tensor([1.0, 5.0, 2.0]), radius=0.0).tolist() == pytest.approx([1 / 3] * 3)
    assert chi2_weights(_tensor([1.0, 5.0, 2.0]), radius=1.0).tolist() == [0, 1, 0]  # 3 <= 1 + 2 · 1
    assert chi2_weights(_tensor([2.0] * 8), radius=1.0).tolist() == pytest.approx([1 / 8] * 8)
    assert chi2_weights(_tensor([3.0, 0.0, 3.0] + [0.0] * 3), radius=1.0).tolist() == pytest.approx(
        [0.5, 0, 0.5, 0, 0, 0]
    )
    assert chi2_weights(torch.zeros(0), radius=1.0).tolist() == []
    # Does not depend on the scale of the losses, nor on what is added to them.
    losses = torch.from_numpy(np.random.default_rng(5).lognormal(0, 2, 2000))
    torch.testing.assert_close(chi2_weights(1e4 * losses + 7.0, radius=0.5), chi2_weights(losses, radius=0.5))
    with pytest.raises(UsageError, match="radius is -1"):
        chi2_weights(losses, radius=-1)


def test_running_losses_take_the_first_whole_and_keep_the_absent() -> None:
    past, seen = _tensor([0.0, 2.0, 2.0]), torch.tensor([False, True, True])
    found = running_losses(past, seen, _tensor([5.0, 4.0, 0.0]), torch.tensor([True, True, False]), newest=0.25)
    assert found.tolist() == [5.0, 2.5, 2.0]


def test_topic_cvar_remembers_what_a_batch_lacks() -> None:
    learner = Cvar(4, Cvar.Options(fraction=0.5))
    first = learner.update(_tensor([0.25] * 4), _tensor([4.0, 3.0, 2.0, 1.0]), None, torch.arange(4))
    assert first.tolist() == [0.5, 0.5, 0, 0]
    second = learner.update(first, _tensor([0.0, 0.0]), None, torch.tensor([2, 3]))
    assert second.tolist() == [0.5, 0.5, 0, 0]
    third = learner.update(second, _tensor([0.0]), None, torch.tensor([0]))
    assert learner.measured is not None
    assert learner.measured.tolist() == pytest.approx([0.9 * 4, 3, 0.9 * 2, 0.9 * 1])
    assert third.tolist() == [0.5, 0.5, 0, 0]


def test_batch_worst_cases_weigh_a_collection_by_its_examples() -> None:
    losses, groups = _tensor([5.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    cvar = Cvar.of(3, Cvar.Options(unit="example", fraction=0.25), None)
    assert cvar.update(_tensor([1 / 3] * 3), losses, None, groups).tolist() == pytest.approx([0.5, 0.5, 0])
    chi2 = Chi2(3, Chi2.Options(radius=0.1))
    new = chi2.update(_tensor([1 / 3] * 3), losses, None, groups)
    q = chi2_weights(losses, radius=0.1)
    assert new.tolist() == pytest.approx([float(q[groups == g].sum()) for g in range(3)])
    assert chi2.example_weights(new, losses, groups).tolist() == pytest.approx(q.tolist())


def test_the_papers_step_sizes_are_the_defaults() -> None:
    proxy, reference, groups, products = _batches(1)[0]
    rates = {name: learner.rate for name, learner in LEARNERS.items() if learner.rate is not None}
    assert rates == {"tdro": 2e-2, "groupdro": 1e-2, "doremi": 1.0, "cgd": 5e-2}
    for name, rate in rates.items():
        given, default = LEARNERS[name](GROUPS, lr=rate), LEARNERS[name](GROUPS)
        other = LEARNERS[name](GROUPS, lr=2 * rate)
        arguments = (_uniform(), proxy, reference, groups, products)
        assert torch.equal(given.update(*arguments), default.update(*arguments))
        assert not torch.equal(given.update(*arguments), other.update(*arguments))


def test_mistakes_are_said() -> None:
    losses, groups = torch.ones(2), torch.tensor([0, 1])
    with pytest.raises(UsageError, match="measurement is relativ; allowed: relative, relative_group, excess, loss"):
        Tdro.Options(measurement="relativ")
    with pytest.raises(UsageError, match="0 collections"):
        Tdro(0)
    with pytest.raises(UsageError, match="doremi needs the losses of a reference model"):
        DoReMi(2).update(_tensor([0.5, 0.5]), losses, None, groups)
    with pytest.raises(UsageError, match="cgd needs the inner products"):
        Cgd(2).update(_tensor([0.5, 0.5]), losses, None, groups)
    with pytest.raises(UsageError, match="3 weights; this learner has 2"):
        Cvar(2).update(_tensor([0.5, 0.5, 0.0]), losses, None, groups)


@pytest.mark.parametrize(
    ("learner", "option"),
    [
        (Tdro, {"weights_max_norm": 0.0}), (Tdro, {"reference_floor": 1.0}), (DoReMi, {"smoothing": 2.0}),
        (Cgd, {"exponent": -1.0}), (Cgd, {"cgd_memory": 1.5}), (Cvar, {"fraction": 0.0}), (Cvar, {"newest": 0.0}),
        (Cvar, {"unit": "token"}), (Chi2, {"radius": -1.0}),
    ],
)  # fmt: skip
def test_options_out_of_range_are_said(learner: type[WeightLearner], option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(option))} is .*; allowed: "):
        learner.Options(**option)


def test_constrain_takes_and_gives_tensors() -> None:
    weights, bound = constrain(torch.tensor([0.7, 0.25, 0.05]), 0.1, torch.tensor([0.5, 1.0, 1.0]))
    assert weights.tolist() == pytest.approx([0.5, 0.4, 0.1])
    assert (weights.dtype, bound.tolist()) == (torch.float64, [1, 0, -1])

"""Matching the target's gradient: against closed forms, the conditions of the optimum and planted weights."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture.errors import UsageError
from trainers.learning.kernel_mean import kmm_weights, matching

SEEDS = st.integers(0, 10_000)


def _weights(gradients: np.ndarray, target: np.ndarray, **options: float) -> np.ndarray:
    base = np.full(len(gradients), 1 / len(gradients))
    return kmm_weights(gradients @ gradients.T, gradients @ target, **options, base=base)


@given(groups=st.integers(1, 30), seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_orthonormal_gradients_are_thresholded(groups: int, seed: int) -> None:
    alignment = np.random.default_rng(seed).normal(size=groups)
    np.testing.assert_allclose(matching(np.eye(groups), alignment, 0.3, 0.0), np.maximum(0, alignment - 0.3), atol=1e-8)


@given(groups=st.integers(1, 20), size=st.integers(1, 30), seed=SEEDS, penalty=st.floats(0, 3), ridge=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_the_conditions_of_the_optimum_hold(groups: int, size: int, seed: int, penalty: float, ridge: float) -> None:
    """Also with fewer dimensions than collections."""
    random = np.random.default_rng(seed)
    gradients, target = random.normal(size=(groups, size)), random.normal(size=size)
    gram, alignment = gradients @ gradients.T, gradients @ target
    beta = matching(gram, alignment, penalty, ridge)
    slope = gram @ beta - alignment + penalty + 2 * ridge * np.trace(gram) / groups * beta
    assert (beta >= 0).all()
    tolerance = 1e-6 * np.trace(gram)
    assert (slope >= -tolerance).all()
    assert np.abs(slope * beta).max() <= tolerance * max(1.0, beta.max())


def test_two_equal_collections_share_what_one_gets() -> None:
    """Alignment alone would give each of these three a third."""
    first, other = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    three = _weights(np.stack([first, first, other]), first + other, blend=0.0)
    np.testing.assert_allclose(three, [0.25, 0.25, 0.5], atol=1e-3)
    np.testing.assert_allclose(_weights(np.stack([first, first]), first, blend=0.0), [0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(_weights(first[None], first), [1.0])


def test_equal_collections_share_even_without_a_ridge() -> None:
    gradients = np.stack([np.array([3.0, 1.0])] * 4)
    found = _weights(gradients, np.array([1.0, 0.0]), ridge=0.0, sparsity=0.0, blend=0.0)
    np.testing.assert_allclose(found, [0.25] * 4, atol=1e-4)


def test_what_points_away_gets_nothing_but_of_the_base() -> None:
    target = np.array([1.0, 2.0, 0.0])
    gradients = np.stack([target, -target, np.array([0.0, 0.0, 1.0])])
    np.testing.assert_allclose(_weights(gradients, target, blend=0.0), [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(_weights(gradients, target, blend=0.3), [0.8, 0.1, 0.1], atol=1e-9)
    base = np.array([0.2, 0.5, 0.3])
    gram = gradients @ gradients.T
    for alignment in (np.array([-1.0, -2.0, 0.0]), np.zeros(3)):
        assert kmm_weights(gram, alignment, blend=0.0, base=base).tolist() == base.tolist()
    assert kmm_weights(np.zeros((3, 3)), np.ones(3), base=base).tolist() == base.tolist()


@given(groups=st.integers(1, 12), seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_planted_weights_are_found_again(groups: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    gradients, planted = random.normal(size=(groups, 40)), random.dirichlet(np.ones(groups))
    found = _weights(gradients, 7.0 * planted @ gradients, sparsity=0.0, ridge=0.0, blend=0.0)
    np.testing.assert_allclose(found, planted, atol=1e-6)


@given(seed=SEEDS, size=st.sampled_from([1e-4, 1.0, 1e3]), reach=st.sampled_from([1e-3, 1.0, 50.0]))
@settings(deadline=None, max_examples=30)
def test_rotations_and_scales_change_nothing(seed: int, size: float, reach: float) -> None:
    random = np.random.default_rng(seed)
    gradients, target = random.normal(size=(6, 9)), random.normal(size=9)
    rotation = scipy.stats.ortho_group.rvs(9, random_state=seed)
    plain = _weights(gradients, target)
    np.testing.assert_allclose(_weights(size * gradients @ rotation, reach * target @ rotation), plain, atol=1e-6)


def test_sparsity_drops_what_hardly_aligns() -> None:
    gradients, target = np.eye(3), np.array([1.0, 0.5, 0.1])
    assert (_weights(gradients, target, blend=0.0) > 0).all()
    sparse = _weights(gradients, target, sparsity=0.2, ridge=0.0, blend=0.0)
    np.testing.assert_allclose(sparse, [0.8 / 1.1, 0.3 / 1.1, 0.0], atol=1e-8)


def test_an_estimate_that_is_no_gram_matrix_is_taken_as_the_nearest() -> None:
    """From two halves of a batch: neither symmetric nor positive."""
    gram = np.array([[1.0, 1.3, 0.1], [1.1, 1.0, 0.0], [0.0, 0.1, -0.1]])
    found = kmm_weights(gram, np.array([1.0, 1.0, 0.05]), base=np.full(3, 1 / 3))
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1.0)
    mirrored = kmm_weights(gram.T, np.array([1.0, 1.0, 0.05]), base=np.full(3, 1 / 3))
    np.testing.assert_allclose(found, mirrored)


def test_mistakes_are_said() -> None:
    gram, ones, base = np.eye(2), np.ones(2), np.array([0.5, 0.5])
    with pytest.raises(UsageError, match=r"shape \(2, 2\) and alignments of shape \(3,\)"):
        kmm_weights(gram, np.ones(3), base=base)
    with pytest.raises(UsageError, match="infinite or NaN"):
        kmm_weights(gram * np.nan, ones, base=base)
    with pytest.raises(UsageError, match="sum to 1"):
        kmm_weights(gram, ones, base=ones)
    for option in ({"sparsity": 1.0}, {"ridge": -1.0}, {"blend": 1.5}):
        with pytest.raises(UsageError, match=f"`{next(iter(option))}` is "):
            kmm_weights(gram, ones, **option, base=base)

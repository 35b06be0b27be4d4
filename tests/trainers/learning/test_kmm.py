"""Kmm: products are free of a branch's own noise, and what leads to the target weighs most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from trainers.finetune.config import FinetuneSettings
from trainers.learning.config import LearningSettings
from trainers.learning.lab import Lab
from trainers.learning.learners.kmm import Kmm, cosines_of, products_of
from trainers.learning.target import Target, held_out_set
from trainers.model.template import template_of

SETTINGS = FinetuneSettings(steps=30, batch_size=8, learning_rate=1e-2, temperature=0.05, negatives=2,
                            max_query_tokens=32, max_passage_tokens=32)  # fmt: skip


def test_products_are_those_of_unlike_branches() -> None:
    random = np.random.default_rng(1)
    truth = random.normal(size=(3, 4000)) * 0.2
    aim = random.normal(size=4000)
    noisy = [truth + random.normal(size=truth.shape) for _ in range(2)]
    rows = np.vstack([*noisy, aim])
    gram, alignment = products_of(rows @ rows.T)
    assert gram == pytest.approx(truth @ truth.T, abs=300)
    assert noisy[0][0] @ noisy[0][0] > gram[0, 0] + 3000  # what a branch with itself would say
    assert alignment == pytest.approx((noisy[0] + noisy[1]) @ aim / 2)
    assert gram == pytest.approx(gram.T)
    assert gram[0, 1] == pytest.approx((noisy[0][0] + noisy[1][0]) @ (noisy[0][1] + noisy[1][1]) / 4)


def test_cosines() -> None:
    found = cosines_of(np.array([[4.0, 3.0, 1.0], [3.0, 1.0, 0.0], [1.0, 0.0, -1.0]]))
    assert found[:2, :2].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("of", ["easy", "middle"])
def test_the_collection_that_the_target_is_of_weighs_most(
    mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path, of: str
) -> None:
    template = template_of(str(static_model), SETTINGS)
    part = mixture_data.components[of]
    lab = Lab(
        mixture_data, str(static_model), SETTINGS, dict.fromkeys(mixture_data.sizes, 1 / 3),
        lambda encoder: Target([held_out_set(of, part, template, 1)], encoder, SETTINGS),
        tmp_path / "run", tmp_path / "branches",
    )  # fmt: skip
    found = Kmm(3, Kmm.Options(branch_steps=10, base_share=0.0)).find(lab)
    weights = dict(zip(lab.names, found.weights, strict=True))
    assert max(weights, key=lambda name: weights[name]) == of
    blended = Kmm(3, Kmm.Options(branch_steps=10, base_share=0.5)).find(lab)
    assert blended.weights == pytest.approx(0.5 * found.weights + 0.5 / 3)
    assert found.products is not None
    assert found.products == pytest.approx(found.products.T)
    assert any(line.startswith("most alike are ") for line in found.lines)


@pytest.mark.parametrize(("option", "value"), [("sparsity", 1.0), ("ridge", -1.0), ("base_share", 1.5)])
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{option} is {value}; allowed: 0 "):
        LearningSettings(algorithm="kmm", **{option: value})

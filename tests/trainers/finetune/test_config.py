"""Settings of fine-tuning: the ids that older runs have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trainers.finetune import FinetuneSettings
from trainers.losses import LOSSES
from trainers.settings import resolve, run_id

# As they were before there was a setting `loss`.
IDS = [
    (None, {}, "63789b872bfe"),
    ("paper", {}, "e3871163fcb9"),
    (None, {"in_batch": False}, "afa452e7a683"),
    (
        "laptop",
        {"symmetric_loss": True, "matryoshka_dims": (32, 64), "hard_only": ("nq",), "cross_device": False},
        "811c6503b136",
    ),
    (None, {"evaluate_every": 10, "final": "best", "keep_best": True}, "38b70a6eeaec"),
]


@pytest.mark.parametrize(("recipe", "options", "known"), IDS)
def test_run_ids_are_those_of_older_runs(recipe: str | None, options: dict[str, Any], known: str) -> None:
    assert run_id("finetune", "0123456789ab", resolve(FinetuneSettings, recipe, options), model="m") == known


def test_another_loss_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "other", LOSSES["info_nce"])
    other = replace(FinetuneSettings(), loss="other")
    assert run_id("finetune", "0123456789ab", other, model="m") != IDS[0][2]


def test_each_setting_of_a_loss_is_another_run() -> None:
    forms: list[dict[str, Any]] = [{"loss": "expected_ndcg"}, {"loss": "expected_ndcg", "ndcg_cut": 5},
                                   {"loss": "expected_ndcg", "info_nce_first": 0.5}, {}, {"margin": 0.1},
                                   {"margin": 0.1, "margin_strategy": "relative"}, {"hardness": 5.0},
                                   {"directions": ("qd", "dd")}, {"spread_out": 0.5},
                                   {"loss": "expected_ndcg", "ndcg_positives": "all"},
                                   {"loss": "expected_ndcg", "ndcg_samples": 16}]  # fmt: skip
    ids = [run_id("finetune", "0123456789ab", FinetuneSettings(temperature=0.05, **form), model="m") for form in forms]
    assert len(set(ids)) == len(forms)

"""Ablations over a store: noise is named, harm and use are tested, a kill costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainers
from mixture import Store, UsageError, jobs
from mixture.materialised import MaterialisedMixture
from mixture.suites.halves import halved
from mixture.suites.suite import load_suite
from tests.trainers.conftest import write_suite
from trainers.evaluation.compare import compare
from trainers.finetune import FinetuneSettings
from trainers.loop.steps import TrainingLoop
from trainers.loop.stopping import Stopped

SETTINGS = FinetuneSettings(steps=12, batch_size=12, negatives=2, temperature=0.05, max_query_tokens=32,
                            max_passage_tokens=32, checkpoint_every=4, tracker="none", learning_rate=0.05)  # fmt: skip


@pytest.fixture
def suites(tmp_path: Path, mixture_data: MaterialisedMixture, small_store: Store) -> list[Path]:
    """Two suites of rows of `middle`, one of them called so."""
    return [write_suite(mixture_data, tmp_path / name, 40) for name in ("middle-test", "other")]


def test_x(small_store, static_model, suites):
    import time
    print(small_store.rows("select collection, count(*) n from examples group by all"))
    t = time.time()
    found = trainers.ablate(small_store, "mix", static_model, suites, settings=SETTINGS, extremes=1, seeds=2, holdout=0.2)
    for e in found.effects: print(e)
    print(found.lines, time.time() - t)
    print(small_store.rows("select kind, status from runs"))
    assert 0

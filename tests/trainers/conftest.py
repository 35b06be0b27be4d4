"""A tiny model and a materialised mixture for the tests of the model side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mixture import Store, registry
from mixture.materialised import MaterialisedMixture
from mixture.store.materialise import materialise
from trainers.data import DEFAULT_PROMPT, query_prefix
from trainers.tiny import build_tiny

TEXTS = [f"the {a} of the {b} is {c}" for a in ("capital", "river", "king") for b in ("north", "south") for c in "xyz"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, write_collection: Callable[..., Path]) -> Path:
    """Two layers, 64 wide; its tokenizer knows the words of the test collections and of the default prompt."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    texts = TEXTS + write_collection(folder.parent, "texts").read_text("utf-8").splitlines()
    texts += [query_prefix(DEFAULT_PROMPT)] * len(texts)
    build_tiny(texts, folder, seed=1, vocabulary=500, hidden=64)
    return folder


@pytest.fixture
def mixture_data(small_store: Store) -> MaterialisedMixture:
    parts = registry.pin(small_store)
    spec = registry.weighted(parts, {"easy": 0.5, "middle": 0.3, "hard": 0.2})
    registry.save(small_store, spec, "mix")
    return materialise(small_store, spec)

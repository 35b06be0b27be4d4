"""Fixtures of fine-tuning."""

from __future__ import annotations

from collections import Counter

import pytest

from trainers.batch import texts


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each example is in a batch."""
    found: Counter[str] = Counter()
    whole = texts.BatchSource.homogeneous

    def noted(self: texts.BatchSource, step: int) -> texts.TextBatch:
        batch = whole(self, step)
        found.update(batch.examples)
        return batch

    monkeypatch.setattr(texts.BatchSource, "homogeneous", noted)
    return found

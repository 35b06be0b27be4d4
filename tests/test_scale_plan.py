"""`docs/scale.md` says what the results say."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("scale_plan")
    module.result.cache_clear()
    return module


def test_the_page_shows_what_the_results_have(plan: ModuleType) -> None:
    page = plan.PAGE.read_text("utf-8")
    assert plan.filled(page) == page  # else: python benchmarks/scale_plan.py


def test_each_constant_is_of_a_result_or_said_to_be_none(plan: ModuleType) -> None:
    rows = plan.rows()
    for row in rows:
        if row.source and row.measured != plan.NOTHING:
            assert (plan.RESULTS / f"{row.source}.json").is_file() and row.cores > 0
        else:
            assert row.measured in (plan.NOTHING, plan.COMPUTED)
    ingest = next(row for row in rows if row.source == "ingest")
    assert ingest.cores == pytest.approx(2.7, abs=0.05)  # 606 GB at 16.1 core-seconds each


def test_what_is_not_measured_is_said(plan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in plan.RESULTS.glob("*.json"):
        if file.stem not in ("cluster", "catalog_scale"):
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    assert plan.section().count(plan.NOTHING) == 3

"""Models side by side on a terminal of any width, and what got worse under them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mixture.console.comparison import short_names, show_comparison

MODELS = ["runs/base/model", "runs/tdro/model", "runs/third/model", "all-MiniLM-L6-v2"]
TABLES = {"ndcg@10": [["xquad-de", "40.00", "30.00* (-10.00)", "41.00 (+1.00)", "50.00* (+10.00)"],
                      ["a-very-long-name-of-a-suite-that-takes-many-letters", "1.00", "2.00", "3.00", "4.00"],
                      ["worst case, ε = 0.1", "12.00", "13.00", "14.00", "15.00"]]}  # fmt: skip
NOTE = "* differs from runs/base/model"
LOST = {"suite": "xquad-de", "query": "q1", "text": "Wer schrieb\n[red]Faust[/red]?", "before": 1.0, "after": 0.0}
SUMMARY: dict[str, Any] = {
    "baseline": "runs/base/model", "models": MODELS, "metrics": ["ndcg@10"],
    "regressions": [
        {"kind": kind, "name": name, "metric": "ndcg@10", "model": "runs/tdro/model", "difference": -0.1,
         "p_holm": p, "queries": [LOST, LOST | {"query": "q2", "text": None}]}
        for kind, name, p in (("suite", "xquad-de", 0.0004), ("family", "xquad", 0.012), ("all", "all", 0.03))
    ],
}  # fmt: skip


def _shown(width: int, summary: dict[str, Any] = SUMMARY) -> str:
    stream = io.StringIO()
    show_comparison(summary, TABLES, NOTE, Console(file=stream, width=width))
    return stream.getvalue()


def test_a_wide_terminal_has_one_table_and_what_got_worse() -> None:
    text = _shown(200)
    assert text.count("ndcg@10") == 1
    assert "all-MiniLM-L6-v2" in text and " tdro/model " in text and "30.00* (-10.00)" in text
    assert "tdro/model got worse on xquad-de: -10.00 (p < 0.001)\n" in text
    assert "  100.00 →   0.00  Wer schrieb [red]Faust[/red]?\n" in text
    assert "  100.00 →   0.00  q2\n" in text
    assert "got worse on family xquad: -10.00 (p = 0.012)\n" in text
    assert "got worse on the mean of all suites: -10.00 (p = 0.03)\n" in text
    assert text.count("Faust") == 1  # a group's queries are those of its suites
    assert text.endswith(NOTE + "\n")


@pytest.mark.parametrize("width", [60, 70, 80, 100, 140])
def test_on_a_narrow_terminal_every_cell_is_whole_beside_the_baseline(width: int) -> None:
    text = _shown(width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for line in TABLES["ndcg@10"]:
        assert all(cell in text for cell in line[1:])
    assert text.count(" base/model ") == text.count("ndcg@10")
    assert text.count(" tdro/model ") == 1


def test_the_baseline_may_be_any_model() -> None:
    text = _shown(70, SUMMARY | {"baseline": "all-MiniLM-L6-v2"})
    assert text.count("all-MiniLM-L6-v2") == text.count("ndcg@10") > 1


def test_json_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(SUMMARY, TABLES, NOTE, as_json=True)
    assert json.loads(capsys.readouterr().out) == SUMMARY


def test_short_names_tell_models_apart() -> None:
    assert short_names(["a/x/model", "b/x/model"]) == ["a/x/model", "b/x/model"]
    assert short_names(["r/a/", "r/b"]) == ["a", "b"]
    assert short_names(["/model", "model"]) == ["/model", "model"]
    assert short_names(["static"]) == ["static"]

"""How a chosen prompt is told: with its luck, with its interval elsewhere, and how to use it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from mixture.console.prompts import lines, show_choice


def _prompt(text: str, **more: Any) -> dict[str, Any]:
    return {"prompt": text, "sources": ["mine.txt:1"] if text else ["no prompt"], "num_queries": 50,
            "scores": {"nq/learn": 0.5, "quora/learn": 0.75}, "mean": 0.625, "gain": 0.0, "worst": 0.0, "least": 0.0,
            "weights": {"nq/learn": 0.6, "quora/learn": 0.4}, "dropped": None} | more  # fmt: skip


def _choice(*prompts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"prompts": list(prompts), "gains": [], "suites": ["nq/learn", "quora/learn"], "radius": 0.1,
            "relative": True, "reported_on": ["desk"], "card_line": 'prompts: ["q: "]', "query_template": None,
            "out": None} | more  # fmt: skip


GAIN = {"suites": "desk", "num_suites": 1, "num_queries": 1234, "against": "no prompt", "score": 0.5, "baseline": 0.49,
        "gain": 0.01, "low": -0.005, "high": 0.025, "p": 0.0004}  # fmt: skip


def test_a_gain_has_its_interval_and_the_place_of_the_choice_its_luck() -> None:
    best = _prompt("q: ", gain=0.02, scores={"nq/learn": 0.51, "quora/learn": 0.78})
    found = _choice(best, _prompt(""), gains=[GAIN], query_template="{prompt}{query}")
    assert lines(found) == [
        "chosen: 'q: ' (mine.txt:1)",
        "where it was chosen: +2.00 over no prompt; the best of 2, so that some of it is luck",
        "on 1 suite where it was not: 50.00, +1.00 [-0.50, +2.50] against no prompt (1,234 queries, p < 0.001)",
        "for a datacard: prompts: [\"q: \"]  (trained with --set query_template='{prompt}{query}')",
    ]
    short = lines(_choice(best, _prompt(""), gains=[GAIN | {"low": None, "high": None, "p": 0.25}]))
    assert short[2].endswith("50.00, +1.00 against no prompt (1,234 queries, p = 0.25)")


def test_where_none_is_best_no_gain_is_claimed() -> None:
    found = _choice(_prompt(""), _prompt("q: "), card_line="prompts: []", out="copy")
    assert lines(found) == [
        "chosen: '' (no prompt)", "no other one does better, so that there is no gain to report",
        "for a datacard: prompts: []", "the model with it: copy",
        "a training of it puts none before queries with --set query_template=none",
    ]  # fmt: skip


def test_the_table_says_who_was_dropped_and_the_heaviest_suites() -> None:
    long = "Instruct: " + "x" * 90 + "\nQuery: "
    screen = io.StringIO()
    show_choice(_choice(_prompt("q: "), _prompt(""), _prompt(long, dropped="worse half", worst=-0.012)), as_json=False,
                console=Console(file=screen, width=200))  # fmt: skip
    shown = screen.getvalue()
    assert "nq/learn 0.60, quora/learn 0.40" in shown and "worse half" in shown and "-1.20" in shown
    assert "x…'" in shown and "no prompt" in shown
    raw = io.StringIO()
    show_choice(_choice(_prompt("", worst=0.5), relative=False), as_json=False, console=Console(file=raw, width=200))
    assert "least of scores" in raw.getvalue() and " 50.00 " in raw.getvalue() and "+50.00" not in raw.getvalue()

"""The demo, small: every step of the job on the fixtures, through the command line."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

from cli import app
from mixture import Store


def _demo(folder: Path) -> int:
    with pytest.raises(SystemExit) as caught:
        app(["demo", "--folder", str(folder), "--steps", "3"])
    return int(caught.value.code or 0)


def test_the_whole_job_runs_and_shows_each_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXTURE_STORE", "")  # the demo sets its own
    assert _demo(tmp_path / "run") == 0
    printed = capsys.readouterr().out
    commands = [line.split()[2] for line in printed.splitlines() if line.startswith("$ mixture")]
    assert commands == [
        "ingest", "dedup", "decontaminate", "mine", "create", "learn-weights", "select",
        "evaluate", "train", "evaluate", "train", "evaluate", "train", "report", "sql",
    ]  # fmt: skip
    assert "Traceback" not in printed
    planted = json.loads((tmp_path / "run" / "planted.json").read_text())["collections"]
    with Store.open(tmp_path / "run" / "store") as store:
        weights = store.sql(
            "SELECT collection, weight FROM mixture_weights JOIN mixtures USING (mixture) WHERE name = 'tdro'"
        ).to_pylist()
        assert len(weights) == 25
        assert math.fsum(r["weight"] for r in weights) == pytest.approx(1.0, abs=1e-9)
        assert len({r["weight"] for r in weights}) > 20
        for row in weights:
            assert row["collection"] in printed
        top = "SELECT count(*) AS n FROM mixture_weights JOIN mixtures USING (mixture) WHERE name = 'top70'"
        assert store.sql(top).to_pylist() == [{"n": 17}]
        _plants_are_found(store, planted)
        scores = store.sql(
            "SELECT w.name, avg(value) AS mean FROM evaluations e JOIN mixtures w USING (mixture) "
            "WHERE metric = 'ndcg@10' GROUP BY ALL ORDER BY ALL"
        ).to_pylist()
        assert [r["name"] for r in scores] == ["tdro", "uniform"]
        start = "SELECT avg(value) AS mean FROM evaluations WHERE metric = 'ndcg@10' AND model = 'static'"
        scores += store.sql(start).to_pylist()  # a pretrained student: its scores mean something
        assert scores[-1]["mean"] > 0.6
        second = (tmp_path / "run" / "models" / "tiny-qwen2" / "training.json").read_text()
        assert json.loads(second)["final_step"] == 3
        for row in scores:
            assert f"mean nDCG@10 {100 * row['mean']:.1f}" in printed


def _plants_are_found(store: Store, planted: dict[str, dict[str, int]]) -> None:
    found = {r["collection"]: r for r in store.sql("FROM collection_facts").to_pylist()}
    assert {n: r["rows_read"] for n, r in found.items()} == {n: p["rows"] for n, p in planted.items()}
    assert sum(r["rejected"] for r in found.values()) == 0
    assert all(found[n]["repeated"] >= p["exact_duplicates"] for n, p in planted.items())
    removed = {n: r["duplicates_removed"] for n, r in found.items()}
    leaked = {n: r["test_queries_removed"] for n, r in found.items()}
    twins = sum(p["near_duplicates"] for p in planted.values())
    tests = {n: p["test_queries_exact"] + p["test_queries_edited"] for n, p in planted.items()}
    assert sum(removed.values()) >= 0.8 * twins
    assert sum(removed[n] for n, p in planted.items() if not p["near_duplicates"]) <= 0.2 * twins
    assert sum(leaked.values()) >= 0.95 * sum(tests.values())
    # Short Chinese questions from one template, which differ in the name of a place, are one edit apart.
    assert sum(leaked[n] for n, count in tests.items() if count == 0) <= 10


def test_without_the_extra_it_says_what_to_install_and_leaves_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wordllama" else find(name, *a))
    assert _demo(tmp_path / "run") == 2
    said = "the model static needs the files of wordllama: pip install 'retrieval-mixture[demo]'"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_users_is_not_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert _demo(tmp_path) == 2
    assert "not an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "mine"

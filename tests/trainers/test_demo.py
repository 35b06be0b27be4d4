"""The demo, small: every step of the job on the fixtures, through the command line."""

from __future__ import annotations

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
        "train", "evaluate", "train", "evaluate", "sql",
    ]  # fmt: skip
    assert "Traceback" not in printed
    planted = json.loads((tmp_path / "run" / "planted.json").read_text())["total"]
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
        leaks = store.sql("SELECT count(*) AS n FROM removals WHERE reason = 'test query'").to_pylist()[0]["n"]
        assert leaks >= 0.95 * (planted["test_queries_exact"] + planted["test_queries_edited"])
        scores = store.sql(
            "SELECT w.name, avg(value) AS mean FROM evaluations e JOIN mixtures w USING (mixture) "
            "WHERE metric = 'ndcg@10' GROUP BY ALL ORDER BY ALL"
        ).to_pylist()
        assert [r["name"] for r in scores] == ["tdro", "uniform"]
        for row in scores:
            assert f"mean nDCG@10 {100 * row['mean']:.1f}" in printed


def test_a_folder_of_the_users_is_not_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert _demo(tmp_path) == 2
    assert "not an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "mine"

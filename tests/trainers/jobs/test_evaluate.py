"""The job and the command: several models, what is kept, what is printed and exported, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import trainers
from cli import app
from mixture import Store
from mixture.errors import UsageError

pytest.importorskip("pytrec_eval")

TEXTS = ["green tea", "black coffee", "cold milk", "hot water", "old wine", "new beer"]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "drinks"
    (folder / "qrels").mkdir(parents=True)
    for name, key in (("corpus", "d"), ("queries", "q")):
        lines = (json.dumps({"_id": f"{key}{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(len(TEXTS))))
    return folder


def test_several_models_are_scored_and_kept_by_name(small_store: Store, tiny_model: Path, suite: Path) -> None:
    names = [str(tiny_model), "bm25", f"bm25+{tiny_model}"]
    results = trainers.evaluate(small_store, names, suite, metrics=["mrr@10"])
    assert [result.model for result in results] == names
    assert results[1].metrics == {"ndcg@10": 1.0, "recall@100": 1.0, "mrr@10": 1.0}
    rows = small_store.rows("SELECT model, value FROM evaluations WHERE metric = 'mrr@10' ORDER BY evaluated_at")
    assert [row["model"] for row in rows] == [str(tiny_model.resolve()), "bm25", f"bm25+{tiny_model.resolve()}"]
    assert [row["value"] for row in rows] == [result.metrics["mrr@10"] for result in results]


def test_kept_embeddings_are_read_again_and_change_no_score(
    small_store: Store, tiny_model: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = trainers.evaluate(small_store, tiny_model, suite)
    assert not (small_store.work / "embeddings").exists()
    (kept,) = trainers.evaluate(small_store, tiny_model, suite, keep_embeddings=True)
    given: list[str] = []

    def recorded(encoder: Any, texts: list[str], *rest: Any, **options: Any) -> torch.Tensor:
        given.extend(texts)
        return torch.zeros(len(texts), 8)

    monkeypatch.setattr("trainers.jobs.encode.encode", recorded)
    (again,) = trainers.evaluate(small_store, tiny_model, suite, keep_embeddings=True)
    assert given == []
    assert plain.per_query == kept.per_query == again.per_query


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "bm25+"}, "a fusion names two or more"),
        ({"model": []}, "`model` names no model"),
        ({"model": ["bm25", "no-such-model"]}, "no model loads from 'no-such-model': it has none of modules.json"),
        ({"model": ["bm25", "bm25+no-such-model"]}, "no model loads from 'no-such-model'"),
        ({"model": ["bm25", "static", "bm25"]}, "`model` names 'bm25' twice"),
        ({"metrics": ["mrr"]}, "`metrics` has 'mrr'"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"batch_size": 8, "processes": 2}, "`batch_size` is of one process"),
        ({"precision": "int8"}, "`precision` is 'int8'"),
        ({"processes": 0}, "`processes` is 0"),
        ({"batch_size": 8, "keep_embeddings": True}, "`batch_size` keeps nothing"),
        ({"precision": "float16"}, "`precision` is 'float16', of kept embeddings alone"),
    ],
)
def test_mistakes(small_store: Store, suite: Path, tiny_model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainers.evaluate(small_store, **({"model": tiny_model, "suites": suite} | options))
    assert not small_store.rows("SELECT * FROM evaluations")


def test_a_folder_called_bm25_is_not_passed_over(
    small_store: Store, suite: Path, static_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(static_model, tmp_path / "bm25")
    monkeypatch.chdir(tmp_path)
    for name in ("bm25", "static+bm25"):
        with pytest.raises(UsageError, match=r"bm25 is the ranking by words; write \./bm25"):
            trainers.evaluate(small_store, name, suite)
    (result,) = trainers.evaluate(small_store, "./bm25", suite)
    assert result.similarity == "cosine"


def test_a_metric_that_no_suite_has_is_said(small_store: Store, suite: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainers.evaluate(small_store, "bm25", suite, metrics=["accuracy@10", "mrr@10"])
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["nothing was scored by accuracy@10: none of the suites says answers"]


def evaluate(store: Store, *arguments: Any) -> Any:
    result = CliRunner().invoke(app, ["--store", str(store.work), "evaluate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_holds_models_against_the_first_and_exports(
    small_store: Store, tiny_model: Path, suite: Path, tmp_path: Path
) -> None:
    asked = ("bm25", tiny_model, "--suite", suite, "--metric", "MRR@10")
    found = json.loads(evaluate(small_store, *asked, "--export", tmp_path / "out", "--json"))
    assert [row["model"] for row in found["results"]] == ["bm25", str(tiny_model)]
    assert found["comparison"]["baseline"] == "bm25"
    (worst,) = [row for row in found["comparison"]["rows"] if row["metric"] == "mrr@10" and row["kind"] == "suite"
                and row["model"] == str(tiny_model)]  # fmt: skip
    assert worst["difference"] == pytest.approx(found["results"][1]["metrics"]["mrr@10"] - 1)
    tasks = sorted(path.name for path in (tmp_path / "out").rglob("drinks.json"))
    assert tasks == ["drinks.json", "drinks.json"]
    other = json.loads(evaluate(small_store, *asked, "--baseline", tiny_model, "--json"))
    assert other["comparison"]["baseline"] == str(tiny_model)
    shown = evaluate(small_store, *asked)
    assert "differs from bm25" in shown and "searched: full corpus of the suite" in shown


def test_the_command_of_one_model_is_a_table_and_a_list(small_store: Store, suite: Path) -> None:
    (row,) = json.loads(evaluate(small_store, "bm25", "--suite", suite, "--json"))
    assert row["metrics"] == {"ndcg@10": 1.0, "recall@100": 1.0}
    assert "per_query" not in row and "queries" not in row
    assert "100.00" in evaluate(small_store, "bm25", "--suite", suite)


def test_scores_are_shown_though_a_file_cannot_be_written(small_store: Store, suite: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "scores.csv")
    asked = ["--store", str(small_store.work), "evaluate", "bm25", "--suite", str(suite), "--export", place]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code != 0 and "100.00" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--baseline", "static"], "--baseline is 'static'"), (["--export", "scores.xlsx"], "ends in .xlsx")],
)
def test_the_command_refuses_before_the_work(small_store: Store, suite: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(
        app, ["--store", str(small_store.work), "evaluate", "bm25", "--suite", str(suite), *options]
    )
    assert result.exit_code == 2 and message in result.stderr
    assert not small_store.rows("SELECT * FROM evaluations")


def test_data_that_is_missing_is_said_before_the_first_suite_is_scored(
    small_store: Store, suite: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIXTURE_SUITES", str(tmp_path / "nothing"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"beir/nfcorpus: its data is not in .*nothing"):
        trainers.evaluate(small_store, "bm25", [suite, "beir/nfcorpus"])
    assert not small_store.rows("SELECT * FROM evaluations")


def test_what_a_score_depends_on_is_kept(small_store: Store, tiny_model: Path, suite: Path) -> None:
    pytest.importorskip("wordllama")  # a table of tokens cuts no text
    trainers.evaluate(small_store, [tiny_model, "static", "bm25"], suite, prompt="find: ")
    rows = small_store.rows(
        """SELECT DISTINCT prompt, similarity, max_tokens > 0 AS cut, "precision" FROM evaluations ORDER BY ALL"""
    )
    assert rows == [
        {"prompt": "find: ", "similarity": "cosine", "cut": True, "precision": "float32"},
        {"prompt": "find: ", "similarity": "cosine", "cut": None, "precision": "float32"},
        {"prompt": None, "similarity": "bm25", "cut": None, "precision": None},
    ]

"""A training without the store comes into it as one with it would have been kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import trainers
from cli import app
from mixture import Store, UsageError, jobs, registry
from mixture.materialised import MaterialisedMixture
from trainers import FinetuneSettings
from trainers.model.template import RECORD

SETTINGS = FinetuneSettings(steps=6, batch_size=7, temperature=0.05, negatives=1, learning_rate=0.02, evaluate_every=2,
                            final="best", holdout=0.4, tracker="none")  # fmt: skip
TABLES = {
    "runs": "SELECT run_id, kind, status, mixture, config FROM runs",
    "run_draws": "SELECT * FROM run_draws",
    "evaluations": "SELECT * EXCLUDE (model, evaluated_at) FROM evaluations",
    "evaluation_queries": "SELECT * EXCLUDE (model, evaluated_at) FROM evaluation_queries",
}


def kept(store: Store) -> dict[str, list[dict[str, Any]]]:
    found = {name: store.rows(f"{query} ORDER BY ALL") for name, query in TABLES.items()}
    for row in found["runs"]:
        config = json.loads(row["config"])
        assert Path(config.pop("out")).name
        row["config"] = config
    return found


@pytest.mark.parametrize("phases", [False, True])
def test_a_run_is_kept_as_one_with_the_store(
    small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, suite: Path, tmp_path: Path, phases: bool
) -> None:
    settings = SETTINGS if not phases else replace(SETTINGS, learning_rate=1e-12, evaluate_every=1)
    other = jobs.create(small_store, "other", weights={"easy": 1.0, "hard": 2.0})
    shutil.copytree(small_store.work, tmp_path / "elsewhere")
    jobs.export(small_store, other, materialised=tmp_path / "folder")
    jobs.export(small_store, mixture_data.spec.id, materialised=tmp_path / "folder")
    whole = mixture_data.spec.id
    with Store.open(tmp_path / "elsewhere") as with_it:
        given = [(whole, 4), (other, 2)] if phases else whole
        made = trainers.train(with_it, given, static_model, out=tmp_path / "with", settings=settings, suites=suite)
        expected = kept(with_it)
    data = trainers.jobs.folder.open_folder(tmp_path / "folder", whole)
    second = trainers.jobs.folder.open_folder(tmp_path / "folder", other.spec.id)
    trainers.train_on_folder([(data, 4), (second, 2)] if phases else data, static_model, out=tmp_path / "without",
                             settings=settings, suites=suite)  # fmt: skip
    if phases:  # the model is one of the first phase
        assert json.loads((tmp_path / "without" / RECORD).read_text())["final_step"] < 4
    brought = trainers.import_run(small_store, tmp_path / "without")
    assert (brought.run, brought.scores, brought.finished_at) == (made.run, made.scores, None)
    found = kept(small_store)
    for name in TABLES:
        assert found[name] == expected[name], name
        assert len(found[name]) > 0
    assert small_store.rows("SELECT result FROM runs") == [{"result": str(tmp_path / "without")}]
    said = CliRunner().invoke(app, ["--store", str(small_store.work), "import", str(tmp_path / "without")])
    assert said.exit_code == 0 and f"already finished (run {made.run}" in said.stdout
    assert kept(small_store) == found


def test_what_is_no_run_is_refused(
    small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"holds no finished training: there is no {RECORD} in it"):
        trainers.import_run(small_store, tmp_path)
    trainers.train_on_folder(mixture_data, static_model, out=tmp_path / "model", settings=FinetuneSettings(steps=1))
    with Store.open(tmp_path / "new", create=True) as empty:
        with pytest.raises(UsageError, match=mixture_data.spec.id):
            trainers.import_run(empty, tmp_path / "model")
        assert empty.rows("SELECT 1 FROM runs") == []
    record = json.loads((tmp_path / "model" / RECORD).read_text())
    (tmp_path / "model" / RECORD).write_text(json.dumps({"soup": [], "mixture": None, "settings": record["settings"]}))
    with pytest.raises(UsageError, match="no training made"):
        trainers.import_run(small_store, tmp_path / "model")
    for arguments, why in [(["model", "--name", "x"], "a run has its own name"), (["a.json"], "give --name")]:
        said = CliRunner().invoke(
            app, ["--store", str(small_store.work), "import", *map(str, (tmp_path / arguments[0], *arguments[1:]))]
        )
        assert said.exit_code == 2 and why in said.stderr
    assert registry.pin(small_store)

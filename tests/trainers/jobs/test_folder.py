"""Training from a materialised folder, on a machine that has no duckdb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

import trainers
from cli import app
from mixture import Store, registry
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.registry import folders
from mixture.store.materialise import materialise
from trainers.finetune import FinetuneSettings
from trainers.jobs.folder import asked_for, open_folder, train_on_folder
from trainers.model.names import known_model

ABSENT = ("duckdb", "_duckdb", "datasets", "zstandard", "datasketch", "vl_convert", "prompt_toolkit", "faiss")
SETTINGS = ["steps=2", "batch_size=6", "negatives=1", "max_query_tokens=40", "max_passage_tokens=24", "tracker=none"]


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python without what only the store needs: everything else is linked."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(ABSENT):
            (site / entry.name).symlink_to(entry)
    paths = os.pathsep.join([str(Path(__file__).parents[3]), str(site)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_materialised_mixture_trains_without_duckdb_to_the_same_model(
    small_store: Store,
    mixture_data: MaterialisedMixture,
    tiny_model: Path,
    tmp_path: Path,
    bare: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # -S: only what PYTHONPATH names is installed.
    python = [sys.executable, "-S"]
    absent = "import importlib.util as u; print(u.find_spec('duckdb'), u.find_spec('datasets'))"
    assert subprocess.check_output([*python, "-c", absent], env=bare, text=True).split() == ["None", "None"]
    folder = tmp_path / "moved"
    folders.export_materialised(small_store, registry.resolve(small_store, "mix"), folder)
    command = ["-m", "trainers", str(folder), "--model", str(tiny_model), "--out", str(tmp_path / "out"), "--json"]
    for text in SETTINGS:
        command += ["--set", text]
    done = subprocess.run([*python, *command], env=bare, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = json.loads(done.stdout)
    assert (result["mixture"], result["steps"]) == (mixture_data.spec.id, 2)

    # The same through the command, which needs no store for it; the finished model is found.
    again = ["train", "--mix", str(folder), *command[3:], "--store", str(tmp_path / "no-store")]
    with pytest.raises(SystemExit, match="0"):
        app(again)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["mixture"]) == (result["run"], mixture_data.spec.id)

    settings = FinetuneSettings(steps=2, batch_size=6, negatives=1, max_query_tokens=40, max_passage_tokens=24,
                                tracker="none")  # fmt: skip
    mixture = registry.resolve(small_store, "mix")
    run = trainers.train(small_store, mixture, tiny_model, settings=settings, out=tmp_path / "here").run
    assert run == result["run"]
    for one, two in zip(
        SentenceTransformer(str(tmp_path / "out")).parameters(),
        SentenceTransformer(str(tmp_path / "here")).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_folder_says_what_it_holds(small_store: Store, mixture_data: MaterialisedMixture, tmp_path: Path) -> None:
    assert open_folder(mixture_data.folder).spec == mixture_data.spec
    with pytest.raises(UsageError, match="holds no materialised mixture"):
        open_folder(tmp_path)
    parts = registry.pin(small_store)
    other = materialise(small_store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), mixture_data.folder)
    with pytest.raises(UsageError, match=r"holds the mixtures .*; name one by its id"):
        open_folder(mixture_data.folder)
    assert open_folder(mixture_data.folder, other.spec.id[:6]).spec == other.spec
    with pytest.raises(UsageError, match="no model folder"):
        train_on_folder(mixture_data, "./nowhere", settings=FinetuneSettings(steps=1), out=tmp_path / "out")


def test_a_model_is_found_in_the_home_folder_and_refused_before_suites_are_read(
    mixture_data: MaterialisedMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert known_model("~/model") == str(tmp_path / "model")
    with pytest.raises(UsageError, match="no model folder"):
        train_on_folder(mixture_data, "~/other", out=tmp_path / "out", suites=tmp_path / "no suite")


def test_suites_may_come_one_by_one(suite: Path) -> None:
    settings = FinetuneSettings(steps=1)
    found = [asked_for("tiny-qwen2", Path("new"), given, settings)[1] for given in (suite, iter([suite]))]
    assert [[one.key for one in asked] for asked in found] == [[str(suite)], [str(suite)]]

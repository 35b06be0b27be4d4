"""What `pip install` brings: every module, and every file that a module reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mixture", "trainers", "datacards")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
BUILT_BY = SETTINGS["build-system"]["requires"][0].removeprefix("setuptools>=")


def _files(*patterns: str) -> set[str]:
    found = (file for part in PACKAGES for pattern in patterns for file in (ROOT / part).rglob(pattern))
    return {file.relative_to(ROOT).as_posix() for file in found if file.is_file()}


def test_every_folder_with_modules_is_a_package_that_is_found() -> None:
    setuptools = pytest.importorskip("setuptools", minversion=BUILT_BY)
    find = SETTINGS["tool"]["setuptools"]["packages"]["find"]
    assert find.pop("namespaces") is False
    folders = {file.rpartition("/")[0] for file in _files("*.py")}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)
    assert set(setuptools.find_packages(ROOT, **find)) == {folder.replace("/", ".") for folder in folders}


def test_the_wheel_has_every_module_and_what_they_read(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion=BUILT_BY)
    source = tmp_path / "source"  # a build leaves folders beside what it builds
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    modules = [f"{name}.py" for name in SETTINGS["tool"]["setuptools"]["py-modules"]]
    for name in (*modules, "pyproject.toml", SETTINGS["project"]["readme"], *SETTINGS["project"]["license-files"]):
        shutil.copy(ROOT / name, source)
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == _files("*.py", "py.typed", "templates/*", "*.toml", "*.md") | set(modules)
    assert {f"{name}/py.typed" for name in PACKAGES} < held


USER = """
from mixture import SavedMixture, Store, jobs
import trainers

store = Store.open("store", create=True)
jobs.ingest(store, "raw/", max_rejects="1%")
jobs.dedup(store, method="simhash"), jobs.decontaminate(store, "eval/"), jobs.undo(store, "dedup"), jobs.mine(store)
uniform: SavedMixture = jobs.create(store, "uniform", weights=jobs.Temperature(2))
top: SavedMixture = jobs.select(store, uniform, "top", top=70)
jobs.tag(store, top, "production"), jobs.diff(store, "top", uniform).lines(), jobs.log(store, "top").parents
jobs.verify(store).faults, jobs.gc(store, dry_run=True), jobs.report(store, "top").file
jobs.import_(store, str(jobs.export(store, "top", out="top.json").path), "again")
learned = trainers.learn_weights(store, uniform, proxy="tiny-qwen2").first
trained = trainers.train(store, learned, "tiny-qwen2", out="out", suites=["eval/"])
reveal_type(trained.model), reveal_type(trainers.evaluate(store, trained.model, "eval/")[0].metrics)
jobs.create(store, 5), jobs.select(store, "top", "x", topp=70), trainers.train(store, learned, "m")
"""


@pytest.mark.slow
def test_a_users_mypy_sees_the_types(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    mine = [line for line in printed.splitlines() if line.startswith("user.py:")]
    last = f":{len(USER.splitlines())}: "
    assert [line for line in mine if "error" in line and last not in line] == []
    assert sum("error" in line for line in mine) == 3, "a wrong type, a wrong name, a missing argument"
    assert 'Revealed type is "pathlib.Path"' in printed
    assert 'Revealed type is "dict[str, float]"' in printed.replace("builtins.", "")

"""The command line starts from any folder, whatever lies in it: `python -m mixture`, the script, torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from mixture import Store, jobs
from mixture.__main__ import HOME, NAMES

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# A user's own: our names, and those of libraries that we load. Whoever imports one of them ends.
OURS = ("cli.py", "trainers/__init__.py", "datacards/__init__.py")
LIBRARIES = ("datasets.py", "evaluate.py", "tokenizers.py", "queue.py", "train/__init__.py", "wandb/__init__.py")
TINY = ("--steps", "2", "--batch-size", "4", "--set", "max_passage_tokens=16")

Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(small_store: Store, tmp_path: Path) -> Path:
    """A user's folder that has files of the toolkit's names, and beside it a store with a mixture `m`."""
    jobs.create(small_store, "m")
    small_store.close()
    made = tmp_path / "project"
    for name in (*OURS, *LIBRARIES):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(f"raise SystemExit({name!r})\n")
    return made


def _start(folder: Path, *command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (path, str(ROOT)))), "MIXTURE_STORE": str(folder.parent / "store"),
    }  # fmt: skip
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(params=["module", "module on the path", "script", "script on the path", "script beside a mixture"])
def start(request: pytest.FixtureRequest, folder: Path) -> Start:
    """`start(*arguments)` runs the command line in the user's folder, in one of the ways there are."""
    # Where the path has the folder, libraries of its names are the user's own choice.
    path = "." if "path" in request.param or "beside" in request.param else ""
    for name in LIBRARIES if path else ():
        (folder / name).unlink()
    if "beside" in request.param:
        (folder / "mixture").mkdir()
        (folder / "mixture" / "__init__.py").write_text("raise SystemExit('mixture')\n")
    if request.param.startswith("module"):
        return lambda *arguments: _start(folder, sys.executable, "-m", "mixture", *arguments, path=path)
    module, _, function = SETTINGS["project"]["scripts"]["mixture"].partition(":")
    script = folder.parent / "bin" / "mixture"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")  # as pip writes it
    return lambda *arguments: _start(folder, sys.executable, str(script), *arguments, path=path)


def test_what_lies_in_the_working_folder_is_not_run(start: Start) -> None:
    for arguments, said in (
        (["--version"], version("retrieval-mixture")),
        (["list"], "m:1"),
        (["cards", "nq"], "prompts"),
        (["mine", "easy", "--negatives", "1"], "easy"),  # it imports the model side
    ):
        done = start(*arguments)
        # A busy machine gets as far as a line of progress.
        stderr = [line for line in done.stderr.splitlines() if not line.startswith("mine: ")]
        assert (done.returncode, stderr) == (0, []), arguments
        assert said in done.stdout


def test_the_folders_own_modules_would_have_been_imported(folder: Path) -> None:
    for name in OURS:
        assert _start(folder, sys.executable, "-c", f"import {Path(name).parts[0].split('.')[0]}").stderr == f"{name}\n"


def test_the_protected_names_are_those_that_the_distribution_installs() -> None:
    found = SETTINGS["tool"]["setuptools"]["packages"]["find"]["include"]
    installed = {name.rstrip("*") for name in found} | set(SETTINGS["tool"]["setuptools"]["py-modules"])
    assert installed - {"retrieval_mixture"} == NAMES
    assert str(ROOT) == HOME


@pytest.mark.slow
def test_weights_are_learned_and_two_ranks_train_from_such_a_folder(folder: Path) -> None:
    learn = ("learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", *TINY, "--json")
    done = _start(folder, sys.executable, "-m", "mixture", *learn)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reference"] == "tdro:1"
    # Not `python -m torch…`, which would import the folder's libraries before any of ours.
    ranks = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "mixture")
    trained = ("train", "--mix", "m", "--model", "tiny-qwen2", "--out", "out", *TINY, "--json")
    done = _start(folder, *ranks, *trained)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[0]["steps"] == 2

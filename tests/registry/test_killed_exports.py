"""An export that is killed at any point leaves nothing in the way: the same call does all of it, and sweeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest

from mixture import Store, UsageError, jobs, whole

pytestmark = pytest.mark.folder
# Forks a process for each export. A killed one ends itself before it opens a file to write, makes a folder or renames
# something for the nth time; its fellow makes the same call, and is compared with an export that nobody killed.
PROGRAM = """
import json, os, shutil, signal, sys
from pathlib import Path
from mixture import Store, jobs, whole
import datasets, mixture.cards, mixture.registry.folders  # once, not in each fork
folder, given, most = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
whole.YOUNG_SECONDS = 0

def export(out, at, copy):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen = [0]
    def hook(event, told):
        writes = event == "open" and isinstance(told[1], str) and told[1][0] in "wax"
        if (writes or event in ("os.mkdir", "os.rename")) and str(folder) in str(told[0]):
            seen[0] += 1
            if seen[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
    with Store.open(copy) as store:
        sys.addaudithook(hook)
        named = {name: out if value is None else value for name, value in given.items()}
        jobs.export(store, "mix", **named)
    os._exit(seen[0])

def content(out):
    files = [out] if out.is_file() else [file for file in sorted(out.rglob("*")) if file.is_file()]
    # datasets' state.json holds a number that differs with the time of the files.
    return {str(file.relative_to(out.parent)).partition("/")[2]: file.name == "state.json" or file.read_bytes()
            for file in files}

def fresh(name):
    # Each export has a folder and a copy of the store, with nothing materialised.
    (folder / name).mkdir()
    shutil.copytree(folder / "store", folder / name / "store")
    return folder / name / ("out.jsonl" if "batches" in given else "out"), folder / name / "store"

out, copy = fresh("whole")
points = export(out, 0, copy)
wanted = content(out)
for at in sorted({1 + point * (points - 1) // (most - 1) for point in range(most)}):
    out, copy = fresh(str(at))
    killed = export(out, at, copy)
    left = [str(file) for file in (folder / str(at)).rglob(".writing-*")]
    code = export(out, 0, copy)
    swept = not list((folder / str(at)).rglob(".writing-*"))
    print(json.dumps([at, killed, bool(left), code >= 0 and content(out) == wanted, swept]))
"""
KINDS: dict[str, dict[str, Any]] = {
    "hf_dataset": {"hf_dataset": None},
    "materialised": {"materialised": None},
    "batches": {"batches": 5, "batch_size": 4, "out": None},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_export_stands_in_nobody_s_way(small_store: Store, tmp_path: Path, kind: str) -> None:
    jobs.create(small_store, "mix")
    small_store.close()
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(KINDS[kind]), "4"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert told and all(killed == -9 for _, killed, *_ in told)
    assert any(left for _, _, left, *_ in told)  # else nothing was in the way
    assert all(same and swept for *_, same, swept in told), told


def test_what_others_are_at_is_left_alone(tmp_path: Path) -> None:
    with whole.scratch_in(tmp_path) as one:
        os.utime(one, (0, 0))
        with whole.scratch_in(tmp_path):
            assert one.is_dir()
    (dead := tmp_path / ".writing-x").mkdir()
    filelock.FileLock(dead / whole.LOCK).acquire()  # and released at once, as by a kill
    (begun := tmp_path / ".writing-begun").mkdir()
    (other := tmp_path / ".writing-of-another-kind").mkdir()
    (other / "weights").touch()
    (file := tmp_path / ".writing-file").touch()
    for path in (dead, begun, other, file):
        os.utime(path, (0, 0))
    with whole.new_file(tmp_path / "a.txt") as scratch:
        scratch.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([other, file, tmp_path / "a.txt"])


def test_a_file_that_fails_half_way_leaves_the_one_that_was(tmp_path: Path) -> None:
    (file := tmp_path / "a.txt").write_text("old")
    (link := tmp_path / "link").symlink_to(file)
    with pytest.raises(ZeroDivisionError), whole.new_file(file) as scratch:
        scratch.write_text("half")
        1 / 0  # noqa: B018
    assert (file.read_text(), len(list(tmp_path.iterdir()))) == ("old", 2)
    with whole.new_file(link) as scratch:
        scratch.write_text("new")
    assert (file.read_text(), link.is_symlink()) == ("new", True)
    with pytest.raises(UsageError, match="there is no folder"), whole.new_file(tmp_path / "none" / "a.txt"):
        raise AssertionError


def test_a_device_is_written_itself() -> None:
    with whole.new_file(Path(os.devnull)) as scratch:
        assert scratch == Path(os.devnull)

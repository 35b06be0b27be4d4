"""A disk that is full: what reads goes on, what writes says which folder it is, and nothing is lost. On a real one, in
memory, where the machine lets us make it."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixture import Store, StoreError, jobs
from mixture.console.space import no_room

pytestmark = pytest.mark.folder
# On a disk of its own: copies the store there, fills it, runs commands, and makes room.
PROGRAM = """
import json, shutil, subprocess, sys
from pathlib import Path
from cli import app
source, disk = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
print("mounted", flush=True)
shutil.copytree(source, disk / "store")
for file in (disk / "store").glob("catalog.sqlite-*"):
    file.unlink()

def run(*words):
    done = subprocess.run([sys.executable, "-m", "mixture", *words, "--store", str(disk / "store"), "--json"],
                          capture_output=True, text=True, cwd=disk)
    print(json.dumps([words[0], done.returncode, done.stdout, done.stderr]), flush=True)

def fill():
    with (disk / "fill").open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass

for words in json.loads(sys.argv[3]):
    fill()
    run(*words)
(disk / "fill").unlink()
for words in json.loads(sys.argv[3]):
    run(*words)
print(json.dumps(sorted(file.name for file in disk.rglob("*") if file.name.startswith(".writing-"))))
"""
READ = (["list"], ["show", "mix"], ["sql", "SELECT count(*) AS n FROM examples"])
WRITE = (
    ["create", "other", "--temperature", "2"],
    ["export", "mix", "--hf-dataset", "out"],
    ["export", "mix", "--batches", "3", "--out", "batches.jsonl"],
    ["report", "mix", "--out", "report.html"],
)


def test_on_a_full_disk_one_reads_and_is_told_which_folder_it_is(small_store: Store, tmp_path: Path) -> None:
    jobs.create(small_store, "mix")
    small_store.close()
    (disk := tmp_path / "disk").mkdir()
    inner = [sys.executable, "-c", PROGRAM, str(small_store.work), str(disk), json.dumps([*READ, *WRITE])]
    try:
        ended = subprocess.run(["unshare", "-rm", *inner], capture_output=True, text=True, timeout=600)
    except FileNotFoundError:
        pytest.skip("this machine has no unshare")
    if "mounted" not in ended.stdout:
        pytest.skip("this machine lets us mount nothing")
    assert ended.returncode == 0, ended.stderr
    _, *told, left = ended.stdout.splitlines()
    runs = [json.loads(line) for line in told]
    full, later = runs[: len(READ) + len(WRITE)], runs[len(READ) + len(WRITE) :]
    for command, code, _, said in full[: len(READ)]:
        assert code == 0, (command, said)
    for command, code, _, said in full[len(READ) :]:
        assert code == 1, (command, said)
        (line,) = [line for line in said.splitlines() if line.startswith("mixture: ")]
        assert line.startswith(f"mixture: no space is left in {disk}"), line
        assert "; make room: " in line
    assert [code for _, code, *_ in later] == [0] * len(later), later
    assert json.loads(left) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        StoreError("the store refused a write: database or disk is full"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
    ids=str,
)
def test_it_is_known_whatever_says_so(error: Exception, tmp_path: Path) -> None:
    outer = RuntimeError("something else")
    outer.__cause__ = error
    assert no_room(error, []) is not None
    assert no_room(outer, [f"--out={tmp_path / 'a' / 'b'}"]) is not None
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "not" / "there"))
    assert no_room(named, ["x" * 5000]) == str(tmp_path)
    assert no_room(OSError(errno.EACCES, "Permission denied"), []) is None

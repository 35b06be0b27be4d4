"""A command that is killed when its transaction is committed, before it answered: called again, it says that it is
done."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mixture import Store, UsageError, jobs

# Runs `undo` on the store in `folder`; the process kills itself after the commit.
KILLED = """
import os, sys
from mixture import Store, jobs
real = Store.transaction
def then_killed(self, work):
    real(self, work)
    os.kill(os.getpid(), 9)
with Store.open(sys.argv[1]) as store:
    Store.transaction = then_killed
    {undo}
"""
# What is done, and how it is undone.
UNDONE = {
    "dedup": ("jobs.dedup(store, across=True)", "jobs.undo(store, 'dedup')"),
    "forget": ("jobs.forget(store, 'easy', apply=True)", "jobs.forget(store, undo=True)"),
    "mine": ("jobs.mine(store, ['easy'], replace=True)", "jobs.undo_mining(store)"),
    "remove": ("jobs.remove(store, 'easy')", "jobs.remove(store, undo=True)"),
    "rename": ("jobs.rename(store, 'easy', 'simple')", "jobs.rename(store, undo=True)"),
}
CONTENT = """SELECT collection, example_id, query, passage_id
             FROM examples JOIN negatives USING (collection, example_id) ORDER BY ALL"""


@pytest.mark.parametrize("command", UNDONE)
def test_an_undo_that_was_killed_after_its_commit_is_done(small_store: Store, tmp_path: Path, command: str) -> None:
    do, undo = UNDONE[command]
    if command == "dedup":
        jobs.ingest(small_store, str(tmp_path / "raw" / "easy.jsonl"), name="again")
    before = small_store.read(CONTENT)
    here = {"jobs": jobs, "store": small_store}
    eval(do, here)
    assert small_store.read(CONTENT) != before
    small_store.close()
    killed = subprocess.run([sys.executable, "-c", KILLED.format(undo=undo), str(small_store.work)], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert small_store.read(CONTENT) == before
    with pytest.raises(UsageError, match=r"^nothing to .* already$"):
        eval(undo, here)

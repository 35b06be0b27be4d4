"""Does the cells of a study, as one of several processes: each cell is locked while it is worked on, and a lock goes
with its process. What a process of another machine does on the same folder counts as well."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import filelock
import psutil

from mixture.errors import MixtureError
from study.cells import Cell, Study, training
from trainers.loop.stopping import Stopped

WAIT_SECONDS = 2.0
MOST_BYTES = 4e9


def wanted(study: Study, students: Sequence[str], mixtures: Sequence[str]) -> list[Cell]:
    """The cells of these students and mixtures (all, if none is named) and what these need, in the study's order."""
    names: set[str] = set()

    def add(name: str) -> None:
        if name not in names:
            names.add(name)
            for one in study.cells[name].needs:
                add(one)

    for student in study.recipe.students.values():
        for mixture in study.recipe.trained(student):
            if (not students or student.name in students) and (not mixtures or mixture.name in mixtures):
                if f"start {student.name}" in study.cells:
                    add(f"start {student.name}")
                for seed in range(student.seeds):
                    add(training(student.name, mixture.name, seed))
    for name in mixtures:
        if not study.recipe.mixtures[name].trained and not students:
            add(f"mixture {name}")
    if not students and not mixtures:
        names.update(study.cells)  # with the mixtures of which only the weights are of interest
    return [cell for cell in study.cells.values() if cell.name in names]


def work(study: Study, cells: Sequence[Cell]) -> int:
    """Until all are done, by this process or by others; returns how many could not be done.

    A process that has grown begins anew: what a training leaves in memory is not given back for good.
    """
    failed: set[str] = set()
    while left := [cell for cell in cells if not study.is_done(cell.name) and not _hopeless(study, cell, failed)]:
        if not any(_tried(study, cell, len(cells) - len(left) + 1, len(cells), failed) for cell in left):
            time.sleep(WAIT_SECONDS)  # all that can be done is being done
        elif psutil.Process().memory_info().rss > MOST_BYTES and not failed:
            os.execv(sys.executable, [sys.executable, *sys.argv])
    return len(failed)


def _hopeless(study: Study, cell: Cell, failed: set[str]) -> bool:
    return cell.name in failed or any(_hopeless(study, study.cells[name], failed) for name in cell.needs)


def _tried(study: Study, cell: Cell, number: int, total: int, failed: set[str]) -> bool:
    """Whether this process did the cell, or failed to."""
    if not all(map(study.is_done, cell.needs)):
        return False
    file = study.work / "locks" / f"{cell.name.replace(' ', '-')}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(file, blocking=False):
            if study.is_done(cell.name):
                return False
            found = study.run(cell)
    except filelock.Timeout:
        return False
    except Stopped:
        raise
    except MixtureError as error:
        failed.add(cell.name)
        print(f"{cell.name}: error: {error}", file=sys.stderr, flush=True)
        return True
    print(f"{number} of {total}: {cell.name}, {found['seconds']} s", file=sys.stderr, flush=True)
    return True


def spread(arguments: Sequence[str], jobs: int) -> int:
    """Runs this command as so many processes, which share the processor's cores. Returns how many failed."""
    command = [sys.executable, str(Path(__file__).resolve().parent), *arguments, "--worker"]
    processes = [subprocess.Popen(command) for _ in range(jobs)]
    try:
        return sum(process.wait() != 0 for process in processes)
    except BaseException:
        for process in processes:
            process.terminate()
        raise

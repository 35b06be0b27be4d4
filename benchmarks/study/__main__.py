"""What learned mixtures bring, on real collections.

    python benchmarks/study [--quick] [--data DIR] [--work DIR] [--jobs 2]

Ingests, dedups, decontaminates and mines the collections of DIR/raw, makes the mixtures of the recipe, trains each
student on each with several seeds, scores the halves of the suites of DIR/eval that no learner saw, and writes the
tables. `--quick` is a part that takes minutes. Killed and run again with the same --work, it goes on where it was; run
beside itself, on this machine or on others that share the folder, it shares the work (several machines need
`--store`, a store in PostgreSQL and S3).

`--again NAME` does one training again, and says whether it gives the same numbers. `--list` names the cells.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.cells import Cell

if not __package__:  # `python benchmarks/study` has this folder on the path, not the one that holds it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

HERE = Path(__file__).resolve().parent


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXTURE_REAL_DATA") or "../shared/data")
    parser.add_argument("--work", type=Path, help="results so far; default: runs/study, or runs/study-quick")
    parser.add_argument("--recipe", type=Path, default=HERE / "full.toml", help="a TOML file; default: full.toml")
    parser.add_argument("--quick", action="store_true", help="the recipe quick.toml")
    parser.add_argument("--student", action="append", default=[], help="only of this student; may be given again")
    parser.add_argument("--mixture", action="append", default=[], help="only on this mixture; may be given again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default: one a core")
    parser.add_argument("--store", help="a store; default: a folder in WORK")
    parser.add_argument("--again", metavar="CELL", help="do this training again, and compare")
    parser.add_argument("--list", action="store_true", help="name the cells, and which are done")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # one of several processes
    parser.add_argument("--tables", action="store_true", help="only write the tables of what is done")
    parser.add_argument("--record", action="store_true", help="put the numbers into docs/study.md")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error(f"--jobs is {given.jobs}; at least 1")
    return given


def main() -> int:
    given = options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // given.jobs)))  # PyTorch looks once

    from mixture.errors import MixtureError, unknown_name
    from study import cells, recipe, tables, worker

    try:
        plan = recipe.read(HERE / "quick.toml" if given.quick else given.recipe)
        given.work = given.work or Path("runs") / ("study" if plan.name == "full" else f"study-{plan.name}")
        recipe.known("student", given.student, plan.students)
        recipe.known("mixture", given.mixture, plan.mixtures)
        study = cells.Study(plan, given.data, given.work, given.store)
        chosen = worker.wanted(study, given.student, given.mixture)
        if given.list:
            for cell in chosen:
                print("done" if study.is_done(cell.name) else "    ", cell.name)
            return 0
        if given.again:
            if given.again not in study.cells or not given.again.startswith("train "):
                trained = [name for name in study.cells if name.startswith("train ")]
                raise unknown_name("training", given.again, trained)
            models = given.work / "again"
            shutil.rmtree(models, ignore_errors=True)  # a finished training there would be found, and not done again
            twin = cells.Study(plan, given.data, given.work, given.store, models)
            return again(study.result(given.again), twin.cells[given.again])
        if given.worker:
            return int(worker.work(study, chosen) > 0)
        if not given.tables and (failed := worker.spread(sys.argv[1:], given.jobs)):
            print(f"{failed} of {given.jobs} processes could not do all; the same command goes on", file=sys.stderr)
            return 1
        tables.write(study, record=given.record)
    except MixtureError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def again(first: dict[str, Any] | None, cell: Cell) -> int:
    """Does a training a second time, and compares its numbers with those of the first."""
    from study.cells import digest

    if first is None:
        print(f"{cell.name} is not done yet", file=sys.stderr)
        return 2
    found = cell.work()
    same = digest(found) == digest(first)
    print(f"{cell.name}: {'the same numbers' if same else 'OTHER NUMBERS'}, {digest(first)} and {digest(found)}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

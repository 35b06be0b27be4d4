"""`python -m mixture` and, through `retrieval_mixture.py`, the script `mixture`: the command line, from any folder.

The package's top-level names are common ones. A user's own `cli.py`, `trainers.py` or folder `datacards` may lie in the
working folder or on PYTHONPATH, so these names are looked for beside this package first. Each process that torchrun
starts comes through here. Where `mixture` itself is a user's, `python -m mixture` is theirs, and the script still ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

HOME = str(Path(__file__).resolve().parents[1])
NAMES = frozenset({"cli", "datacards", "mixture", "trainers"})


class OwnNames:
    """A finder that finds the top-level names of this distribution where it is installed, whatever else has them."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [HOME]) if name in NAMES else None


def leave_working_folder(path: list[str], folder: str) -> None:
    """Take away the working folder that `python -m` puts first: a user's `datasets.py` there is nobody's library."""
    if not getattr(sys.flags, "safe_path", False) and path and path[0] == folder and folder != HOME:
        del path[0]


def main() -> None:
    """Run the command line. Ctrl-C and other requests to end while it loads are answered as plainly as later."""
    stopping = import_module("mixture.console.stopping")
    request = stopping.Request()
    try:
        with stopping.requests_end("stopped") as request:
            app = import_module("cli").app
        app()
    except KeyboardInterrupt:
        sys.stderr.write("mixture: stopped\n")
        sys.exit(request.exit_code)


sys.meta_path.insert(0, OwnNames)

if __name__ == "__main__":
    leave_working_folder(sys.path, str(Path.cwd()))
    main()

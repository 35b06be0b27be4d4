"""Compiled kernels and their caches."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

SCRIPT = """
from mixture.text.kernels import compiled
@compiled
def twice(number):
    return 2 * number
print(twice(21))
"""


def test_the_cache_of_an_older_version_is_no_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> str:
        done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr[-500:]

    assert run() == "42\n"
    (index,) = tmp_path.rglob("*.nbi")
    # An index starts with numba's version; what follows names a class of a module that is gone.
    version = pickle.loads(index.read_bytes())
    broken = pickle.dumps(version) + b"cmixture.gone\nTables\n."
    index.write_bytes(broken)
    assert run() == "42\n"
    assert index.read_bytes() != broken

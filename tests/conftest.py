"""Fixtures that more than one part of the tests needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real collections (raw/, eval/, corrupt/, ...), from $MIXTURE_REAL_DATA or ../shared/data."""
    folder = Path(os.environ.get("MIXTURE_REAL_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "raw").is_dir():
        pytest.skip(f"no real data in {folder}; point MIXTURE_REAL_DATA at the folder that holds raw/")
    return folder

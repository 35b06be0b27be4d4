"""Fixtures that more than one part of the tests needs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

# Before anything imports the hub's client, which reads it once: no test waits for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tensors of the tests are tiny: a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

if TYPE_CHECKING:  # not every machine that runs tests has duckdb
    from mixture import Store

# A busy machine is no failure.
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")

REPOSITORY = Path(__file__).resolve().parents[1]
WORDS = [
    a + b for a in ("ba", "ke", "lo", "mu", "ri", "sta", "tor", "vel") for b in ("dan", "fis", "gor", "lim", "nat")
]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real collections (raw/, eval/, corrupt/, ...), from $MIXTURE_REAL_DATA or ../shared/data."""
    folder = Path(os.environ.get("MIXTURE_REAL_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "raw").is_dir():
        pytest.skip(f"no real data in {folder}; point MIXTURE_REAL_DATA at the folder that holds raw/")
    return folder


@pytest.fixture(scope="session")
def words() -> list[str]:
    """The words of the test collections, which the tiny model's tokenizer knows."""
    return WORDS


def _words(random: Random, count: int) -> str:
    return " ".join(random.choices(WORDS, k=count))


@pytest.fixture(scope="session")
def write_collection() -> Callable[..., Path]:
    """`write_collection(folder, name, rows=40, seed=0, hard=3)`: a JSON lines file of query, pos, neg; its path."""

    def write(folder: Path, name: str, rows: int = 40, seed: int = 0, hard: int = 3) -> Path:
        random = Random(f"{name} {seed}")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.jsonl"
        with file.open("w", encoding="utf-8") as stream:
            for _ in range(rows):
                query = random.sample(WORDS, 6)
                positive = " ".join(query[hard:]) + " " + _words(random, 5)
                negatives = [_words(random, 8) for _ in range(4)]
                row = {"query": " ".join(query), "pos": [positive], "neg": negatives}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return file

    return write


@pytest.fixture(scope="session")
def small_store_made_once(tmp_path_factory: pytest.TempPathFactory, write_collection: Callable[..., Path]) -> Path:
    """The folder that `small_store` copies: raw/ and store/."""
    from mixture import Store, jobs

    folder = tmp_path_factory.mktemp("small")
    for name, hard in (("easy", 0), ("middle", 3), ("hard", 6)):
        write_collection(folder / "raw", name, hard=hard)
    with Store.open(folder / "store", create=True) as store:
        jobs.ingest(store, [str(folder / "raw" / f"{name}.jsonl") for name in ("easy", "middle", "hard")])
    (folder / "raw").rename(folder / "moved")  # a copy would be another file to the store
    return folder


@pytest.fixture
def small_store(tmp_path: Path, small_store_made_once: Path) -> Iterator[Store]:
    """A store of three collections of 40 examples with negatives: easy, middle, hard."""
    from mixture import Store

    shutil.copytree(small_store_made_once, tmp_path, dirs_exist_ok=True)
    (tmp_path / "moved").rename(tmp_path / "raw")
    with Store.open(tmp_path / "store") as store:
        yield store

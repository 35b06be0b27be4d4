"""Fixtures that more than one part of the tests needs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

# Before anything imports the hub's client, which reads it once: no test waits for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tensors of the tests are tiny: a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

if TYPE_CHECKING:  # not every machine that runs tests has duckdb
    from mixture import Store

# A shell starts what it runs in the background with the interrupt ignored, nohup with SIGHUP; children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is no failure.
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")

REPOSITORY = Path(__file__).resolve().parents[1]
# Set to postgres, stores in folders have their catalogs in PostgreSQL and their files on S3 (`make test-cluster`).
ON_POSTGRES = os.environ.get("MIXTURE_TEST_STORE") == "postgres"
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


def _started(kind: str) -> Any:
    """A server of benchmarks/servers.py; where the machine lacks it, the test is skipped."""
    servers = sys.modules.get("servers") or _servers()
    try:
        return getattr(servers, kind)()
    except servers.Missing as error:
        pytest.skip(str(error))


def _servers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("servers", REPOSITORY / "benchmarks" / "servers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["servers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of this session's own (`servers.Postgres`)."""
    server = _started("Postgres")
    yield server
    server.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """An S3 server of this session's own (`servers.S3`), reached as the environment says."""
    server = _started("S3")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.close()


@pytest.fixture(scope="session", autouse=ON_POSTGRES)
def folders_on_postgres(request: pytest.FixtureRequest) -> Iterator[None]:
    """A store in a folder is on the servers, in this process and in those that it starts."""
    postgres = request.getfixturevalue("postgres")
    request.getfixturevalue("s3")
    place = str(REPOSITORY / "tests" / "cluster" / "on_postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXTURE_TEST_POSTGRES", postgres.name)
        patch.setenv("MIXTURE_TEST_BUCKET", "lake")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")])))
        patch.syspath_prepend(place)
        from mixture.store.catalog import CATALOGS

        patch.setitem(CATALOGS, "", "folder_on_postgres:FolderOnPostgres")
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of what is in a store's own folder have no meaning where it is elsewhere."""
    for item in items if ON_POSTGRES else ():
        if item.get_closest_marker("folder"):
            item.add_marker(pytest.mark.skip(reason="looks into the folder of a store in a folder"))


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

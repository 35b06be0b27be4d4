"""The demo with its store in PostgreSQL and on S3: the same mixtures, weights and scores as with one in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLACE = Path(__file__).parent / "on_postgres"
ROOT = PLACE.parents[2]
QUERIES = (
    "SELECT name, version, mixture FROM mixtures ORDER BY ALL",
    "SELECT mixture, collection, digest, weight FROM mixture_weights ORDER BY ALL",
    "SELECT suite, metric, mixture, step, value, num_queries FROM evaluations ORDER BY ALL",
    "SELECT collection, example_id, reason, kept_id FROM removals ORDER BY ALL",
    "SELECT collection, example_id, passage_id, miner, score FROM negatives ORDER BY ALL",
    "SELECT step, collection, weight, proxy_loss FROM weight_history ORDER BY ALL",
)


@pytest.mark.slow
def test_the_demo_gives_the_same_on_both(postgres: Any, s3: Any, tmp_path: Path) -> None:
    # Paths that lead to the same names of models: each runs in a folder of its own.
    servers = {"MIXTURE_TEST_POSTGRES": postgres.name, "MIXTURE_TEST_BUCKET": "lake"}
    found: dict[str, list[Any]] = {}
    for name, more in (("folder", {}), ("servers", servers)):
        (tmp_path / name).mkdir()
        environment = os.environ | more | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([str(PLACE)] if more else [])])}
        words = [sys.executable, "-m", "mixture"]
        options: dict[str, Any] = {"cwd": tmp_path / name, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run([*words, "demo"], **options)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        found[name] = []
        for query in QUERIES:
            said = subprocess.run([*words, "--store", "demo-run/store", "sql", query, "--json"], **options)
            assert said.returncode == 0, said.stderr
            found[name].append(json.loads(said.stdout))
    assert (tmp_path / "servers" / "demo-run" / "store" / "on-postgres").is_file()
    assert not (tmp_path / "servers" / "demo-run" / "store" / "catalog.sqlite").exists()
    assert all(found["folder"]) and found["folder"] == found["servers"]

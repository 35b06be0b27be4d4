"""The lines of docs/cluster.md, on a port of our own: a store on PostgreSQL and an S3 server, from nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from mixture import Store

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text("utf-8")


def test_the_guide(postgres: Any, s3: Any, tmp_path: Path, write_collection: Callable[..., Path]) -> None:
    """All but the S3 server's own lines, in whose place the other tests' server is asked."""
    from servers import free_port  # type: ignore[import-not-found]  # of benchmarks/, loaded by the fixtures

    (block,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = re.findall(r"^\$ (.+)$", block, re.MULTILINE)
    folder = postgres.folder / "guide"
    folder.mkdir()
    write_collection(folder / "raw", "easy")
    if postgres.user:
        shutil.chown(folder, postgres.user)
    programs = os.pathsep.join([str(postgres.bin), str(Path(sys.executable).parent), os.environ["PATH"]])
    known = {"PATH": programs, "HOME": str(tmp_path), "MIXTURE_CACHE": str(tmp_path / "cache")} | s3.environment
    port, head, ran = str(free_port()), _head(free_port), []
    try:
        for line in lines:
            if "weed" in line or "AWS_" in line:
                continue
            line = line.replace("5499", port).replace("6399", head)
            if line.startswith("export "):
                known |= dict(pair.split("=", 1) for pair in shlex.split(line)[1:])
                continue
            server = postgres.user and line.split()[0] in ("initdb", "pg_ctl")
            with (tmp_path / "said").open("wb") as said:  # a pipe would stay open as long as PostgreSQL runs
                done = subprocess.run(["bash", "-c", line], cwd=folder, env=known, timeout=120,
                                      stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                                      **({"user": postgres.user, "extra_groups": []} if server else {}))  # fmt: skip
            assert done.returncode == 0, (line, (tmp_path / "said").read_text())
            ran.append(line.split()[0])
        assert ran == ["initdb", "pg_ctl", "createdb", *["mixture"] * 3, "ray", "ray", "mixture"]
        with Store.open(known["MIXTURE_STORE"]) as store:
            assert store.sql("SELECT name FROM mixtures").to_pylist() == [{"name": "uniform"}]
            assert store.sql("SELECT count(*) AS n FROM examples").to_pylist() == [{"n": 40}]
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if f"127.0.0.2:{head}" in " ".join(process.info["cmdline"] or []) or f"--gcs_server_port={head}" in (
                process.info["cmdline"] or []
            ):
                process.kill()
        pid = folder / "pg" / "postmaster.pid"
        if pid.exists():
            os.kill(int(pid.read_text().split()[0]), signal.SIGINT)


def _head(free_port: Callable[[], int]) -> str:
    """A port outside of those that Ray takes for its workers."""
    while 10_000 < (port := free_port()) < 20_000:
        pass
    return str(port)

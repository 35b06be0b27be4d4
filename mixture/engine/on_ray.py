"""Tasks on a Ray cluster: one processor each, wherever it is free.

`ray` starts a cluster of this machine for as long as the process lives; `ray:ADDRESS` joins one that was started with
`ray start`, on one of its machines. They have this package, reach the store by the same name and with keys of their
own: nothing of the environment here, which may hold secrets, is sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mixture.engine.base import ENGINES, Item, Result
from mixture.engine.threads import limit_threads
from mixture.errors import MixtureError, UsageError

# Where Ray finds the token that the machines of a cluster and its users share.
TOKENS = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
TOKEN_FILE = Path("~/.ray/auth_token")
RESTARTS, RETRIES = 4, 3  # of what holds a model, and of the work that it was at
READY_SECONDS = 600


@dataclass(frozen=True)
class Ray:
    """Ray's tasks and actors. address: of the cluster's head, HOST:PORT; None for one of this machine."""

    address: str | None = None

    def at(self, address: str) -> Ray:
        return Ray(address)

    def machines(self) -> int:
        return len({node["NodeManagerHostname"] for node in self._connected().nodes() if node["Alive"]})

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """One item is worked on here: what a task splits into parts travels, not the task."""
        items = iter(items)
        few = list(islice(items, 2))
        if len(few) < 2:
            yield from map(work, few)
            return
        ray = self._connected()
        task, sent = ray.remote(num_cpus=1)(_run), ray.put(_Work(work))
        ahead = int(ray.cluster_resources().get("CPU", 1)) + 1  # so that nobody waits, and few results do
        waiting: deque[Any] = deque()
        try:
            for item in chain(few, items):
                waiting.append(task.remote(sent, item))
                if len(waiting) > ahead:
                    yield _result(ray, waiting)
            while waiting:
                yield _result(ray, waiting)
        finally:  # of an error, or of a caller that wants no more
            for left in waiting:  # by force, Ray aborts this process where a task ends at that moment
                ray.cancel(left)

    def holders(
        self, make: Callable[[], Callable[[Item], Result]], count: int
    ) -> Callable[[Iterable[Item]], Iterator[Result]]:  # fmt: skip
        """A GPU each where the cluster has some, else the processors of a machine, shared by those that are on it."""
        ray = self._connected()
        from ray.exceptions import GetTimeoutError
        from ray.util.actor_pool import ActorPool

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = ray.cluster_resources().get("GPU", 0)
        if gpus and count > gpus:
            raise UsageError(f"`processes` is {count}; the cluster has {gpus:g} GPUs")
        working = [node["CPU"] for node in nodes if node.get("CPU")] or [1]
        threads = max(1, int(min(working)) // -(-count // len(working)))
        kind = ray.remote(
            num_cpus=0, num_gpus=1 if gpus else 0, scheduling_strategy="SPREAD", max_restarts=RESTARTS,
            max_task_retries=RETRIES,
        )(_Holder)  # fmt: skip
        actors = [kind.remote(_Work(make), threads) for _ in range(count)]
        with _plainly():
            try:
                ray.get([actor.ready.remote() for actor in actors], timeout=READY_SECONDS)
            except GetTimeoutError as error:
                raise MixtureError(f"the cluster had no {count} copies of the model in {READY_SECONDS} s; is there "
                                   "room for them?") from error  # fmt: skip

        def each(items: Iterable[Item]) -> Iterator[Result]:
            with _plainly():  # a new pool: what an earlier call left unfinished is not this one's
                yield from ActorPool(actors).map(lambda actor, item: actor.work.remote(item), list(items))

        return each

    def _connected(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of tasks that nobody waits for any more
        if os.environ.keys() & TOKENS or TOKEN_FILE.expanduser().is_file():  # read when Ray is loaded
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ImportError as error:
            raise UsageError("the engine ray needs the package ray; pip install 'retrieval-mixture[ray]'") from error
        if ray.is_initialized():
            self._check_joined(ray.get_runtime_context())
            return ray
        where: dict[str, Any] = {"address": self.address or "local"} | (
            {} if self.address else {"include_dashboard": False}
        )
        host = (self.address or "").rpartition(":")[0]
        if host.startswith("127."):  # Ray takes a machine's own address for it, and finds no node of that
            where["_node_ip_address"] = host
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **where)
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = f"no Ray cluster at {self.address}" if self.address else "no Ray cluster can be started here"
            raise UsageError(f"{what}: {_last_line(error)}") from error
        global _joined
        _joined = self.address, ray.get_runtime_context().gcs_address
        return ray

    def _check_joined(self, context: Any) -> None:
        """Ray has a process on one cluster, which a task that calls `map` is on already."""
        if self.address is None or context.get_task_id() is not None or _joined == (self.address, context.gcs_address):
            return
        host, _, port = self.address.rpartition(":")
        if context.gcs_address not in (self.address, f"{_number(host)}:{port}"):
            raise UsageError(f"`engine` is 'ray:{self.address}', and this process is on the cluster "
                             f"{context.gcs_address} already")  # fmt: skip


_joined: tuple[str | None, str] | None = None
"""By what name this process joined a cluster, and what Ray calls it: localhost is something else to it."""


class _Work:
    """A function inside of an object that Ray takes as it is, and whose copy a process keeps."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


def _run(work: _Work, item: Any) -> Any:
    limit_threads(1)
    return work.call(item)


class _Holder:
    """An error of `make` is kept for the first call, which says it as it is."""

    def __init__(self, make: _Work, threads: int) -> None:
        limit_threads(threads)
        self._call: Callable[[Any], Any] | None = None
        self._error: Exception | None = None
        try:
            self._call = make.call()
        except Exception as error:
            self._error = error

    def ready(self) -> None:
        if self._error is not None:
            raise self._error

    def work(self, item: Any) -> Any:
        self.ready()
        assert self._call is not None
        return self._call(item)


def _result(ray: Any, waiting: deque[Any]) -> Any:
    with _plainly():
        found = ray.get(waiting[0])
    waiting.popleft()
    return found


@contextmanager
def _plainly() -> Iterator[None]:
    """An error of a task as it was there; a lost process, after Ray has tried again, as one line."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, Exception) and not isinstance(error.cause, RayError):
            raise error.cause from None
        raise MixtureError(f"a machine of the Ray cluster cannot load the task ({_last_line(error)}); has it this "
                           "package, in the same version?") from error  # fmt: skip
    except RayError as error:
        raise MixtureError(f"a process on the Ray cluster ended before its time, after {RETRIES} more tries; its "
                           f"memory may not suffice ({_last_line(error)})") from error  # fmt: skip


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _number(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host


ENGINES["ray"] = Ray()

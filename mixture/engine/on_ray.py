"""Tasks on a Ray cluster: one processor each, wherever it is free.

`ray` starts a cluster of this machine for as long as the process lives; `ray:ADDRESS` joins one that was started with
`ray start`. Its machines have this package, reach the store by the same name and with keys of their own: nothing of the
environment here, which may hold secrets, is sent.
"""

from __future__ import annotations

import logging
import os
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


@dataclass(frozen=True)
class Ray:
    """Ray's tasks and actors. address: of the cluster's head, HOST:PORT; None for one of this machine."""

    address: str | None = None

    def at(self, address: str) -> Ray:
        return Ray(address)

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
                    yield _result(ray, waiting.popleft())
            while waiting:
                yield _result(ray, waiting.popleft())
        finally:  # of an error, or of a caller that wants no more
            for task in waiting:
                ray.cancel(task, force=True)

    def holders(
        self, make: Callable[[], Callable[[Item], Result]], count: int
    ) -> Callable[[Iterable[Item]], Iterator[Result]]:  # fmt: skip
        """A GPU each where the cluster has some, else the processors of a machine, shared by those that are on it."""
        ray = self._connected()
        from ray.util.actor_pool import ActorPool

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0) for node in nodes)
        if gpus and count > gpus:
            raise UsageError(f"`processes` is {count}; the cluster has {gpus:g} GPUs")
        threads = max(1, int(min(node.get("CPU", 1) for node in nodes)) // -(-count // len(nodes)))
        kind = ray.remote(
            num_cpus=0, num_gpus=1 if gpus else 0, scheduling_strategy="SPREAD", max_restarts=-1, max_task_retries=-1
        )(_Holder)
        pool = ActorPool([kind.remote(_Work(make), threads) for _ in range(count)])

        def each(items: Iterable[Item]) -> Iterator[Result]:
            with _plainly():
                yield from pool.map(lambda actor, item: actor.work.remote(item), list(items))

        return each

    def _connected(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if os.environ.keys() & TOKENS or TOKEN_FILE.expanduser().is_file():  # read when Ray is loaded
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ImportError as error:
            raise UsageError("the engine ray needs the package ray; pip install 'retrieval-mixture[ray]'") from error
        global _joined
        if ray.is_initialized():  # by an earlier call, by the caller, or in a task
            if _joined not in (None, self):
                raise UsageError(f"this process is on the Ray cluster {_joined.address or 'of this machine'} already")
            return ray
        given: dict[str, Any] = {"include_dashboard": False} if self.address is None else {"address": self.address}
        host = (self.address or "").rpartition(":")[0]
        if host.startswith("127."):  # Ray takes a machine's own address for it, and finds no node of that
            given["_node_ip_address"] = host
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **given)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = (
                "no Ray cluster can be started here" if self.address is None else f"no Ray cluster at {self.address}"
            )
            raise UsageError(f"{where}: {str(error).strip().splitlines()[0]}") from error
        _joined = self
        return ray


_joined: Ray | None = None  # by this process


class _Work:
    """A function inside of an object that Ray takes as it is, and whose copy a process keeps."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


def _run(work: _Work, item: Any) -> Any:
    limit_threads(1)
    return work.call(item)


class _Holder:
    def __init__(self, make: _Work, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when PyTorch is loaded
        limit_threads(threads)
        self._call = make.call()

    def work(self, item: Any) -> Any:
        return self._call(item)


def _result(ray: Any, task: Any) -> Any:
    with _plainly():
        return ray.get(task)


@contextmanager
def _plainly() -> Iterator[None]:
    """An error of a task as it was there; a lost process, after Ray has tried again, as one line."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise MixtureError(
            f"the Ray cluster lost a task: {str(error).strip().splitlines()[0]}; call it again"
        ) from error


ENGINES["ray"] = Ray()

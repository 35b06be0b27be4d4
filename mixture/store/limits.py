"""What one read-only query may use: seconds, memory, disk. DuckDB's own limits, and what they do not reach.

DuckDB's `memory_limit` covers its buffers, not the values that one function call makes: `range(200000000)` as a list
took 19.5 GB under a limit of 500 MB. While a query runs, the process's data segment is therefore held to what it has
plus the limit; DuckDB reports the refused allocation as an ordinary error.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixture.errors import UsageError

if sys.platform == "linux":
    import resource

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
SMALLEST_MEMORY = 100 * 10**6
# Threads, result batches and the interpreter itself grow too while a query runs.
PROCESS_SLACK_BYTES = 512 * 2**20
# Seconds that a function call in progress gets to notice the interrupt.
GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class Limits:
    """seconds: how long a query may run. memory_bytes: for DuckDB's buffers, and again for the result.

    exit_if_stuck: end the process when a single function call does not notice that its time is over. For the command
    line, which has nothing else to lose; a library call then ends late.
    """

    seconds: float = 60.0
    memory_bytes: int = 2 * 10**9
    exit_if_stuck: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 86_400:
            raise UsageError(f"a query's time limit is {self.seconds:g} s; allowed: above 0, up to 86400")
        if self.memory_bytes < SMALLEST_MEMORY:
            raise UsageError(f"a query's memory limit is {self.memory_bytes:,} bytes; allowed: 100MB or more")


def parse_bytes(text: str) -> int:
    """Bytes of "500MB", "2GB", "1.5 GB" (powers of ten).

    >>> parse_bytes("1.5GB")
    1500000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT]B)", text.strip().upper())
    if not found:
        raise UsageError(f"memory {text!r}; write a number with a unit, such as 500MB or 2GB")
    return int(float(found[1]) * UNITS[found[2]])


class Watchdog:
    """Interrupts what runs in its `with` block after `limits.seconds`; `.expired` says whether it did."""

    def __init__(self, interrupt: Callable[[], None], limits: Limits) -> None:
        self.expired = False
        self._interrupt = interrupt
        self._limits = limits
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="query-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        if self._done.wait(self._limits.seconds):
            return
        self.expired = True
        waited = 0.0
        # Repeated: an interrupt that comes between planning and running is forgotten.
        while not self._done.is_set():
            self._interrupt()
            if self._done.wait(0.1):
                return
            waited += 0.1
            if self._limits.exit_if_stuck and waited >= GRACE_SECONDS:
                sys.stderr.write(f"mixture: {too_slow(self._limits)}\n")
                sys.stderr.flush()
                os._exit(1)


def too_slow(limits: Limits) -> str:
    return f"the query was stopped after {limits.seconds:g} s; narrow it, or allow more time in `timeout`"


def too_big(limits: Limits) -> str:
    size = f"{limits.memory_bytes / 10**9:g} GB"
    return f"the query was stopped at {size} of memory; narrow it, add LIMIT, or allow more in `memory`"


_lock = threading.Lock()
_holders = 0
_before: tuple[int, int] = (-1, -1)


@contextlib.contextmanager
def held_memory(limits: Limits) -> Iterator[None]:
    """Keep the process from growing by more than the limit and some slack; on Linux only, elsewhere nothing is held.

    The bound is the process's: with queries in several threads the first one's holds until the last has ended.
    """
    if sys.platform != "linux":
        yield
        return
    global _holders, _before
    with _lock:
        if _holders == 0:
            _before = resource.getrlimit(resource.RLIMIT_DATA)
            wanted = _data_bytes() + limits.memory_bytes + PROCESS_SLACK_BYTES
            known = [bound for bound in (wanted, *_before) if bound != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min(known), _before[1]))
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                resource.setrlimit(resource.RLIMIT_DATA, _before)


def _data_bytes() -> int:
    """The kernel's count of this process's private writable memory, which RLIMIT_DATA is compared with."""
    fields = Path("/proc/self/statm").read_text("ascii").split()
    return int(fields[5]) * os.sysconf("SC_PAGE_SIZE")

"""Batches prepared in the background: while one is trained on, the next are read and tokenised."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from trainers.batch.texts import TextBatch

AHEAD = 2


class Feed:
    """The batches of steps `first` to `end` − 1, in order, as `prepare` makes them; `waited` is the last one's delay.

    One thread prepares: it runs while the device computes, and what it raises is raised here at its step. Use it as a
    context manager, which ends the thread.
    """

    def __init__(self, prepare: Callable[[int], TextBatch], first: int, end: int) -> None:
        self._prepare, self._steps = prepare, iter(range(first, end))
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._coming: deque[Future[TextBatch]] = deque()
        self.waited = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[TextBatch]:
        for _ in range(AHEAD):
            self._start()
        while self._coming:
            started = time.perf_counter()
            batch = self._coming.popleft().result()
            self.waited = time.perf_counter() - started
            self._start()
            yield batch

    def _start(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._coming.append(self._pool.submit(self._prepare, step))

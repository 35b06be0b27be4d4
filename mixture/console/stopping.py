"""Ctrl-C, SIGTERM and SIGHUP end a command soon and with one line, whatever it is doing.

Python's own way is an exception in the main thread. What runs there may lose it (DuckDB does, now and then), hang
after it, or turn it into an error of its own. Nothing that a command writes needs a clean end: writes are transactions,
and a killed command goes on. While a training runs its own handler is in place, which saves a checkpoint.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from mixture.errors import causes

# What a clean end may take, as long as the user does not ask again.
GRACE_SECONDS = 5.0


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass
class Request:
    """number: the signal that asked for an end; 0 for none"""

    number: int = 0

    @property
    def exit_code(self) -> int:
        return 128 + (self.number or signal.SIGINT)


@contextmanager
def requests_end(message: str) -> Iterator[Request]:
    """Within it such a signal raises KeyboardInterrupt; when that has not ended the block soon, or at the second one,
    the process ends with this message and exit code 130, 143 or 129. A signal that is ignored, as under nohup, or
    that somebody else answers is left alone."""
    request = Request()
    usual = (signal.SIG_DFL, signal.default_int_handler)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if main and signal.getsignal(number) in usual}
    over = False
    process = os.getpid()

    def end() -> None:
        os.write(2, f"mixture: {message}\n".encode())
        os._exit(request.exit_code)

    def end_soon() -> None:
        time.sleep(GRACE_SECONDS)
        if not over:
            end()

    def again(number: int) -> None:
        time.sleep(0.01)
        os.kill(process, number)

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # forked: it ends as it would have without us
            signal.signal(number, before[number])
            os.kill(os.getpid(), number)
            return
        # An exception within Python's import would leave its lock taken, and threads waiting for it.
        if frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            _thread.start_new_thread(again, (number,))
            return
        if request.number:
            end()
        request.number = number
        # Not threading's: the lock that it takes may be the one that was interrupted.
        _thread.start_new_thread(end_soon, ())
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, stop)
    try:
        yield request
    finally:
        over = True
        for number, handler in before.items():
            signal.signal(number, handler)


def is_ctrl_c(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is a Ctrl-C. DuckDB makes a RuntimeError of one that comes while it
    works, in whatever read or write that is."""
    return any(
        isinstance(one, KeyboardInterrupt) or (type(one) is RuntimeError and "interrupted" in str(one).lower())
        for one in causes(error)
    )

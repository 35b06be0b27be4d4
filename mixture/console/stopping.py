"""Ctrl-C ends a command soon and with one line, whatever it is doing.

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
from types import FrameType

# What a clean end may take, as long as the user does not ask again.
GRACE_SECONDS = 5.0


@contextmanager
def ctrl_c_ends(message: str) -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt; when that has not ended the block soon, or at the second Ctrl-C, the
    process ends with this message and exit code 130."""
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    asked = over = False

    def end() -> None:
        os.write(2, f"mixture: {message}\n".encode())
        os._exit(130)

    def end_soon() -> None:
        time.sleep(GRACE_SECONDS)
        if not over:
            end()

    def again() -> None:
        time.sleep(0.01)
        _thread.interrupt_main()

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        # An exception within Python's import would leave its lock taken, and threads waiting for it.
        if frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            _thread.start_new_thread(again, ())
            return
        if asked:
            end()
        asked = True
        # Not threading's: the lock that it takes may be the one that was interrupted.
        _thread.start_new_thread(end_soon, ())
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        over = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_ctrl_c(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is a Ctrl-C. DuckDB makes a RuntimeError of one that comes while it
    works, in whatever read or write that is."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        if type(error) is RuntimeError and "interrupted" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False

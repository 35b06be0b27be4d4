"""A stop on request: SIGTERM, SIGHUP, or Ctrl-C once, lets training finish its step and save a checkpoint; asked
again, it ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from mixture.errors import MixtureError
from trainers.deferred import Deferred
from trainers.parallel import ranks

if TYPE_CHECKING:
    import torch
else:
    torch = Deferred("torch")

HANGUP = getattr(signal, "SIGHUP", 0)  # which Windows lacks
SIGNALS = (signal.SIGTERM, signal.SIGINT, *((HANGUP,) if HANGUP else ()))
_asked: int = 0


class Stopped(MixtureError):
    """Training stopped because it was asked to; its checkpoint is saved. Exit code 128 and the
    signal's number: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"stopped at step {step}; the same command goes on")
        self.exit_code = 128 + number


@contextmanager
def on_request() -> Iterator[None]:
    """Inside, a first signal is only noted: `asked` tells of it. In a thread other than the main one, where
    Python takes no signals, nothing changes."""
    global _asked
    _asked = 0
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    if before.get(HANGUP) == signal.SIG_IGN:  # nohup
        del before[HANGUP]

    def note(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = number
        for known, handler in before.items():
            signal.signal(known, handler)

    for request in before:
        signal.signal(request, note)
    try:
        yield
    finally:
        _asked = 0
        for known, handler in before.items():
            signal.signal(known, handler)


def asked(device: torch.device) -> int:
    """The signal that asked for a stop, 0 for none; a collective, so that all ranks stop at the same step."""
    if ranks.state().num_processes == 1:
        return _asked
    number = torch.tensor(_asked, device=device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return int(number)


def stop(step: int, number: int) -> None:
    """End the run: the first rank with `Stopped`, whose line is shown, the others without a word."""
    if ranks.is_main():
        raise Stopped(step, number)
    raise SystemExit(128 + number)

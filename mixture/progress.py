"""How a long job says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (units done, units in all, what is being worked on); 0 in all: not known yet."""

Stage: TypeAlias = Callable[[str], Progress]
"""For jobs of several stages: names one, and gives its progress."""

EVERY = 30.0
# Lines of one job are at least so far apart: one that is done at once says nothing.
APART = 2.0


def silent(done: int, total: int, what: str) -> None:
    """No progress shown."""


def quiet(stage: str) -> Progress:
    """No stage shown."""
    return silent


class Lines:
    """Progress as lines of text, where no terminal draws bars: at each tenth, every `EVERY` seconds and at the end.

    What is said while the total is not known (0: a model is loaded) is a line at once.

    title: of the stage
    write: takes a line, without its line break
    unit:  what is counted, for the rate: "steps"
    clock: seconds
    """

    def __init__(
        self, title: str, write: Callable[[str], None], *, unit: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._write, self._unit, self._clock = title, write, unit, clock
        self._started = self._last = clock()
        self._tenth = 0
        self._said = ""
        self._first: tuple[int, float] | None = None  # where the counting began: a resumed job begins in the middle

    def __call__(self, done: int, total: int, what: str) -> None:
        now = self._clock()
        if total < 1:
            if what != self._said:
                self._said = what
                self._print(what, now)
            return
        if self._first is None:
            self._first = done, now
            self._tenth = 10 * done // total
            if done == total:  # nothing to count
                return
        tenth = 10 * done // total
        if now - self._last < (APART if tenth > self._tenth else EVERY):
            return
        self._tenth = tenth
        self._print(self._line(done, total, what, now), now)

    def _line(self, done: int, total: int, what: str, now: float) -> str:
        if total == 1 and not done:  # one file, one collection: how far it is only `what` can tell
            return f"{what}, {duration(now - self._started)} so far"
        rate = self._rate(done, now)
        parts = [" ".join(filter(None, (f"{done:,}/{total:,}", self._unit, f"({100 * done // total} %)"))), what]
        if rate:
            parts.append(f"{rate:.3g} {self._unit}/s" if self._unit else "")
            ahead = (total - done) / rate
            parts.append(f"{duration(ahead)} left" if done < total else f"{duration(now - self._started)} in all")
        return ", ".join(filter(None, parts))

    def _rate(self, done: int, now: float) -> float:
        first, began = self._first or (done, now)
        return (done - first) / (now - began) if now > began else 0.0

    def _print(self, line: str, now: float) -> None:
        self._last = now
        self._write(f"{self._title}: {line}")


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(4.2), duration(130), duration(7260)
    ('4 s', '2 min 10 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

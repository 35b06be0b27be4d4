"""How a long job says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with (units done, units in all, what is being worked on).
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None:
    """No progress shown."""

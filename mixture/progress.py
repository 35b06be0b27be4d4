"""How a long job says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (units done, units in all, what is being worked on)."""

Stage: TypeAlias = Callable[[str], Progress]
"""For jobs of several stages: names one, and gives its progress."""


def silent(done: int, total: int, what: str) -> None:
    """No progress shown."""


def quiet(stage: str) -> Progress:
    """No stage shown."""
    return silent

"""A module that is loaded when it is first used: torch takes seconds, and mistakes are said before."""

from __future__ import annotations

import importlib
from typing import Any


class Deferred:
    """Stands for the module `name`; the first attribute asked of it loads it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)

"""Where work runs: the engine runs the tasks of a job, `in_threads` the parts of one task."""

from __future__ import annotations

from mixture.engine import local as local
from mixture.engine.base import ENGINES, Engine, engine_of
from mixture.engine.threads import in_order, in_threads, num_threads

__all__ = ["ENGINES", "Engine", "engine_of", "in_order", "in_threads", "num_threads"]

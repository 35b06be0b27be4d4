"""Where work runs: the engine runs the tasks of a job, `in_threads` the parts of one task."""

from __future__ import annotations

from mixture.engine import local as local
from mixture.engine import on_ray as on_ray
from mixture.engine.base import ENGINES, Elsewhere, Engine, engine_of
from mixture.engine.local import LOCAL
from mixture.engine.threads import in_order, in_threads, limited, num_threads

__all__ = ["ENGINES", "LOCAL", "Elsewhere", "Engine", "engine_of", "in_order", "in_threads", "limited", "num_threads"]

"""The data side's jobs over a store. What the command line calls."""

from mixture.jobs.ingest import IngestResult, ingest
from mixture.jobs.mine import MiningResult, mine
from mixture.jobs.removal import RemovalResult, decontaminate, dedup, register_test_queries

__all__ = [
    "IngestResult",
    "MiningResult",
    "RemovalResult",
    "decontaminate",
    "dedup",
    "ingest",
    "mine",
    "register_test_queries",
]

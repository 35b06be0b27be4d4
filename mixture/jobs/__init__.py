"""The data side's jobs over a store. What the command line calls."""

from mixture.jobs.ingest import IngestResult, ingest
from mixture.jobs.mine import MiningResult, mine
from mixture.jobs.removal import (
    DUPLICATE,
    TEST_PASSAGE,
    TEST_QUERY,
    DedupSettings,
    RemovalResult,
    decontaminate,
    dedup,
    register_suites,
    undo,
)

__all__ = [
    "DUPLICATE",
    "TEST_PASSAGE",
    "TEST_QUERY",
    "DedupSettings",
    "IngestResult",
    "MiningResult",
    "RemovalResult",
    "decontaminate",
    "dedup",
    "ingest",
    "mine",
    "register_suites",
    "undo",
]

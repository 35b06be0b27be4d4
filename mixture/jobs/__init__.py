"""The data side's jobs over a store. What the command line calls."""

from mixture.jobs.decontaminate import decontaminate, register_suites
from mixture.jobs.dedup import dedup
from mixture.jobs.ingest import IngestResult, ingest
from mixture.jobs.mine import MiningResult, mine
from mixture.jobs.removals import DUPLICATE, TEST_PASSAGE, TEST_QUERY, RemovalResult, undo

__all__ = [
    "DUPLICATE",
    "TEST_PASSAGE",
    "TEST_QUERY",
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

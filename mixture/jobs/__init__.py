"""The data side's jobs over a store, one function a command, under the command's name. A mixture is given as it was
saved or by what names it; files and folders as str or Path; `progress` is called as the work goes on."""

from mixture.jobs.contamination import matches
from mixture.jobs.create import Sql, Temperature, UniMax, Weights, create, select
from mixture.jobs.decontaminate import decontaminate, forget
from mixture.jobs.dedup import dedup
from mixture.jobs.export import Exported, export
from mixture.jobs.ingest import IngestResult, ingest
from mixture.jobs.mine import MiningResult, mine, undo_mining
from mixture.jobs.removals import RemovalResult, undo
from mixture.jobs.report import report
from mixture.registry import tag
from mixture.registry.diff import diff
from mixture.registry.files import import_
from mixture.registry.gc import gc
from mixture.registry.lineage import log
from mixture.registry.verify import verify

__all__ = [
    "Exported",
    "IngestResult",
    "MiningResult",
    "RemovalResult",
    "Sql",
    "Temperature",
    "UniMax",
    "Weights",
    "create",
    "decontaminate",
    "dedup",
    "diff",
    "export",
    "forget",
    "gc",
    "import_",
    "ingest",
    "log",
    "matches",
    "mine",
    "report",
    "select",
    "tag",
    "undo",
    "undo_mining",
    "verify",
]

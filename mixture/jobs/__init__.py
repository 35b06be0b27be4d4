"""The data side's jobs over a store, one function a command, under the command's name. A mixture is given as it was
saved or by what names it; files and folders as str or Path; `progress` is called as the work goes on."""

from mixture.jobs.collections import remove, rename
from mixture.jobs.contamination import matches
from mixture.jobs.coreset import MadeCoreset, coreset
from mixture.jobs.create import CreatedMixture, Sql, Temperature, UniMax, Weights, create, select
from mixture.jobs.decontaminate import decontaminate, unregister
from mixture.jobs.dedup import dedup
from mixture.jobs.export import Exported, export
from mixture.jobs.forget import Forgetting, forget
from mixture.jobs.ingest import IngestResult, NothingStored, Preview, ingest, preview
from mixture.jobs.mine import MiningResult, mine, undo_mining
from mixture.jobs.removals import RemovalResult, undo
from mixture.jobs.report import mining_report, report
from mixture.jobs.statement import ContaminationStatement, contamination_statement
from mixture.registry import tag
from mixture.registry.diff import diff
from mixture.registry.files import import_
from mixture.registry.gc import gc
from mixture.registry.lineage import log
from mixture.registry.status import Status, status
from mixture.registry.verify import verify
from mixture.store.change import Change
from mixture.store.copies import Copied, copy_store
from mixture.store.maintain import Maintained, maintain

__all__ = [
    "Change",
    "ContaminationStatement",
    "Copied",
    "CreatedMixture",
    "Exported",
    "Forgetting",
    "IngestResult",
    "MadeCoreset",
    "Maintained",
    "MiningResult",
    "NothingStored",
    "Preview",
    "RemovalResult",
    "Sql",
    "Status",
    "Temperature",
    "UniMax",
    "Weights",
    "contamination_statement",
    "copy_store",
    "coreset",
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
    "maintain",
    "matches",
    "mine",
    "mining_report",
    "preview",
    "remove",
    "rename",
    "report",
    "select",
    "status",
    "tag",
    "undo",
    "undo_mining",
    "unregister",
    "verify",
]

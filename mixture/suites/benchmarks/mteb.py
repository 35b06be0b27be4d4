"""Any retrieval task of mteb, by its own loader: `mteb:TASK`, or `mteb:TASK/SUBSET` for one subset of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixture.errors import UsageError
from mixture.suites.benchmarks.base import PREFIXES, Named, prompt
from mixture.suites.documents import Columns, Documents, not_there
from mixture.suites.layout import TEST_SPLITS
from mixture.suites.suite import Suite


@dataclass(frozen=True)
class Task(Named):
    """One subset of a task; `default` where it has no others."""

    key: str
    name: str
    task: str
    subset: str
    split: str

    def load(self) -> Suite:
        task = _task(self.task, hf_subsets=[self.subset], eval_splits=[self.split])
        said = task.metadata
        try:
            task.load_data()
        except Exception as error:  # the errors of datasets, of the hub's client and of its HTTP library
            source = f"{said.dataset['path']} at {said.dataset['revision']}"
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{self.key}: mteb cannot load the dataset {source}: {reason}") from error
        task.convert_v1_dataset_format_to_v2(num_proc=None)
        data = task.dataset[self.subset][self.split]
        if data.get("top_ranked") is not None:
            raise UsageError(f"{self.key} ranks given candidates of each query; only whole corpora are searched")
        return _suite(self, data, said)


def _suite(task: Task, data: Mapping[str, Any], said: Any) -> Suite:
    columns = Columns(3)
    for row in data["corpus"]:
        columns.append(str(row["id"]), row.get("title") or "", row.get("text") or "")
    ids, titles, texts = columns.strings
    asked = {str(row["id"]): row["text"] for row in data["queries"]}
    qrels = {key: {d: int(grade) for d, grade in grades.items()} for key, grades in data["relevant_docs"].items()}
    kept = [key for key in asked if key in qrels]
    judged = [document for key in kept for document in qrels[key]]
    missing = not_there(judged, ids)
    if missing == len(judged):
        raise UsageError(f"{task.key}: none of its {len(judged)} judged documents is in its corpus")
    said_of = said.prompt.get("query") if isinstance(said.prompt, dict) else said.prompt
    spoken = said.hf_subsets_to_langscripts[task.subset][0].partition("-")[0]
    return Suite(task.name, ids, Documents(titles, texts), kept, [asked[key] for key in kept],
                 {key: qrels[key] for key in kept}, missing, metrics=("ndcg@10",), language=spoken,
                 prompt=prompt(said_of), revision=said.dataset["revision"])  # fmt: skip


def _task(name: str, **chosen: Any) -> Any:
    try:
        import mteb
    except ImportError as error:
        raise UsageError(
            f"mteb:{name} needs the package mteb, which is missing: pip install 'retrieval-mixture[mteb]'"
        ) from error
    try:
        return mteb.get_task(name, **chosen)
    except KeyError as error:
        raise UsageError(f"no task mteb:{name}: {str(error.args[0]).removeprefix('KeyError: ')}") from error


def expand(text: str) -> list[Named]:
    """The suites of `TASK` or `TASK/SUBSET`. Raises `UsageError` for what mteb does not know, and for another kind of
    task."""
    name, _, subset = text.partition("/")
    task = _task(name)
    if task.metadata.type != "Retrieval" or task.metadata.modalities != ["text"]:
        kind = f"{task.metadata.type} of {', '.join(task.metadata.modalities)}"
        raise UsageError(f"mteb:{name} is a task of {kind}; allowed: Retrieval of text")
    subsets = list(task.hf_subsets)
    if subset and subset not in subsets:
        raise UsageError(f"mteb:{name} has no subset {subset!r}; allowed: {', '.join(subsets)}")
    splits = task.metadata.eval_splits
    split = next((split for split in TEST_SPLITS if split in splits), splits[0])
    return [_one(name, chosen, split) for chosen in ([subset] if subset else subsets)]


def _one(name: str, subset: str, split: str) -> Task:
    if subset == "default":
        return Task(f"mteb:{name}", name, name, subset, split)
    return Task(f"mteb:{name}/{subset}", f"{name}-{subset}", name, subset, split)


PREFIXES["mteb:"] = expand

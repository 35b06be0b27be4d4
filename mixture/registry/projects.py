"""A mixture as Tevatron, ms-swift and LLaMA-Factory take it: their rows, and a file that says how to draw from them.

That file names the others without a folder: run the trainer from inside the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mixture.registry.folders import MOST_NEGATIVES
from mixture.registry.lines import Source, Written, listing, probabilities, write_lines
from mixture.registry.names import SavedMixture
from mixture.rows import joined
from mixture.store import Store
from mixture.whole import new_folder

ARGUMENTS = "arguments.yaml"


def export_tevatron(store: Store, mixture: SavedMixture, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Rows of query_id, query, positive_passages, negative_passages, and train.yaml for the driver's `train_yaml`.

    It lists a file more than once to weigh it. Returns how many rows each component has, and what is worth knowing.
    Source: texttron/tevatron, docs/datasets.md and retriever/dataset.py.
    """
    with new_folder(folder) as whole:
        written, remarks = write_lines(store, mixture, whole, _tevatron, drawn=MOST_NEGATIVES)
        files, off = listing(written)
        train = {"train": [{"name": file} for file in files],
                 "corpus": [{"name": None, "assets_path": None} for _ in files]}  # fmt: skip
        _yaml(whole / "train.yaml", train)
    prompts = {part.source.prompt for part in written}
    if prompts != {None}:
        one = len(prompts) == 1 and f"the prompt of all is {prompts.pop()!r}"
        remarks.append(f"Tevatron has one `query_prefix` for all: {one or 'prompts are left out'}")
    return _counts(written), remarks + off


def export_ms_swift(store: Store, mixture: SavedMixture, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Rows of messages, positive_messages, negative_messages, one for each positive, and arguments.yaml for its command
    `swift sft`.

    The prompt is the system's message. Weights are `interleave_prob`. Returns how many rows each component has, and
    what is worth knowing. Source: modelscope/ms-swift, docs/source_en/BestPractices/Embedding.md.
    """
    with new_folder(folder) as whole:
        written, remarks = write_lines(store, mixture, whole, _ms_swift)
        drawn = probabilities(written)
        # Their command puts the list among its words, so numbers must be text.
        arguments = {"task_type": "embedding", "loss_type": "infonce", "dataset": list(drawn), "streaming": True,
                     "interleave_prob": [str(weight) for weight in drawn.values()],
                     "stopping_strategy": "all_exhausted"}  # fmt: skip
        _yaml(whole / ARGUMENTS, arguments)
    return _counts(written), remarks


def export_llama_factory(store: Store, mixture: SavedMixture, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Rows of query, pos, neg and prompt, dataset_info.json, which says that they are preferences, and arguments.yaml.

    It trains no embeddings: its reward models learn to score a positive over a negative, as a reranker does. A row has
    one of each, so that all of an example's are in some row. Weights are `interleave_probs`. Returns how many rows each
    component has, and what is worth knowing. Source: hiyouga/LLaMA-Factory, data/README.md.
    """
    with new_folder(folder) as whole:
        written, remarks = write_lines(store, mixture, whole, _llama_factory, drawn=1)
        columns = {"prompt": "query", "chosen": "pos", "rejected": "neg"}
        info = {Path(part.file).stem: {"file_name": part.file, "ranking": True,
                                       "columns": columns | ({"system": "prompt"} if part.source.prompt else {})}
                for part in written}  # fmt: skip
        (whole / "dataset_info.json").write_text(json.dumps(info, ensure_ascii=False, indent=1), "utf-8")
        drawn = probabilities(written)
        # Without a worker their stream has no rows.
        arguments = {"stage": "rm", "dataset_dir": ".", "dataset": ",".join(Path(file).stem for file in drawn),
                     "streaming": True, "dataloader_num_workers": 1, "mix_strategy": "interleave_over",
                     "interleave_probs": ",".join(str(weight) for weight in drawn.values())}  # fmt: skip
        _yaml(whole / ARGUMENTS, arguments)
    return _counts(written), remarks


def _tevatron(row: dict[str, Any], source: Source) -> Iterator[dict[str, Any]]:
    def passages(side: str) -> list[dict[str, str]]:
        # An empty title puts a space before the text.
        return [{"docid": one["passage_id"], **({"title": one["title"]} if source.titled else {}), "text": one["text"]}
                for one in row[side]]  # fmt: skip

    line = {"query_id": row["example_id"], "query": row["query"], "positive_passages": passages("pos"),
            "negative_passages": passages("neg")}  # fmt: skip
    yield line | _language(row)


def _ms_swift(row: dict[str, Any], source: Source) -> Iterator[dict[str, Any]]:
    def said(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    asked = [*([{"role": "system", "content": source.prompt}] if source.prompt else []), said(row["query"])]
    positives, negatives = ([[said(text)] for text in _texts(row, side)] for side in ("pos", "neg"))
    for positive in positives:
        # Without the key it would be null beside rows that have it, and their templates fail at that.
        line = {"messages": asked, "positive_messages": [positive], "negative_messages": negatives}
        yield line | _language(row)


def _llama_factory(row: dict[str, Any], source: Source) -> Iterator[dict[str, Any]]:
    positives, negatives = _texts(row, "pos"), _texts(row, "neg")
    for number in range(max(len(positives), len(negatives))):
        line = {"query": row["query"], "pos": positives[number % len(positives)],
                "neg": negatives[number % len(negatives)]}  # fmt: skip
        yield line | ({"prompt": source.prompt} if source.prompt else {}) | _language(row)


def _texts(row: dict[str, Any], side: str) -> list[str]:
    return [joined(passage["title"], passage["text"]) for passage in row[side]]


def _language(row: dict[str, Any]) -> dict[str, str]:
    return {"language": row["language"]} if row["language"] else {}


def _counts(written: Sequence[Written]) -> dict[str, int]:
    return {part.source.component.name: part.rows for part in written}


def _yaml(file: Path, value: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), "utf-8")

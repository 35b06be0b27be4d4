"""Whether the trainers of other projects read what `mixture export` writes for them, and draw by the weights.

    python benchmarks/exports_read.py STORE REF [--keep DIR]

Exports the mixture and reads each folder with that project's own code, from where Python finds it: FlagEmbedding,
tevatron, ms-swift (`swift`), llamafactory. Says of each what it read, how far the shares of rows are from the weights,
or why it could not be asked. Nothing is trained.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml

DRAWN = 4_000  # rows of an endless stream
GROUP = 8  # passages to a query


def flagembedding() -> Iterator[str]:
    """In batches of one dataset, with a prompt before each query."""
    from FlagEmbedding.abc.finetune.embedder.AbsArguments import AbsEmbedderDataArguments
    from FlagEmbedding.abc.finetune.embedder.AbsDataset import (
        AbsEmbedderSameDatasetTrainDataset,
        AbsEmbedderTrainDataset,
    )

    arguments = AbsEmbedderDataArguments(
        train_data=Path("train_data.txt").read_text("utf-8").split(), train_group_size=GROUP,
        query_instruction_for_retrieval="", query_instruction_format="{}\t{}", same_dataset_within_batch=True,
    )  # fmt: skip
    rows = AbsEmbedderTrainDataset(arguments, None)
    assert all(len(rows[number][1]) == GROUP for number in range(len(rows)))
    batches = AbsEmbedderSameDatasetTrainDataset(arguments, default_batch_size=2, seed=1, tokenizer=None)
    files = of_files("query")
    for number in range(len(batches)):
        queries, passages, _, _ = batches[number]
        queries = [query.split("\t", 1)[1] for query in queries]
        assert len(passages) == GROUP * len(queries)
        assert len({files[query] for query in queries}) == 1, "a batch of two datasets"
        yield from queries


def tevatron() -> Iterator[str]:
    """What `train_yaml` lists, through the class of its driver."""
    from tevatron.retriever.arguments import DataArguments
    from tevatron.retriever.dataset import MultiTrainDataset

    listed = yaml.safe_load(Path("train.yaml").read_text("utf-8"))
    trainer = SimpleNamespace(state=SimpleNamespace(epoch=0), args=SimpleNamespace(seed=1))
    rows = MultiTrainDataset(DataArguments(train_group_size=GROUP), listed["train"], listed["corpus"])
    rows.set_trainer(trainer)
    for number in range(len(rows)):
        (query, *_), passages = rows[number]
        assert len(passages) == GROUP
        yield query


def ms_swift() -> Iterator[str]:
    """Its arguments file by its own command line, then its loader and the inputs of its templates."""
    from swift.arguments.base_args.data_args import DataArguments
    from swift.cli.main import parse_yaml_args
    from swift.dataset import load_dataset
    from swift.template.template_inputs import TemplateInputs
    from transformers import HfArgumentParser

    words = ["arguments.yaml"]
    parse_yaml_args(words)
    given, _ = HfArgumentParser([DataArguments]).parse_args_into_dataclasses(words, return_remaining_strings=True)
    rows, _ = load_dataset(
        given.dataset, streaming=given.streaming, interleave_prob=given.interleave_prob,
        stopping_strategy=given.stopping_strategy, strict=True, shuffle=True, seed=1,
    )  # fmt: skip
    for row in itertools.islice(rows, DRAWN):
        inputs = TemplateInputs.from_dict(row)
        (positive,) = inputs.positive
        assert positive.messages[0]["content"] and all(one.messages[0]["content"] for one in inputs.negative or ())
        yield inputs.chosen.messages[0]["content"]


def llama_factory() -> Iterator[str]:
    """Its arguments file, then its loader: a prompt, and a chosen and a rejected answer."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    if not find_spec("torchaudio"):  # it loads sounds
        sys.modules["torchaudio"] = empty = ModuleType("torchaudio")
        empty.__spec__ = ModuleSpec("torchaudio", None)
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams.data_args import DataArguments
    from llamafactory.hparams.parser import read_args
    from transformers import HfArgumentParser, Seq2SeqTrainingArguments

    sys.argv[1:] = ["arguments.yaml"]
    words = read_args()
    (given,) = HfArgumentParser([DataArguments]).parse_dict(words, allow_extra_keys=True)
    model = SimpleNamespace(cache_dir=None, hf_hub_token=None)
    workers = words["dataloader_num_workers"]
    training = Seq2SeqTrainingArguments("out", max_steps=1, dataloader_num_workers=workers)
    rows = _get_merged_dataset(given.dataset, model, given, training, words["stage"])
    for row in itertools.islice(rows, DRAWN):
        chosen, rejected = row["_response"]
        assert chosen["content"] and rejected["content"] and chosen != rejected
        yield row["_prompt"][0]["content"]


READERS: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "flagembedding": ("FlagEmbedding", flagembedding),
    "tevatron": ("tevatron", tevatron),
    "ms_swift": ("swift", ms_swift),
    "llama_factory": ("llamafactory", llama_factory),
}


def of_files(name: str) -> dict[str, str]:
    """For each query the file that it is in. name: of the query in a row; messages for the last of them."""
    found = {}
    for file in sorted(Path().glob("*.jsonl")):
        for line in file.open(encoding="utf-8"):
            value = json.loads(line)[name]
            found[value if name == "query" else value[-1]["content"]] = file.stem
    return found


def read(project: str) -> dict[str, Any]:
    """What a project reads in this folder: rows, distinct queries of all, and the shares of files."""
    files = of_files("messages" if project == "ms_swift" else "query")
    asked = Counter(READERS[project][1]())
    shares = Counter()
    for query, count in asked.items():
        shares[files[query]] += count
    rows = asked.total()
    return {"rows": rows, "queries": len(asked), "of": len(files),
            "shares": {file: round(count / rows, 4) for file, count in sorted(shares.items())}}  # fmt: skip


def ask(project: str, folder: Path) -> dict[str, Any]:
    """`read` in a process of its own, since the projects change what they import; `missing` where it does not load."""
    command = [sys.executable, __file__, "--read", project]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        project = sys.argv[2]
        with tempfile.TemporaryDirectory() as cache:
            os.environ["HF_DATASETS_CACHE"] = cache
            try:
                result = read(project)
            except ImportError as error:
                result = {"missing": str(error)}
        print(json.dumps(result))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("mixture")
    parser.add_argument("--keep", type=Path, help="a folder for the exports [a temporary one]")
    arguments = parser.parse_args()
    from mixture import Store, jobs

    with tempfile.TemporaryDirectory() as scratch, Store.open(arguments.store) as store:
        for project in READERS:
            out = jobs.export(store, arguments.mixture, **{project: (arguments.keep or Path(scratch)) / project})
            print(json.dumps({"project": project, **out.counts, **ask(project, out.path), "remarks": out.remarks}))


if __name__ == "__main__":
    main()

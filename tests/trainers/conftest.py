"""A tiny model and a materialised mixture for the tests of the model side."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mixture.materialised import MaterialisedMixture
from trainers.model.template import DEFAULT_PROMPT, Template
from trainers.model.tiny import build_tiny

if TYPE_CHECKING:  # not every machine that runs tests has duckdb
    from mixture import Store

TEXTS = [f"the {a} of the {b} is {c}" for a in ("capital", "river", "king") for b in ("north", "south") for c in "xyz"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, write_collection: Callable[..., Path]) -> Path:
    """Two layers, 64 wide; its tokenizer knows the words of the test collections and of the default prompt."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    texts = TEXTS + write_collection(folder.parent, "texts").read_text("utf-8").splitlines()
    texts += [Template().before_query(DEFAULT_PROMPT)] * len(texts)
    build_tiny(texts, folder, seed=1, vocabulary=500, hidden=64)
    return folder


@pytest.fixture(scope="session")
def deep_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """As `tiny_model`, with five layers, of which the first two have full attention and the others a window."""
    folder = tmp_path_factory.mktemp("models") / "deep"
    layered(folder, tiny_model, "qwen2", pooling="lasttoken", use_sliding_window=True, sliding_window=64,
            max_window_layers=2)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def bert_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A random BERT of five layers with mean pooling and the tokenizer of `tiny_model`."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    layered(folder, tiny_model, "bert")
    return folder


def layered(folder: Path, tokens_of: Path, kind: str, *, pooling: str = "mean", **config: Any) -> SentenceTransformer:
    """A random model of five layers, 32 wide, of any architecture, with the tokenizer of another; saved."""
    tokenizer = AutoTokenizer.from_pretrained(tokens_of)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
    if kind == "distilbert":
        sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 5, "n_heads": 4}
    more = {"num_key_value_heads": 2, "head_dim": 8, "embedding_size": 32, "max_position_embeddings": 512}
    settings = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
                                    eos_token_id=tokenizer.eos_token_id, **sizes, **more, **config)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = AutoModel.from_config(settings)
        with torch.no_grad():
            for parameter in model.parameters():  # so that no norm and no bias is what it would be anew
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    transformer = Transformer(str(folder / "base"), max_seq_length=128)
    encoder = SentenceTransformer(modules=[transformer, Pooling(32, pooling), Normalize()])
    encoder.save(str(folder), create_model_card=False)
    shutil.rmtree(folder / "base")
    return encoder


@pytest.fixture(scope="session")
def static_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A random table of 48 dimensions with the tokenizer of `tiny_model`, saved by sentence-transformers."""
    folder = tmp_path_factory.mktemp("models") / "table"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = StaticEmbedding(AutoTokenizer.from_pretrained(tiny_model), embedding_dim=48)
    SentenceTransformer(modules=[module]).save(str(folder), create_model_card=False)
    return folder


@pytest.fixture
def mixture_data(small_store: Store) -> MaterialisedMixture:
    from mixture import registry
    from mixture.store.materialise import materialise

    parts = registry.pin(small_store)
    spec = registry.weighted(parts, {"easy": 0.5, "middle": 0.3, "hard": 0.2})
    registry.save(small_store, spec, "mix")
    return materialise(small_store, spec)


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """`start(code, names)`: a process that runs the code with these names. It is forked from one that has imported
    everything: a start takes no time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["cli", *(f"trainers.jobs.{name}" for name in ("evaluate", "folder", "learn", "train")), "pytest"]
    )
    started = []

    def begin(code: str, names: dict[str, Any]) -> Any:
        process = context.Process(target=exec, args=(code, names))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


def kill_at(start: Callable[..., Any], code: str, names: dict[str, Any], moment: Any) -> None:
    """Run the code with these names and a `pipe`, and kill it when it sends `moment` there."""
    received, pipe = multiprocessing.Pipe(duplex=False)
    process = start(code, names | {"pipe": pipe})
    pipe.close()
    while received.recv() != moment:
        pass
    process.kill()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def write_suite(data: MaterialisedMixture, folder: Path, count: int) -> Path:
    """A suite of a mixture's own rows: the first `count` queries of `middle`, and all its passages."""
    part = data.components["middle"]
    (folder / "qrels").mkdir(parents=True)
    rows = [part.example(row) for row in range(count)]
    queries = [json.dumps({"_id": f"q{i}", "text": row.query}) for i, row in enumerate(rows)]
    corpus = [json.dumps({"_id": f"d{i}", "text": part.passage(i)}) for i in range(part.num_passages)]
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    judged = [f"q{i}\td{row.positives[0]}\t1" for i, row in enumerate(rows)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    return folder


@pytest.fixture
def suite(tmp_path: Path, mixture_data: MaterialisedMixture) -> Path:
    """A suite of 12 of the mixture's own rows."""
    return write_suite(mixture_data, tmp_path / "suite", 12)

"""Two ranks that each hold half of a model compute, save and resume what one rank does that holds all of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from torch import Tensor
from torch.distributed.tensor import DTensor

from mixture.errors import MixtureError, UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.suites.suite import load_suite
from trainers.batch.gradient_cache import TokenBudget, embed_within_budget, micro_batches
from trainers.batch.texts import BatchSource
from trainers.evaluation.evaluate import evaluate_suite
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import batch_losses
from trainers.learning.config import LearningSettings
from trainers.learning.loop import run_learner
from trainers.loop.steps import TrainingLoop
from trainers.model.encoder import load_encoder
from trainers.parallel import ranks, sharding

SETTINGS = FinetuneSettings(
    steps=4, batch_size=7, learning_rate=1e-3, temperature=0.05, negatives=2, max_query_tokens=80,
    max_passage_tokens=24, tokens_per_pass=250, tokens_kept=250, checkpoint_every=2, tracker="none", fsdp=True,
)  # fmt: skip
LORA = replace(
    SETTINGS, lora_rank=4, lora_dropout=0.0, activation_checkpointing=True, evaluate_every=2, keep_best=True,
    final="best",
)  # fmt: skip
DROPOUT = replace(SETTINGS, lora_rank=4, lora_dropout=0.3)
TDRO = LearningSettings(
    steps=3, batch_size=6, learning_rate=1e-3, temperature=0.05, negatives=1, max_query_tokens=80,
    max_passage_tokens=24, weights_learning_rate=0.1, tokens_per_pass=400, tokens_kept=400, fsdp=True,
)  # fmt: skip
CHILD = """
import os, sys
os.environ |= environment
sys.path.insert(0, tests)
sys.stderr = open(errors, "w")
import test_sharding
getattr(test_sharding, function)(*arguments)
"""


@pytest.fixture
def launch(start: Callable[..., Any]) -> Callable[..., list[Any]]:
    """`launch(function, arguments, errors)`: two ranks that call one of this module's functions."""

    def begin(function: str, arguments: Sequence[Any], errors: Path) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
        names = {"function": function, "arguments": arguments, "tests": str(Path(__file__).parent)}
        return [
            start(CHILD, names | {"errors": f"{errors}-{rank}",
                                  "environment": shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}})
            for rank in range(2)
        ]  # fmt: skip

    return begin


def everything(data: MaterialisedMixture, model: str, suite: Path, out: Path) -> None:
    """What one rank and two must agree on, in the folder `out`."""
    out.mkdir(exist_ok=True)
    found: dict[str, Any] = {"all": gradients(data, model, SETTINGS, out), "lora": gradients(data, model, LORA, out)}
    found["bf16"] = bf16_embeddings(model)
    found["weights"] = run_learner(data, model, model, TDRO, out / "tdro").weights["current"]
    if ranks.state().num_processes > 1:
        with pytest.raises(UsageError, match="fsdp is True; allowed: false with cgd"):
            run_learner(data, model, None, replace(TDRO, algorithm="cgd"), out / "cgd")
    torch.save(found, out / f"found-{ranks.state().process_index}.pt")
    finetune(data, model, SETTINGS, out / "all")
    finetune(data, model, LORA, out / "lora", suites=[load_suite(suite)])


def gradients(data: MaterialisedMixture, model: str, settings: FinetuneSettings, out: Path) -> dict[str, Any]:
    """Losses and gradients of a batch of 7, encoded in fewer micro-batches by the first rank than by the second."""
    encoder = with_dense(model) if settings.lora_rank == 0 else load_encoder(model)
    plan = BatchPlan(data.spec.weights, data.sizes, settings.batch_size, 1, positives=data.positives())
    loop = TrainingLoop(encoder, settings, out / "gradients")
    if ranks.state().process_index == 1:
        loop.budget = TokenBudget(100, 100)
    batch = loop.prepared(BatchSource(data, plan, negatives=2).homogeneous(0))
    assert batch.tokens is not None
    lengths = np.array(sorted(map(len, batch.tokens.ids), reverse=True))
    batches = len(micro_batches(lengths, loop.budget.per_pass))
    losses = batch_losses(loop, batch)
    with torch.no_grad():
        embeddings = torch.cat(loop.embed_batch(loop.encoder, batch))
    loop.accelerator.backward(losses.mean())
    ranks.reduce_gradients(loop.parameters)
    gradient = torch.cat([sharding.whole(p.grad).flatten() for p in loop.parameters if p.grad is not None])
    loop.optimizer.zero_grad()
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in loop.encoder.parameters())
    total = sum(p.numel() for p in loop.encoder.parameters())
    loop.descend(batch_losses(loop, batch).sum(), batch)
    return {"losses": losses.detach(), "embeddings": embeddings, "gradient": gradient, "held": held,
            "total": total, "batches": batches, "norm": loop.gradient_norm}  # fmt: skip


def bf16_embeddings(model: str) -> Tensor:
    """Of a model that computes in bf16 on two ranks, in float32 on one."""
    encoder = load_encoder(model)
    if ranks.state().num_processes > 1:
        sharding.shard(encoder, encoder.device, bf16=True)
    ids = encoder.tokenizer(["the king of the north", "the river"])["input_ids"]
    return embed_within_budget(encoder, ids, TokenBudget(100, 100)).detach()


def with_dense(model: str) -> SentenceTransformer:
    """The model with a layer behind its pooling, which is none of the transformer's."""
    encoder = load_encoder(model)
    torch.manual_seed(0)
    encoder.insert(2, Dense(64, 33))
    return encoder


def on_two_ranks(folder: Path, mixture: str, model: str, suite: str, out: Path) -> None:
    everything(MaterialisedMixture.open(folder, mixture), model, Path(suite), out)


def train(folder: Path, mixture: str, model: str, settings: dict[str, Any], out: Path) -> None:
    data = MaterialisedMixture.open(folder, mixture)
    finetune(data, model, FinetuneSettings(**settings), out, progress=lambda *_: time.sleep(0.02))


def _join(processes: Sequence[Any], errors: Path) -> None:
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    assert codes == [0, 0], "\n".join(Path(f"{errors}-{rank}").read_text()[-3000:] for rank in range(2))


def test_two_ranks_with_half_a_model_each_do_what_one_does(
    launch: Callable[..., list[Any]], mixture_data: MaterialisedMixture, tiny_model: Path, suite: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pytrec_eval", reason="the extra eval is not installed")
    given = [mixture_data.folder, mixture_data.spec.id, str(tiny_model), str(suite), tmp_path / "two"]
    processes = launch("on_two_ranks", given, tmp_path / "errors")
    everything(mixture_data, str(tiny_model), suite, tmp_path / "one")
    _join(processes, tmp_path / "errors")

    one = torch.load(tmp_path / "one" / "found-0.pt")
    two = [torch.load(tmp_path / "two" / f"found-{rank}.pt") for rank in range(2)]
    for name in ("all", "lora"):
        for found in two:
            for key in ("losses", "embeddings"):
                torch.testing.assert_close(found[name][key], one[name][key], rtol=1e-5, atol=1e-5)
            off = (found[name]["gradient"] - one[name]["gradient"]).norm() / one[name]["gradient"].norm()
            assert float(off) < 1e-5
            assert found[name]["norm"] == pytest.approx(one[name]["norm"], rel=1e-5)
            assert 0.45 < found[name]["held"] / found[name]["total"] < 0.55
            assert found[name]["total"] == one[name]["held"]
        assert two[0][name]["batches"] < two[1][name]["batches"]
        assert two[0][name]["held"] + two[1][name]["held"] == one[name]["held"]
    assert two[0]["bf16"].dtype == torch.float32
    assert 1e-4 < float((two[0]["bf16"] - one["bf16"]).abs().max()) < 0.03
    assert two[0]["weights"] == two[1]["weights"] == pytest.approx(one["weights"], abs=1e-5)
    assert max(one["weights"].values()) > 1 / 3 + 0.005  # there was something to agree on

    for name in ("all", "lora", "lora/best"):
        _assert_close(*(load_file(tmp_path / which / name / "model.safetensors") for which in ("one", "two")))
        _assert_equal_on(suite, *(tmp_path / which / name for which in ("one", "two")))
    records = [json.loads((tmp_path / which / "lora" / "training.json").read_text()) for which in ("one", "two")]
    assert records[0]["evaluations"] == records[1]["evaluations"]
    assert records[0]["final_step"] == records[1]["final_step"]
    assert not (tmp_path / "two" / "lora" / "checkpoints").exists()


def _assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-5, atol=1e-5)


def _assert_equal_on(suite: Path, one: Path, two: Path) -> None:
    models = [SentenceTransformer(str(folder)) for folder in (one, two)]
    loaded = load_suite(suite)
    scores = [evaluate_suite(model, loaded, prompt=None).metrics for model in models]
    assert scores[0] == scores[1]
    texts = [*loaded.queries, "a text of no suite"]
    np.testing.assert_allclose(models[0].encode(texts), models[1].encode(texts), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [pytest.param(SETTINGS, id="all weights"), pytest.param(DROPOUT, id="LoRA, dropout")]
)
def test_killed_it_goes_on_with_the_same_bits(
    launch: Callable[..., list[Any]], mixture_data: MaterialisedMixture, tiny_model: Path, tmp_path: Path,
    settings: FinetuneSettings,
) -> None:  # fmt: skip
    given = [mixture_data.folder, mixture_data.spec.id, str(tiny_model), asdict(settings)]
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    processes = launch("train", [*given, parts], tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list((parts / "checkpoints").glob("step-2")):
        assert time.monotonic() < deadline, Path(f"{tmp_path / 'killed'}-0").read_text()
        time.sleep(0.01)
    for process in processes:
        with suppress(ProcessLookupError):  # a rank may have died of the other's death
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join(120)
    assert not (parts / "training.json").exists()
    with pytest.raises(MixtureError, match="with fsdp on two processes or more; resume it so"):
        finetune(mixture_data, str(tiny_model), settings, parts)
    _join(launch("train", [*given, parts], tmp_path / "resumed"), tmp_path / "resumed")
    _join(launch("train", [*given, whole], tmp_path / "errors"), tmp_path / "errors")
    weights = [load_file(folder / "model.safetensors") for folder in (parts, whole)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    records = [json.loads((folder / "training.json").read_text())["losses"] for folder in (parts, whole)]
    assert records[0] == records[1]
    assert len(records[0]) == settings.steps


def test_what_cannot_be_sharded_is_refused(tiny_model: Path) -> None:
    encoder, cpu = load_encoder(str(tiny_model)), torch.device("cpu")
    encoder.transformers_model._no_split_modules = None  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="Qwen2Model names no layers to shard by; set fsdp = false"):
        sharding.shard(encoder, cpu, bf16=False)
    odd = load_encoder(str(tiny_model))
    odd.insert(2, Scale())
    with pytest.raises(UsageError, match=r"parameter 2\.factor cannot be sharded"):
        sharding.shard(odd, cpu, bf16=False)


class Scale(Pooling):
    """A module with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__(64)
        self.factor = torch.nn.Parameter(torch.ones(1))

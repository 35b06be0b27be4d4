"""What the training code computes on a GPU is what it computes on a CPU. `pytest -m gpu tests/trainers/test_gpu.py`

Needs no duckdb. With MIXTURE_GPU_REHEARSAL=1 a machine without a GPU runs what makes sense there, on its CPU.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from transformers import AutoTokenizer, BertConfig, BertModel, DataCollatorWithFlattening

from mixture.errors import MixtureError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.specs import Component, MixtureSpec
from trainers.batch.embedding import embed_across_ranks, tokenise
from trainers.batch.gradient_cache import TokenBudget
from trainers.batch.texts import BatchSource, TextBatch
from trainers.evaluation.search import top_k
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import batch_losses, encoder_of, step
from trainers.learning.config import LearningSettings
from trainers.learning.loop import run_learner
from trainers.loop.steps import TrainingLoop
from trainers.losses import LOSSES, spread_out
from trainers.model.adapters import add_lora, merge_lora
from trainers.model.encoder import lacks_for_flash, load_encoder, load_for_training
from trainers.model.tiny import build_tiny
from trainers.settings import TrainingSettings

pytestmark = pytest.mark.gpu

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 2**20
LIMIT = 96  # tokens of a text
PLENTY = TokenBudget(100_000, 100_000)
WHOLE, CACHED = TokenBudget(192, 100_000), TokenBudget(192, 1)  # the same micro-batches; all kept, or only the last
SETTINGS = FinetuneSettings(
    steps=12, batch_size=8, learning_rate=2e-3, temperature=0.05, negatives=2, max_query_tokens=LIMIT,
    max_passage_tokens=LIMIT, tokens_per_pass=512, tokens_kept=1024, checkpoint_every=2, tracker="none",
)  # fmt: skip
DROPOUT = replace(SETTINGS, lora_rank=4, lora_dropout=0.3)
TDRO = LearningSettings(
    steps=6, batch_size=12, learning_rate=5e-4, temperature=0.05, negatives=2, max_query_tokens=LIMIT,
    max_passage_tokens=LIMIT, tokens_per_pass=512, tokens_kept=1024, checkpoint_every=6, weights_learning_rate=0.1,
    tracker="none",
)  # fmt: skip
LAST = 5  # the step after which a run is killed: one more than its checkpoint has
KILLED = """
import json, os, signal, sys
from pathlib import Path
from mixture.materialised import MaterialisedMixture
from trainers.finetune import FinetuneSettings, finetune
folder, mixture, model, settings, out, last = sys.argv[1:]
data = MaterialisedMixture.open(Path(folder), mixture)
def progress(done, _, __):
    if done == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
finetune(data, model, FinetuneSettings(**json.loads(settings)), Path(out), progress=progress)
"""
WEIGHTS = """
import json, sys
from pathlib import Path
from mixture.materialised import MaterialisedMixture
from trainers.learning.config import LearningSettings
from trainers.learning.loop import run_learner
folder, mixture, model, settings, out = sys.argv[1:]
data = MaterialisedMixture.open(Path(folder), mixture)
learned = run_learner(data, model, model, LearningSettings(**json.loads(settings)), Path(out))
print(json.dumps(learned.weights))
"""


@pytest.fixture(scope="module")
def device() -> torch.device:
    """Where models place themselves: the GPU; in a rehearsal without one, the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if os.environ.get("MIXTURE_GPU_REHEARSAL"):
        return torch.device("cpu")
    pytest.skip("needs a CUDA device")


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("says something on a CUDA device only")
    return device


@pytest.fixture(autouse=True)
def fresh(device: torch.device) -> Iterator[None]:
    """One process keeps one precision, and the device what a failed test left there."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def texts(words: list[str]) -> list[str]:
    """16 texts of 2 to 60 words."""
    random = Random(3)
    return [" ".join(random.choices(words, k=count)) for count in np.linspace(2, 60, 16).astype(int)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> MaterialisedMixture:
    """Three collections of 40 examples with texts of 2 to 60 words, in the layout that `mixture.materialised` names."""
    folder = tmp_path_factory.mktemp("materialised")
    parts = []
    for number, (name, weight) in enumerate((("easy", 0.5), ("hard", 0.3), ("middle", 0.2))):
        component = Component(name, f"{number:064x}", weight)
        _write_component(folder / "components" / component.digest, name, Random(number), words)
        parts.append(component)
    spec = MixtureSpec(tuple(parts))
    (folder / f"{spec.id}.json").write_text(spec.to_json())
    return MaterialisedMixture.open(folder, spec.id)


def _write_component(folder: Path, name: str, random: Random, words: list[str]) -> None:
    """40 queries; passage i answers query i with some of its words, and the next three are its negatives."""
    queries, passages = [], []
    for _ in range(40):
        query = random.choices(words, k=random.randint(2, 30))
        queries.append(" ".join(query))
        passages.append(" ".join(random.sample(query, 2) + random.choices(words, k=random.randint(0, 58))))
    lists = pa.list_(pa.int32())
    examples = {
        "example_id": pa.array([f"{name}-{i:02}" for i in range(40)]),
        "query": pa.array(queries),
        "language": pa.nulls(40, pa.string()),
        "positives": pa.array([[i] for i in range(40)], lists),
        "negatives": pa.array([[(i + k) % 40 for k in (1, 2, 3)] for i in range(40)], lists),
    }
    columns = {
        "passage_id": pa.array([f"{name}-p{i:02}" for i in range(40)]),
        "title": pa.nulls(40, pa.string()),
        "text": pa.array(passages),
    }
    folder.mkdir(parents=True)
    for file, table in (("examples", pa.table(examples)), ("passages", pa.table(columns))):
        with pa.OSFile(str(folder / f"{file}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    facts = {"collection": name, "prompts": ["find it"], "symmetric": False, "num_examples": 40}
    (folder / "component.json").write_text(json.dumps(facts))


def _batch(data: MaterialisedMixture, settings: TrainingSettings) -> TextBatch:
    plan = BatchPlan(data.spec.weights, data.sizes, settings.batch_size, 1, positives=data.positives())
    return BatchSource(data, plan, negatives=settings.negatives).homogeneous(0)


def _gradient(encoder: SentenceTransformer, loss: torch.Tensor) -> torch.Tensor:
    """Of all parameters that have one, (P,) on the CPU."""
    encoder.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten().float() for p in encoder.parameters() if p.grad is not None]).cpu()


def _passed(
    encoder: SentenceTransformer, texts: Sequence[str], budget: TokenBudget = PLENTY, *, bf16: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, D) and the gradient (P,) of a contrastive loss of them, both float32 on the CPU."""
    tokens = tokenise(encoder.tokenizer, texts, [LIMIT] * len(texts))
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=bf16):
        out = embed_across_ranks(encoder, tokens, budget).float()
    scores = out[::4] @ out.T / 0.05
    loss = (torch.logsumexp(scores, dim=1) - scores[:, 0]).sum()
    return out.detach().cpu(), _gradient(encoder, loss)


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _with_lora(model: Path, _: Path) -> SentenceTransformer:
    """LoRA that has been trained: what it starts from adds nothing to the embeddings, dropout or not."""
    encoder = load_encoder(str(model))
    add_lora(encoder, DROPOUT)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return encoder


def _with_own_dropout(model: Path, scratch: Path) -> SentenceTransformer:
    """A BERT, with dropout in its layers and in its attention."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2 * LIMIT, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
        hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2,
    )  # fmt: skip
    torch.manual_seed(2)
    BertModel(config).save_pretrained(scratch / "bert")
    tokenizer.save_pretrained(scratch / "bert")
    return SentenceTransformer(modules=[Transformer(str(scratch / "bert")), Pooling(64, "mean"), Normalize()])


@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("make", [_with_lora, _with_own_dropout])
def test_what_is_encoded_again_drops_the_same(
    tiny_model: Path, tmp_path: Path, device: torch.device, texts: list[str], make: Any, bf16: bool, seed: int
) -> None:
    """Both ways run the same kernels on the same micro-batches. What may differ is the order in which gradients of
    micro-batches are added up, which rounds at 1e-7; with bf16 those of a weight's copy in bf16 are, at 4e-3 a time.
    """
    encoder = make(tiny_model, tmp_path).train()
    assert encoder.device.type == device.type
    passes: list[None] = []
    encoder[0].register_forward_hook(lambda *_: passes.append(None))
    found, after, counts = [], [], []
    for budget, start in ((WHOLE, seed), (CACHED, seed), (WHOLE, seed + 100)):
        torch.manual_seed(start)
        passes.clear()
        found.append(_passed(encoder, texts, budget, bf16=bf16))
        after.append(torch.rand(1, device=device))  # those of the next step are not touched either
        counts.append(len(passes))
    assert counts[0] > 2
    assert counts[1] == 2 * counts[0] - 1
    for cached, plain in zip(found[1], found[0], strict=True):
        assert _relative(cached, plain) < (1e-2 if bf16 else 1e-5)
    assert torch.equal(after[0], after[1])
    assert _relative(found[2][1], found[0][1]) > 0.1
    assert not torch.equal(after[0], after[2])


@pytest.mark.parametrize("make", [_with_lora, _with_own_dropout])
def test_float32_on_the_gpu_is_float32_on_the_cpu(
    tiny_model: Path, tmp_path: Path, cuda: torch.device, texts: list[str], make: Any
) -> None:
    encoder = make(tiny_model, tmp_path).eval()
    on_gpu = _passed(encoder, texts, CACHED)
    on_cpu = _passed(encoder.to("cpu"), texts, CACHED)
    assert _relative(on_gpu[0], on_cpu[0]) < 1e-4
    assert _relative(on_gpu[1], on_cpu[1]) < 1e-4


def test_bf16_points_where_float32_does_and_its_losses_are_float32(
    data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, device: torch.device
) -> None:
    """The last layer is a linear one, whose output is in bf16 under autocast; that of a norm would not be. A second
    model, as tDRO's reference is, is not one that accelerate makes give float32.
    """
    gradients, embeddings = [], []
    for bf16 in (False, True):
        AcceleratorState._reset_state(True)
        torch.manual_seed(4)
        encoder, other = (
            SentenceTransformer(modules=[*list(load_encoder(str(tiny_model)))[:2], Dense(64, 48)]).eval()
            for _ in range(2)
        )
        loop = TrainingLoop(encoder, replace(SETTINGS, bf16=bf16), tmp_path / str(bf16))
        batch = _batch(data, SETTINGS)
        query, passages = loop.embed_batch(loop.encoder, batch)
        losses = batch_losses(loop, batch)
        with torch.no_grad():
            frozen = loop.embed_batch(other, batch)[0]
        assert {query.dtype, passages.dtype, losses.dtype, frozen.dtype} == {torch.float32}
        assert query.device.type == losses.device.type == device.type
        embeddings.append(torch.cat([query, passages]).detach().cpu())
        gradients.append(_gradient(loop.encoder, losses.mean()))
    assert 1e-4 < _relative(embeddings[1], embeddings[0]) < 0.03  # bf16 was in use
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.98


@pytest.mark.parametrize(
    "forms",
    [
        {"directions": ("qd", "qq", "dq", "dd"), "margin": 0.1, "spread_out": 2.0},
        {"loss": "expected_ndcg", "ndcg_positives": "all"},
        {"loss": "expected_ndcg", "ndcg_positives": "all", "ndcg_samples": 16},
    ],
)
def test_losses_on_the_gpu_are_those_of_the_cpu(forms: dict[str, Any], device: torch.device) -> None:
    """The rankings drawn, too: their noise is drawn on the CPU."""
    settings = replace(SETTINGS, **forms)
    loss = LOSSES[settings.loss]
    generator = torch.Generator().manual_seed(5)
    answers = torch.rand(8, 24, generator=generator) < 0.1
    query, passages = torch.randn(8, 16, generator=generator), torch.randn(8, 3, 16, generator=generator)
    more = {name: {"answers": answers, "key": (1, 2)}[name] for name in loss.given}
    more |= {name: getattr(settings, name) for name in loss.takes}
    found = []
    for there in (device, torch.device("cpu")):
        on = {name: part.to(there) if isinstance(part, torch.Tensor) else part for name, part in more.items()}
        given = query.to(there).requires_grad_()
        losses = loss.function(
            given, passages.to(there), temperature=0.1, in_batch=True, masked=answers.to(there), **on
        )
        losses = losses + settings.spread_out * spread_out(given, passages.to(there))
        losses.sum().backward()
        assert given.grad is not None
        found.append((losses.detach().cpu(), given.grad.cpu()))
    torch.testing.assert_close(*(losses for losses, _ in found), rtol=1e-4, atol=1e-5)
    assert _relative(*(gradient for _, gradient in found)) < 1e-4


def test_flash_attention_without_padding_gives_the_same_gradients(
    tiny_model: Path, device: torch.device, texts: list[str]
) -> None:
    if lacks_for_flash(bf16=True):
        pytest.skip(f"needs {', '.join(lacks_for_flash(bf16=True))}")
    found = []
    for attention in ("sdpa", "auto"):
        encoder = load_for_training(str(tiny_model), TrainingSettings(attention=attention, bf16=True)).train()
        assert getattr(encoder[0], "can_flatten_inputs", False) == (attention == "auto")
        found.append(_passed(encoder, texts, CACHED, bf16=True))
    assert _relative(found[1][0], found[0][0]) < 0.03
    assert float(torch.cosine_similarity(found[1][1], found[0][1], dim=0)) > 0.98


def test_texts_in_one_row_without_padding_are_as_padded_ones(
    tiny_model: Path, device: torch.device, texts: list[str]
) -> None:
    """What flash attention is fed; sdpa, which runs everywhere, keeps the texts of a row apart as well."""
    encoder = load_encoder(str(tiny_model)).eval()
    padded = _passed(encoder, texts, CACHED)
    transformer: Any = encoder[0]
    transformer.data_collator = DataCollatorWithFlattening(
        return_position_ids=True, return_seq_idx=True, return_flash_attn_kwargs=True
    )
    transformer.can_flatten_inputs = True
    shapes: list[tuple[int, ...]] = []
    transformer.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0]["input_ids"].shape)))
    flat = _passed(encoder, texts, CACHED)
    assert {rows for rows, _ in shapes} == {1}
    assert _relative(flat[0], padded[0]) < 1e-4
    assert _relative(flat[1], padded[1]) < 1e-4


@pytest.mark.parametrize("make", ["decoder", "BERT"])
def test_sdpa_masks_padding_as_eager_attention_does(
    tiny_model: Path, tmp_path: Path, device: torch.device, texts: list[str], make: str
) -> None:
    model = tiny_model
    if make == "BERT":
        model = tmp_path / "saved"
        _with_own_dropout(tiny_model, tmp_path).save(str(model), create_model_card=False)
    found = []
    for attention in ("eager", "sdpa"):
        encoder = load_for_training(str(model), TrainingSettings(attention=attention)).eval()
        assert encoder.transformers_model.config._attn_implementation == attention
        found.append(_passed(encoder, texts))  # one micro-batch: the shortest is padded by most of its row
    assert _relative(found[1][0], found[0][0]) < 1e-4
    assert _relative(found[1][1], found[0][1]) < 1e-4


def test_steps_move_lora_alone_and_the_merged_model_encodes_like_the_trained_one(
    data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, device: torch.device, texts: list[str]
) -> None:
    settings = replace(SETTINGS, lora_rank=4, lora_dropout=0.0, learning_rate=5e-3)
    loop = TrainingLoop(encoder_of(data, str(tiny_model), settings), settings, tmp_path / "checkpoints")
    loop.encoder.train()
    before = {name: p.detach().clone() for name, p in loop.encoder.named_parameters()}
    batch = loop.prepared(_batch(data, settings))
    losses = [step(loop, batch) for _ in range(settings.steps)]
    assert losses[-1] < losses[0] - 0.1
    moved = {name for name, p in loop.encoder.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    trained = loop.encoder.eval().encode(texts)
    merge_lora(loop.encoder)
    loop.encoder.save(str(tmp_path / "saved"), create_model_card=False)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "saved")).encode(texts), trained, atol=1e-5)
    assert not np.allclose(load_encoder(str(tiny_model)).encode(texts), trained, atol=1e-2)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("budget", [WHOLE, CACHED])
def test_activation_checkpointing_computes_layers_twice_and_gradients_alike(
    tiny_model: Path, device: torch.device, texts: list[str], budget: TokenBudget, bf16: bool
) -> None:
    """Also inside the gradient cache (the second budget), with dropout."""
    gradients, calls = [], []
    for on in (False, True):
        settings = TrainingSettings(lora_rank=4, lora_dropout=0.3, activation_checkpointing=on)
        encoder = load_for_training(str(tiny_model), settings).train()
        add_lora(encoder, settings)
        layers: Any = encoder.transformers_model.layers  # type: ignore[union-attr]
        count: list[None] = []
        layers[0].mlp.register_forward_pre_hook(lambda *_, count=count: count.append(None))
        torch.manual_seed(0)
        gradients.append(_passed(encoder, texts, budget, bf16=bf16)[1])
        calls.append(len(count))
    assert calls[1] > calls[0]
    assert _relative(gradients[1], gradients[0]) < (1e-2 if bf16 else 1e-5)


def _python(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Code in a Python of its own, with what is importable here."""
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=os.environ | {"PYTHONPATH": paths} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, output and last errors."""
    try:
        out, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, out, errors[-3000:]


@pytest.fixture(scope="module")
def killed(
    data: MaterialisedMixture, tiny_model: Path, device: torch.device, tmp_path_factory: pytest.TempPathFactory
) -> dict[bool, Path]:
    """bf16 -> the folder of a run that was killed after a step. Both at once: most of it is imports."""
    folder = tmp_path_factory.mktemp("killed")
    outs = {bf16: folder / f"bf16-{bf16}" for bf16 in (False, True)}
    same = [str(data.folder), data.spec.id, str(tiny_model)]
    started = [
        _python(KILLED, *same, json.dumps(asdict(replace(DROPOUT, bf16=bf16))), str(out), str(LAST))
        for bf16, out in outs.items()
    ]
    for process in started:
        code, _, errors = _ended(process)
        assert code == -signal.SIGKILL, errors
    return outs


@pytest.mark.parametrize("bf16", [False, True])
def test_a_killed_run_goes_on_to_the_model_of_one_that_was_not(
    killed: dict[bool, Path], data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, bf16: bool,
    record_property: Any,
) -> None:  # fmt: skip
    """Equal to rounding, with dropout: some kernels of a GPU add up in any order, so bits may differ. How far a run
    with other random numbers after step 5 comes out is the measure of it.
    """
    settings = replace(DROPOUT, bf16=bf16)
    shutil.copytree(killed[bf16], tmp_path / "other")
    seen: list[int] = []
    finetune(data, str(tiny_model), settings, killed[bf16], progress=lambda done, *_: seen.append(done))
    assert seen == list(range(LAST, settings.steps + 1))  # from the checkpoint of the step before
    finetune(data, str(tiny_model), settings, tmp_path / "whole")
    finetune(data, str(tiny_model), settings, tmp_path / "other", progress=_other_numbers)
    begun = load_file(tiny_model / "model.safetensors")
    change, parts, other = (_change(folder, begun) for folder in (tmp_path / "whole", killed[bf16], tmp_path / "other"))
    record_property("bit_equal", torch.equal(parts, change))
    record_property("relative_difference", _relative(parts, change))
    record_property("relative_difference_of_other_dropout", _relative(other, change))
    assert _relative(parts, change) < (2e-2 if bf16 else 1e-3)
    assert _relative(other, change) > 0.1
    for one, two in zip(_losses(tmp_path / "whole"), _losses(killed[bf16]), strict=True):
        assert two == pytest.approx(one, rel=2e-2 if bf16 else 1e-4, abs=1e-3 if bf16 else 1e-5)


def _other_numbers(done: int, _: int, __: str) -> None:
    torch.manual_seed(done)


def _change(folder: Path, begun: dict[str, torch.Tensor]) -> torch.Tensor:
    """What training changed in the weights, (P,)."""
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == begun.keys()
    return torch.cat([(weights[name] - begun[name]).flatten() for name in sorted(begun)])


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in json.loads((folder / "training.json").read_text())["losses"]]


def test_learned_weights_are_those_that_the_cpu_learns(
    data: MaterialisedMixture, tiny_model: Path, tmp_path: Path, device: torch.device
) -> None:
    elsewhere = None
    if device.type == "cuda":
        same = [str(data.folder), data.spec.id, str(tiny_model), json.dumps(asdict(TDRO))]
        elsewhere = _python(WEIGHTS, *same, str(tmp_path / "cpu" / "run"), CUDA_VISIBLE_DEVICES="")
    found = run_learner(data, str(tiny_model), str(tiny_model), TDRO, tmp_path / "here" / "run").weights
    for weights in found.values():
        assert sum(weights.values()) == pytest.approx(1.0, abs=1e-6)
    assert max(found["current"].values()) > 1 / 3 + 0.02
    if elsewhere is not None:
        code, out, errors = _ended(elsewhere)
        assert code == 0, errors
        for name, weights in json.loads(out.splitlines()[-1]).items():
            assert found[name] == pytest.approx(weights, abs=1e-3)


@contextmanager
def _free(device: torch.device, wanted: int) -> Iterator[None]:
    """Leave `wanted` bytes of the device free: one big tensor takes the rest."""
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    filler = torch.empty(torch.cuda.mem_get_info(device)[0] - wanted, dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del filler
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """Four layers, 256 wide."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    build_tiny([" ".join(words)] * 20, folder, seed=1, vocabulary=500, hidden=256, layers=4)
    return folder


def _long_batch(words: list[str], examples: int) -> TextBatch:
    """Queries with a positive and two negatives; all texts of 50 to 100 words, the most of which are cut."""
    random = Random(5)
    texts = [" ".join(random.choices(words, k=random.randint(50, 100))) for _ in range(4 * examples)]
    queries, passages = texts[:examples], texts[examples:]
    names = [f"e{i}" for i in range(examples)]
    return TextBatch(np.zeros(examples, dtype=int), queries, passages, None, np.arange(examples), names, ("long",))


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_measured_budget_fits_the_device_and_uses_it(
    wide_model: Path, tmp_path: Path, device: torch.device, words: list[str], bf16: bool, lora: int,
    record_property: Any,
) -> None:  # fmt: skip
    open_, free = replace(SETTINGS, bf16=bf16, lora_rank=lora, tokens_per_pass=0, tokens_kept=0), 2048 * MIB
    if device.type == "cpu":  # whose memory is not for filling
        open_ = replace(open_, tokens_per_pass=512, tokens_kept=1024)
        loop, batch = _loop_on_long_texts(wide_model, open_, tmp_path, words)
        step(loop, batch)
        assert loop.step == 1
        return
    encoder = _training_encoder(wide_model, open_)
    with _free(device, free):
        before = torch.cuda.memory_allocated(device)
        loop, batch = _loop_on_long_texts(wide_model, open_, tmp_path, words, encoder)
        torch.cuda.reset_peak_memory_stats(device)
        step(loop, batch)
        used = torch.cuda.max_memory_allocated(device) - before
    record_property("tokens_kept", loop.budget.kept)
    record_property("share_used", used / free)
    assert loop.step == 1
    assert 0.4 * free < used < free


def _training_encoder(model: Path, settings: FinetuneSettings) -> SentenceTransformer:
    encoder = load_for_training(str(model), settings).train()
    add_lora(encoder, settings)
    return encoder


def _loop_on_long_texts(
    model: Path, settings: FinetuneSettings, folder: Path, words: list[str], encoder: SentenceTransformer | None = None
) -> tuple[TrainingLoop, TextBatch]:
    """A loop, and a batch of at least twice the tokens that it keeps, of unlike lengths."""
    loop = TrainingLoop(encoder or _training_encoder(model, settings), settings, folder)
    batch = loop.prepared(_long_batch(words, 1 + 4 * loop.budget.kept // (4 * LIMIT)))
    assert batch.tokens is not None
    assert min(map(len, batch.tokens.ids)) < max(map(len, batch.tokens.ids)) == LIMIT
    assert batch.tokens.num_tokens > 2 * loop.budget.kept
    return loop, batch


def test_out_of_memory_says_so_and_what_to_change(
    wide_model: Path, tmp_path: Path, cuda: torch.device, words: list[str]
) -> None:
    settings = replace(SETTINGS, tokens_per_pass=10**9, tokens_kept=10**9)
    loop = TrainingLoop(_training_encoder(wide_model, settings), settings, tmp_path)
    _passed(loop.encoder, words[:8])  # libraries take their working memory now
    loop.optimizer.zero_grad(set_to_none=True)
    batch = loop.prepared(_long_batch(words, 200))
    message = r"out of memory at step 0 \(collection long; .*--set tokens_kept=500000000 "
    with _free(cuda, 300 * MIB), pytest.raises(MixtureError, match=message):
        step(loop, batch)
    loop.optimizer.zero_grad(set_to_none=True)
    loop.budget = TokenBudget(1024, 1024)
    with _free(cuda, 300 * MIB):  # fewer tokens at once are enough indeed
        step(loop, batch)
    assert loop.step == 1


@pytest.mark.parametrize("blocks", [{}, {"query_block": 7, "corpus_block": 300}])
def test_exact_search_finds_the_same_bits_ties_by_lower_index(device: torch.device, blocks: dict[str, int]) -> None:
    """Whole numbers: inner products are exact, and most of them tie."""
    random = torch.Generator().manual_seed(0)
    query, corpus = (torch.randint(-3, 4, (n, 8), generator=random).float() for n in (40, 20_000))
    scores, places = torch.sort(query @ corpus.T, dim=1, descending=True, stable=True)
    assert int((scores[:, :100] == scores[:, 1:101]).sum()) > 1000
    found, indices = top_k(query.to(device), corpus.to(device), 100, **blocks)
    assert found.device.type == indices.device.type == device.type
    assert torch.equal(found.cpu(), scores[:, :100])
    assert torch.equal(indices.cpu(), places[:, :100])

"""The steps of `gpu.py`: what each measures. They note what they have found so far, more each time."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import throughput
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search
from transformers import AutoTokenizer

from mixture.errors import MixtureError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers.batch.encoding import encode
from trainers.batch.gradient_cache import TokenBudget
from trainers.batch.texts import BatchSource, TextBatch
from trainers.evaluation.search import top_k
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.loop import step as train_step
from trainers.jobs.folder import open_folder
from trainers.loop.steps import TrainingLoop
from trainers.model.adapters import add_lora
from trainers.model.encoder import lacks_for_flash, load_for_training
from trainers.parallel import ranks

# Takes what a step has found so far: whatever happens next, that stays.
Note = Callable[[dict[str, Any]], None]
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "peft", "pyarrow", "flash-attn", "datasets")


@dataclass(frozen=True)
class Shape:
    """What the steps are run on. `peer` and `minilm_peer`: texts of a mini-batch of the peer, to choose from."""

    model: str
    minilm: str
    batch: int
    negatives: int
    max_tokens: tuple[int, int]
    bf16: bool
    probe: int  # examples of a step that only tries something
    passes: tuple[int, ...]  # tokens_per_pass to try
    peer: tuple[int, ...]
    minilm_batch: int
    minilm_peer: tuple[int, ...]
    encode_texts: int
    encode_sizes: tuple[int, ...]
    search: tuple[int, int, int, int]  # documents, dimensions, queries, k
    matmul: int
    copy_mb: int


SHAPES = {
    "0.5b": Shape(
        model="0.5b", minilm="minilm", batch=2048, negatives=7, max_tokens=(128, 512), bf16=True, probe=256,
        passes=(8_192, 16_384, 32_768), peer=(8, 16, 32), minilm_batch=1024,
        minilm_peer=(64, 256, 1024), encode_texts=18_000, encode_sizes=(32, 256, 1024),
        search=(1_000_000, 384, 10_000, 100), matmul=8192, copy_mb=4096,
    ),
    "tiny": Shape(
        model="tiny", minilm="tiny-minilm", batch=16, negatives=2, max_tokens=(32, 48), bf16=False, probe=8,
        passes=(512, 1_024), peer=(4, 8), minilm_batch=16, minilm_peer=(16,), encode_texts=60,
        encode_sizes=(8, 32), search=(3_000, 16, 40, 10), matmul=128, copy_mb=1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Where a step finds its texts and models, and what size it has."""

    data: Path
    work: Path
    shape: Shape
    seconds: float = 0.0  # that the step has

    @property
    def mixture(self) -> MaterialisedMixture:
        return open_folder(self.data / "mixture")

    def model(self, shape: str) -> str:
        """The folder of a model, built from nothing but its shape by the first step that needs it."""
        folder = self.work / "models"
        if not (folder / shape / "modules.json").is_file():
            shapes.build(shape, AutoTokenizer.from_pretrained(self.data / "tokenizer"), folder)
        return str(folder / shape)

    def options(self, **more: Any) -> argparse.Namespace:
        """As `throughput.py` takes them."""
        return argparse.Namespace(**{
            "batch_size": self.shape.batch, "negatives": self.shape.negatives, "max_tokens": self.shape.max_tokens,
            "bf16": self.shape.bf16, "tokens_per_pass": 0, "tokens_kept": 0, "workers": 0, **more,
        })  # fmt: skip

    def batch(self, collection: str, batch_size: int, negatives: int | None = None) -> TextBatch:
        """The first full batch of a collection."""
        data = self.mixture
        weights = {name: float(name == collection) for name in data.components}
        plan = BatchPlan(weights, data.sizes, batch_size, 42, positives=data.positives())
        source = BatchSource(data, plan, negatives=self.shape.negatives if negatives is None else negatives)
        for step in range(100):
            batch = source.homogeneous(step)
            if len(batch.queries) == batch_size:
                return batch
        raise SystemExit(f"{collection} has no batch of {batch_size} in the folder; prepare one with more rows")

    def mixed(self, batch_size: int) -> TextBatch:
        """A batch over all collections, as `learn-weights` has them."""
        data = self.mixture
        plan = BatchPlan(data.spec.weights, data.sizes, batch_size, 42)
        return BatchSource(data, plan, negatives=self.shape.negatives).mixed(0)

    def passages(self, count: int) -> list[str]:
        part = self.mixture.components["digests"]
        return [part.passage(n % part.num_passages) for n in range(count)]

    def folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.work))


def first(batch: TextBatch, count: int) -> TextBatch:
    """The first examples of a batch, with their passages."""
    each = len(batch.passages) // len(batch.queries)
    masked = None if batch.masked is None else batch.masked[:count, : count * each]
    return replace(
        batch, collections=batch.collections[:count], queries=batch.queries[:count], masked=masked,
        passages=batch.passages[: count * each], rows=batch.rows[:count], examples=batch.examples[:count], tokens=None,
    )  # fmt: skip


def free() -> None:
    """Give back what the last model held, so that the next one finds an empty card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def clock(work: Callable[[], Any], repeats: int = 1) -> float:
    """The median of seconds; the device is waited for."""
    found = []
    for _ in range(repeats):
        throughput.synchronise()
        began = time.perf_counter()
        work()
        throughput.synchronise()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def peak_flops() -> float | None:
    """Dense bf16 operations a second of the card, by its data sheet; None for a card that is not listed."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((flops for known, flops in throughput.PEAK.items() if known in name), None)


def rates(seconds: float, work: dict[str, float]) -> dict[str, Any]:
    """A step's time with what it did: tokens and share of the peak are of distinct texts, which are encoded once."""
    peak = peak_flops()
    flops = work["flops_of_distinct_texts"] / seconds
    return {
        "seconds": round(seconds, 4), "tokens_per_second": round(work["tokens_of_distinct_texts"] / seconds),
        "tflops_per_second": round(flops / 1e12, 3), "share_of_peak": None if peak is None else round(flops / peak, 4),
    }  # fmt: skip


def device(bench: Bench, note: Note) -> None:
    """What the machine is, and its two ceilings: a large matrix product in bf16, a large copy."""
    on_gpu = torch.cuda.is_available()
    there = torch.device("cuda" if on_gpu else "cpu")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    facts: dict[str, Any] = {
        "name": torch.cuda.get_device_name() if on_gpu else f"no GPU, {os.cpu_count()} cores",
        "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions,
        "attention": "flash_attention_2" if not lacks_for_flash(bf16=True) else "sdpa",
        "flash_lacks": lacks_for_flash(bf16=True),
    }  # fmt: skip
    if on_gpu:
        facts |= {"memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
                  "cuda": torch.version.cuda, "peak_bf16_tflops": (peak_flops() or 0) / 1e12}  # fmt: skip
    note(facts)
    size = bench.shape.matmul
    one, two = (torch.randn(size, size, device=there, dtype=torch.bfloat16) for _ in range(2))
    clock(lambda: one @ two, 3)
    facts["matmul_bf16_tflops"] = round(2 * size**3 / clock(lambda: one @ two, 10) / 1e12, 2)
    source = torch.empty(bench.shape.copy_mb * 2**18, device=there)
    target = torch.empty_like(source)
    clock(lambda: target.copy_(source), 3)
    facts["copy_gb_per_second"] = round(2 * source.nbytes / clock(lambda: target.copy_(source), 10) / 1e9, 1)
    note(facts)


def train(bench: Bench, note: Note) -> None:
    """`mixture train`: a batch without repeated texts, one of short texts with repeated negatives, the first again.

    What is compared is the first step of each, as of the peer.
    """
    shape, options = bench.shape, bench.options()
    digests, agnews = (bench.batch(name, shape.batch) for name in ("digests", "agnews"))
    loop = throughput.training_loop(bench.model(shape.model), options, bench.folder())
    timed = throughput.timed(loop, [first(digests, shape.probe), digests, agnews, digests])
    inside = timed["seconds_in_step"]
    found: dict[str, Any] = {
        "batch_size": shape.batch, "negatives": shape.negatives, "max_tokens": shape.max_tokens, "bf16": shape.bf16,
        "budget": timed["budget"], "share_waited_for_data": round(timed["share_waited_for_data"], 5),
        "peak_memory_gib": timed.get("peak_memory_gib"),
    }  # fmt: skip
    for name, batch, seconds in (("digests", digests, inside[::2]), ("agnews", agnews, inside[1:2])):
        work = throughput.work_of(loop, batch)
        all_seconds = [round(value, 3) for value in seconds]
        found[name] = rates(seconds[0], work) | {"all_seconds": all_seconds, "work": work}
    note(found)
    found["tokens_per_pass"] = []
    small, kept = loop.prepared(first(digests, shape.probe)), loop.budget.kept
    for per_pass in shape.passes:
        loop.budget = TokenBudget(per_pass, max(kept, per_pass))
        row: dict[str, Any] = {"tokens": per_pass}
        try:
            train_step(loop, small)
            row["seconds"] = round(clock(lambda: train_step(loop, small), 2), 4)
        except MixtureError as error:
            row["why"] = str(error)
        found["tokens_per_pass"].append(row)
        note(found)


def tests(bench: Bench, note: Note) -> None:
    """`pytest -m gpu`; without a GPU those of its tests that a processor can run, to see that they would run."""
    folder, on_gpu = bench.folder(), torch.cuda.is_available()
    report, log = folder / "report.xml", folder / "log"
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "tests/trainers/test_gpu.py", "-p", "no:cacheprovider", "-rA",
        "-v", "-o", "junit_family=xunit1", f"--junit-xml={report}",
    ]  # fmt: skip
    environment = os.environ | ({} if on_gpu else {"MIXTURE_GPU_REHEARSAL": "1"})
    with log.open("w") as out:
        try:
            returned = subprocess.run(
                command, cwd=ROOT, env=environment, check=False, stdout=out, stderr=subprocess.STDOUT,
                timeout=bench.seconds,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            returned = None
    print(log.read_text())
    if returned is None:  # pytest writes its report at the end
        passed = log.read_text().count(" PASSED")
        note({"returned": None, "passed": passed})
        raise SystemExit(f"stopped after {bench.seconds:.0f} s; {passed} had passed")
    counts: Counter[str] = Counter()
    not_passed, notes = {}, {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        outcome = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")
        counts[outcome] += 1
        if outcome != "passed":
            (detail,) = case.findall(outcome)[:1]
            not_passed[name] = f"{outcome}: {(detail.get('message') or '').strip()[:300]}"
        for noted in case.iter("property"):
            notes[f"{name}: {noted.get('name')}"] = noted.get("value")
    note({**counts, "returned": returned, "not_passed": not_passed, "noted": notes})
    if counts["failure"] or counts["error"] or not counts["passed"]:
        raise SystemExit(f"{counts['failure']} tests failed, {counts['error']} in error, {counts['passed']} passed")


def peer(bench: Bench, note: Note) -> None:
    """SentenceTransformerTrainer with CachedMultipleNegativesRankingLoss on the batches of `train`, at the best of its
    mini-batches."""
    shape = bench.shape
    batches = [bench.batch(name, shape.batch) for name in ("digests", "agnews")]
    _peer(bench, note, bench.model(shape.model), batches, shape.peer, bench.options(workers=2))


def _peer(
    bench: Bench, note: Note, model: str, batches: list[TextBatch], sizes: Sequence[int], options: argparse.Namespace
) -> None:
    """Each mini-batch on the first examples, then the best on all batches; out of memory is a result."""
    if importlib.util.find_spec("datasets") is None:
        raise SystemExit("the trainer of sentence-transformers needs the package datasets")
    warm, probe = (first(batches[0], bench.shape.probe // part) for part in (4, 2))
    found: dict[str, Any] = {"sizes": []}

    def run(some: list[TextBatch], size: int, report: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        free()
        return throughput.peer(model, some, options, bench.folder(), size, report=report)

    for size in sizes:
        row: dict[str, Any] = {"mini_batch": size}
        try:
            row["seconds"] = round(run([warm, probe], size)["seconds_in_step"][0], 4)
        except torch.OutOfMemoryError:
            row["why"] = "out of memory"
        found["sizes"].append(row)
        note(found)
    fitting = [row for row in found["sizes"] if "seconds" in row]
    if not fitting:
        raise SystemExit("no mini-batch of the peer fits")
    found["best"] = min(fitting, key=lambda row: row["seconds"])["mini_batch"]

    def report(step: int, seconds: float) -> None:
        if step:  # after the one that warms up
            name = batches[step - 1].names[int(batches[step - 1].collections[0])]
            every = [*found.get(name, {}).get("all_seconds", ()), round(seconds, 4)]
            found[name] = {"seconds": statistics.median(every) if len(every) > 2 else every[0], "all_seconds": every}
            note(found | throughput.peak_memory())

    run([first(batches[0], bench.shape.probe), *batches], found["best"], report)


def tdro(bench: Bench, note: Note) -> None:
    """A step of `learn-weights`, reference included and nothing of it cached, beside a plain step on the same batch."""
    shape, options, model = bench.shape, bench.options(), bench.model(bench.shape.model)
    batch = bench.mixed(shape.batch)
    batches = [first(batch, shape.probe), batch]
    loop = throughput.training_loop(model, options, bench.folder(), in_batch=False)
    plain = throughput.timed(loop, batches)["seconds_in_step"][0]
    found: dict[str, Any] = {"plain": rates(plain, throughput.work_of(loop, batch))}
    note(found)
    del loop
    free()
    timed = throughput.tdro(model, batches, options, bench.folder())
    seconds = timed["seconds_in_step"][0]
    found |= {"tdro": {"seconds": round(seconds, 4), "peak_memory_gib": timed.get("peak_memory_gib")},
              "times_plain": round(seconds / plain, 3)}  # fmt: skip
    note(found)


def minilm(bench: Bench, note: Note) -> None:
    """MiniLM's shape, ours and the peer's, at a batch that a GPU likes."""
    shape = bench.shape
    queries, passages = shape.max_tokens
    options = bench.options(batch_size=shape.minilm_batch, max_tokens=(queries, passages // 2), workers=2)
    batch, model = bench.batch("digests", shape.minilm_batch), bench.model(shape.minilm)
    loop = throughput.training_loop(model, options, bench.folder())
    timed = throughput.timed(loop, [first(batch, shape.probe), *[batch] * 3])
    found: dict[str, Any] = {
        "batch_size": shape.minilm_batch, "max_tokens": options.max_tokens,
        "share_waited_for_data": round(timed["share_waited_for_data"], 4), "budget": timed["budget"],
        "ours": rates(statistics.median(timed["seconds_in_step"]), throughput.work_of(loop, batch)),
        "with_wait": round(statistics.fmean(timed["seconds"]), 4), "peak_memory_gib": timed.get("peak_memory_gib"),
    }  # fmt: skip
    note(found)
    del loop
    _peer(bench, lambda part: note(found | {"peer": part}), model, [batch] * 3, shape.minilm_peer, options)


def encoding(bench: Bench, note: Note) -> None:
    """Encoding for mining (`batch.encoding.encode`, float32) beside `SentenceTransformer.encode` at its best."""
    shape = bench.shape
    encoder = SentenceTransformer(bench.model(shape.minilm))
    encoder.max_seq_length = shape.max_tokens[1] // 2
    texts = bench.passages(shape.encode_texts)
    encode(encoder, texts[: len(texts) // 20])
    ours = clock(lambda: encode(encoder, texts).cpu().numpy(), 2)
    found: dict[str, Any] = {"texts": len(texts), "ours": {"seconds": round(ours, 4), "texts_per_second":
                             round(len(texts) / ours)}, "peer": []}  # fmt: skip
    note(found)
    vectors = encode(encoder, texts).cpu()
    for size in shape.encode_sizes:

        def whole(size: int = size) -> Any:
            return encoder.encode(texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False)

        seconds = clock(whole)
        found["peer"].append({"batch_size": size, "seconds": round(seconds, 4)})
        found["times_the_peer"] = round(min(row["seconds"] for row in found["peer"]) / ours, 3)
        note(found)
    found["largest_difference"] = float(np.abs(vectors.numpy() - whole()).max())
    note(found)


def search(bench: Bench, note: Note) -> None:
    """Exact search, ties decided, beside the product and topk alone, and beside `semantic_search`."""
    documents, dimensions, queries, k = bench.shape.search
    there = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    corpus, asked = (
        torch.nn.functional.normalize(torch.randn(n, dimensions, device=there), dim=1) for n in (documents, queries)
    )

    def limit() -> None:
        for some in asked.split(512):
            for block in corpus.split(2**18):
                torch.topk(some @ block.T, k, dim=1)

    clock(lambda: top_k(asked[:64], corpus, k))
    found: dict[str, Any] = {"documents": documents, "dimensions": dimensions, "queries": queries, "k": k,
                             "seconds": round(clock(lambda: top_k(asked, corpus, k)), 4)}  # fmt: skip
    note(found)
    clock(limit)
    found["product_and_topk_seconds"] = round(clock(limit), 4)
    some = asked[: max(1, queries // 10)]
    semantic_search(some[:8], corpus, top_k=k)
    found["semantic_search_seconds_a_tenth"] = round(clock(lambda: semantic_search(some, corpus, top_k=k)), 4)
    found["seconds_a_tenth"] = round(clock(lambda: top_k(some, corpus, k)), 4)
    note(found)
    theirs = semantic_search(some, corpus, top_k=k)
    same = sum(
        row["corpus_id"] == int(mine)
        for rows, own in zip(theirs, top_k(some, corpus, k)[1].tolist(), strict=True)
        for row, mine in zip(rows, own, strict=True)
    )
    found["same_as_semantic_search"] = round(same / (len(some) * k), 5)
    note(found)


def fsdp(bench: Bench, note: Note) -> None:
    """A sharded model over NCCL (gloo without a GPU), on one rank as torchrun starts it, beside a whole one."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}  # fmt: skip
    if not torch.cuda.is_available():
        torch.distributed.init_process_group("gloo")
    ranks.state()
    shape, model = bench.shape, bench.model(bench.shape.model)
    batch = bench.batch("digests", shape.probe, 1)
    found: dict[str, Any] = {"backend": torch.distributed.get_backend(), "batch_size": shape.probe}
    for name in ("whole", "sharded"):
        free()
        options = bench.options(batch_size=shape.probe, negatives=1)
        loop = throughput.training_loop(model, options, bench.folder(), fsdp=name == "sharded")
        ready = loop.prepared(batch)
        losses: list[float] = []
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            losses.append(float(train_step(loop, ready).mean()))
            throughput.synchronise()
            seconds.append(time.perf_counter() - began)
        found[name] = {
            "sharded": loop.sharded, "seconds": round(min(seconds[1:]), 4), "losses": [round(v, 6) for v in losses],
            "peak_memory_gib": throughput.peak_memory().get("peak_memory_gib"),
        }  # fmt: skip
        if loop.sharded:
            loop.checkpoints.save(loop.step)
            loop.checkpoints.load()
            found["checkpoint_written_and_read"] = True
        del loop, ready
        note(found)
    torch.distributed.destroy_process_group()
    whole, sharded = (found[name]["losses"] for name in ("whole", "sharded"))
    found["largest_loss_difference"] = max(abs(a - b) for a, b in zip(whole, sharded, strict=True))
    if not found["sharded"]["sharded"]:
        raise SystemExit("the model was not sharded")
    note(found)


PARTS = (  # the first that fits a name
    ("attention", r"attention|flash|fmha"),
    ("matrix products", r"::(mm|bmm|addmm|matmul|linear|baddbmm)$|gemm"),
    ("optimiser", r"adam|optimizer|foreach"),
    ("copies and casts", r"copy|::to$|clone|contiguous|Memcpy|pin_memory"),
    ("embedding and indexing", r"embedding|index|gather|scatter"),
    ("sums and norms", r"mean|sum|norm|var|logsumexp|softmax"),
    ("elementwise", r"::(mul|add|sub|div|pow|rsqrt|silu|gelu|neg|cat|exp|fill|zero|masked|dropout|bernoulli)|where"),
)


def profile(bench: Bench, note: Note) -> None:
    """One step under torch.profiler: the five operators that take longest by themselves, and parts of the whole."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as profiler

    shape = bench.shape
    loop = throughput.training_loop(bench.model(shape.model), bench.options(), bench.folder())
    batch = loop.prepared(first(bench.batch("digests", shape.batch), shape.probe))
    train_step(loop, batch)
    wall = clock(lambda: train_step(loop, batch))
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profiler(activities=activities) as record, record_function("a step"):
        train_step(loop, batch)
        throughput.synchronise()
    own: Counter[str] = Counter()
    for event in record.key_averages():
        if event.device_type == DeviceType.CPU and event.key != "a step":
            own[event.key] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(own.values())
    parts: Counter[str] = Counter()
    for name, spent in own.items():
        parts[next((part for part, names in PARTS if re.search(names, name, re.IGNORECASE)), "other")] += spent
    found = {
        "examples": shape.probe, "model": shape.model, "of": "time on the GPU" if on_gpu else "processor time",
        "step_seconds": round(wall, 4), "profiled_seconds": round(total / 1e6, 4),
        "largest": [{"operator": name, "share": round(spent / total, 4)} for name, spent in own.most_common(5)],
        "parts": {name: round(spent / total, 4) for name, spent in parts.most_common()},
    }  # fmt: skip
    note(found)


def compiled(bench: Bench, note: Note) -> None:
    """Whether torch.compile of the layers would pay: steps before and after. Nothing of ours uses it yet."""
    shape = bench.shape
    loop = throughput.training_loop(bench.model(shape.model), bench.options(), bench.folder())
    batch = loop.prepared(first(bench.batch("digests", shape.batch), shape.probe))
    train_step(loop, batch)
    found: dict[str, Any] = {"plain_seconds": round(clock(lambda: train_step(loop, batch), 2), 4)}
    note(found)
    layers: Any = loop.encoder.transformers_model.layers  # type: ignore[union-attr]
    for layer in layers:
        layer.compile(dynamic=True)
    found["first_seconds"] = round(clock(lambda: train_step(loop, batch)), 2)
    train_step(loop, batch)
    found["compiled_seconds"] = round(clock(lambda: train_step(loop, batch), 2), 4)
    note(found)


def lora(bench: Bench, note: Note) -> None:
    """A step with LoRA: the weights as they are, read in both directions, in 4 bits."""
    shape, more = bench.shape, {"plain": {}, "bidirectional": {"bidirectional": True}, "four_bit": {"four_bit": True}}
    batch, found = first(bench.batch("digests", shape.batch), shape.probe), {}
    for name, settings in more.items():
        free()
        chosen = throughput.settings_of(FinetuneSettings, bench.options(), lora_rank=8, **settings)
        row: dict[str, Any] = {}
        try:
            encoder = load_for_training(bench.model(shape.model), chosen)
            add_lora(encoder, chosen)
            loop = TrainingLoop(encoder, chosen, bench.folder())
            loop.encoder.train()
            ready = loop.prepared(batch)
            row["losses"] = [round(float(train_step(loop, ready).mean()), 6) for _ in range(2)]
            row["seconds"] = round(clock(lambda loop=loop, ready=ready: train_step(loop, ready), 2), 4)
            row |= throughput.peak_memory()
            row["weights_gib"] = round(sum(p.nbytes for p in encoder.parameters()) / 2**30, 4)
            del encoder, loop, ready
        except MixtureError as error:
            row["why"] = str(error)
        found[name] = row
        note(found)


def losses(bench: Bench, note: Note) -> None:
    """A step of `mixture train` with each loss and what is added to it, at MiniLM's shape."""
    shape = bench.shape
    options = bench.options(batch_size=shape.minilm_batch)
    loop = throughput.training_loop(bench.model(shape.minilm), options, bench.folder())
    batch, plain = loop.prepared(bench.batch("digests", shape.minilm_batch)), loop.settings
    found: dict[str, Any] = {"batch_size": shape.minilm_batch, "negatives": shape.negatives, "losses": {}}
    for name, forms in FORMS.items():
        free()
        loop.settings = replace(plain, **forms)
        row: dict[str, Any] = {}
        try:
            train_step(loop, batch)
            row["seconds"] = round(clock(lambda: train_step(loop, batch), 2), 4)
            row |= throughput.peak_memory()
        except MixtureError as error:
            row["why"] = str(error)
        found["losses"][name] = row
        note(found)


# What `losses` trains with.
FORMS: dict[str, dict[str, Any]] = {
    "info_nce": {}, "symmetric_loss": {"symmetric_loss": True}, "directions": {"directions": ("qd", "qq", "dq", "dd")},
    "spread_out": {"spread_out": 1.0}, "expected_ndcg": {"loss": "expected_ndcg"},
    "all positives": {"loss": "expected_ndcg", "ndcg_positives": "all"},
    "16 rankings drawn": {"loss": "expected_ndcg", "ndcg_positives": "all", "ndcg_samples": 16},
}  # fmt: skip

STEPS: dict[str, Callable[[Bench, Note], None]] = {
    "device": device, "train": train, "tests": tests, "peer": peer, "tdro": tdro, "minilm": minilm, "encode": encoding,
    "search": search, "fsdp": fsdp, "profile": profile, "compile": compiled, "losses": losses,
    "lora": lora,
}  # fmt: skip

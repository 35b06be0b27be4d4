"""What sentence-transformers' trainer draws with the sampler is what our own draws: the rows of `BatchPlan`."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.utils.data import ConcatDataset
from transformers import TrainerCallback

from mixture import Store, UsageError, jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.registry import folders
from mixture.sampling import BatchPlan
from mixture.specs import MixtureSpec
from mixture.store.materialise import materialise
from trainers import MixtureBatchSampler
from trainers.parallel import ranks

WEIGHTS = {"easy": 0.5, "few": 0.1, "hard": 0.15, "middle": 0.25, "never": 0.0}
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def exported(
    small_store_made_once: Path, tmp_path_factory: pytest.TempPathFactory, write_collection: Callable[..., Path]
) -> tuple[Path, MaterialisedMixture]:
    """A mixture's folder for sentence-transformers, and its data: one collection is smaller than a batch and shares
    positives, one has no weight."""
    folder = tmp_path_factory.mktemp("exported")
    shared = [{"query": f"q{i}", "pos": [f"p{i}", f"p{i // 3}"], "neg": ["n"]} for i in range(7)]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shared))
    files = [write_collection(folder, name) for name in ("easy", "hard", "middle", "never")]
    with Store.open(folder / "store", create=True) as store:
        jobs.ingest(store, [*map(str, files), str(folder / "few.jsonl")])
        spec = registry.weighted(registry.pin(store), WEIGHTS)
        folders.export_hf_dataset(store, registry.save(store, spec, "mix"), folder / "hf")
        return folder / "hf", materialise(store, spec)


def plan_of(data: MaterialisedMixture, batch_size: int, seed: int) -> BatchPlan:
    """As `mixture train` makes it."""
    return BatchPlan(data.spec.weights, data.sizes, batch_size, seed, positives=data.positives())


def planned(data: MaterialisedMixture, plan: BatchPlan, step: int) -> list[tuple[str, str]]:
    name, rows = plan.batch(step)
    return [(name, data.components[name].example(int(row)).query) for row in rows]


def sampler_of(folder: Path, batch_size: int, seed: int) -> MixtureBatchSampler:
    parts = list(datasets.load_from_disk(str(folder)).values())
    inner = [torch.utils.data.BatchSampler(range(len(part)), batch_size, False) for part in parts]
    return MixtureBatchSampler.of(folder)(ConcatDataset(parts), batch_samplers=inner, seed=seed)


def names_and_queries(sampler: MixtureBatchSampler, batch: list[int]) -> list[tuple[str, str]]:
    parts = list(zip(sorted(WEIGHTS), sampler.dataset.datasets, strict=True))
    return [(name, part[i - first]["anchor"]) for i in batch for (name, part), first in
            zip(parts, [0, *sampler.dataset.cumulative_sizes], strict=False) if 0 <= i - first < len(part)]  # fmt: skip


class Seen:
    """A collator that keeps the queries of each batch."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.only_queries = inner, False
        self.queries: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        self.queries.append([row["anchor"] for row in features])
        result: dict[str, Any] = {} if self.only_queries else self.inner(features)
        return result


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def trainer_of(
    folder: Path, model: str, out: Path, *, gather: bool = False, **given: Any
) -> tuple[SentenceTransformerTrainer, Seen]:
    options = {"max_steps": 30, "per_device_train_batch_size": 8, "report_to": "none", "save_strategy": "no",
               "use_cpu": True, "disable_tqdm": True, "seed": 5, "logging_steps": 1000} | given  # fmt: skip
    arguments = SentenceTransformerTrainingArguments(
        str(out), multi_dataset_batch_sampler=MixtureBatchSampler.of(folder), **options
    )
    encoder = SentenceTransformer(model, device="cpu")
    trainer = SentenceTransformerTrainer(
        encoder,
        arguments,
        datasets.load_from_disk(str(folder)),
        loss=MultipleNegativesRankingLoss(encoder, gather_across_devices=gather),
    )
    trainer.data_collator = seen = Seen(trainer.data_collator)
    return trainer, seen


def loaded(trainer: SentenceTransformerTrainer, seen: Seen, steps: int) -> list[list[str]]:
    """The queries of the first `steps` batches that the trainer's dataloader gives, epoch after epoch."""
    loader = trainer.get_train_dataloader()
    seen.only_queries = True
    for epoch in range(-(-steps // len(loader))):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
    return seen.queries[:steps]


def test_the_trainer_s_dataloader_gives_the_plan_s_rows(
    exported: tuple[Path, MaterialisedMixture], static_model: Path, tmp_path: Path
) -> None:
    folder, data = exported
    plan = plan_of(data, 6, 5)
    trainer, seen = trainer_of(folder, str(static_model), tmp_path, per_device_train_batch_size=6)
    found = loaded(trainer, seen, 400)
    assert found == [[query for _, query in planned(data, plan, step)] for step in range(400)]


def test_its_batches_are_the_plan_s_through_all_epochs(exported: tuple[Path, MaterialisedMixture]) -> None:
    folder, data = exported
    plan, sampler = plan_of(data, 8, 3), sampler_of(folder, 8, 3)
    assert len(sampler) == math.ceil((3 * 40 + 7) / 8)
    step, short = 0, 0
    for epoch in range(20):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert names_and_queries(sampler, batch) == planned(data, plan, step)
            step, short = step + 1, short + (len(batch) < 8)
    assert (step, short > 5) == (320, True)


def test_two_ranks_share_each_batch(
    exported: tuple[Path, MaterialisedMixture], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = exported
    monkeypatch.setattr(ranks, "state", lambda: SimpleNamespace(num_processes=2))
    plan, sampler = plan_of(data, 8, 3), sampler_of(folder, 4, 3)
    shards = [BatchSamplerShard(sampler, 2, rank, even_batches=False) for rank in range(2)]
    step, uneven = 0, 0
    for epoch in range(10):
        sampler.set_epoch(epoch)
        pairs = list(zip(*shards, strict=True))
        assert len(pairs) == len(shards[0]) == len(shards[1])
        for pair in pairs:
            wanted = planned(data, plan, step)
            found = [row for piece in pair for row in names_and_queries(sampler, piece)]
            assert found == [wanted[i % len(wanted)] for i in range(len(found))]
            assert 0 <= len(found) - len(wanted) <= 1
            assert len(pair[0]) == len(pair[1])
            step, uneven = step + 1, uneven + (len(found) > len(wanted))
    assert (step, uneven > 0) == (160, True)


def test_collections_come_by_their_weights(exported: tuple[Path, MaterialisedMixture]) -> None:
    sampler = sampler_of(exported[0], 8, 11)
    steps = 2_000
    first = dict(zip([0, *sampler.dataset.cumulative_sizes], sorted(WEIGHTS), strict=False))
    found: Counter[str] = Counter()
    for step in range(steps):
        row = sampler.rows(step, 0)[0]
        found[first[max(start for start in first if start <= row)]] += 1
    for name, weight in WEIGHTS.items():
        assert abs(found[name] / steps - weight) <= 3 * math.sqrt(weight * (1 - weight) / steps)


def test_the_trainer_draws_them_and_goes_on_where_it_was(
    exported: tuple[Path, MaterialisedMixture], static_model: Path, tmp_path: Path
) -> None:
    """It stops in its second epoch of 16 steps; the arguments that it saves have the sampler."""
    folder, data = exported
    plan = plan_of(data, 8, 5)
    wanted = [[query for _, query in planned(data, plan, step)] for step in range(40)]
    trainer, seen = trainer_of(folder, str(static_model), tmp_path / "whole", max_steps=40)
    trainer.train()
    assert seen.queries[:40] == wanted

    trainer, _ = trainer_of(folder, str(static_model), tmp_path / "out", max_steps=40)
    trainer.add_callback(StopAt(21))
    trainer.train()
    trainer, seen = trainer_of(folder, str(static_model), tmp_path / "out", max_steps=40)
    trainer.train(resume_from_checkpoint=True)
    assert seen.queries[:19] == wanted[21:]
    assert trainer.state.global_step == 40


def test_a_batch_that_is_skipped_is_not_drawn(
    exported: tuple[Path, MaterialisedMixture], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(exported[0], 8, 3)
    drawn = []
    monkeypatch.setattr(sampler.plan, "batch", lambda step, batch=sampler.plan.batch: drawn.append(step) or batch(step))
    last = list(sampler)[-1]
    assert drawn == []
    assert list(last) == sampler.rows(15, 0)
    assert drawn == [15, 15]


@pytest.fixture
def two_ranks(exported: tuple[Path, MaterialisedMixture], static_model: Path, tmp_path: Path) -> Iterator[Any]:
    """Runs the trainer on two ranks; what each saw."""
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib.util, json, os, sys\nfrom pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('test_sampler', {__file__!r})\n"
        "tests = importlib.util.module_from_spec(spec)\nsys.modules['test_sampler'] = tests\n"
        "spec.loader.exec_module(tests)\n"
        "stop, resume = json.loads(sys.argv[1])\n"
        f"folder, out = Path({str(exported[0])!r}), Path({str(tmp_path)!r})\n"
        f"trainer, seen = tests.trainer_of(folder, {str(static_model)!r}, out / 'out', max_steps=40, "
        "per_device_train_batch_size=4, gather=True)\n"
        "trainer.add_callback(tests.StopAt(stop))\n"
        "trainer.train(resume_from_checkpoint=resume)\n"
        "(out / f'seen-{os.environ[\"RANK\"]}').write_text(json.dumps(seen.queries))\n"
        "import torch\ntorch.distributed.destroy_process_group()\n"  # else its threads can abort the exit
    )

    def run(*, stop: int, resume: bool) -> list[list[list[str]]]:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *launch, json.dumps([stop, resume])], env=environment,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((tmp_path / f"seen-{rank}").read_text()) for rank in range(2)]

    yield run


@pytest.mark.slow
def test_the_trainer_on_two_ranks_goes_on_where_it_was(
    exported: tuple[Path, MaterialisedMixture], two_ranks: Callable[..., list[list[list[str]]]]
) -> None:
    plan = plan_of(exported[1], 8, 5)
    wanted = [[query for _, query in planned(exported[1], plan, step)] for step in range(40)]
    for steps, seen in ((range(21), two_ranks(stop=21, resume=False)),
                        (range(21, 40), two_ranks(stop=40, resume=True))):  # fmt: skip
        for step, first, second in zip(steps, *(own[: len(steps)] for own in seen), strict=True):
            assert [*first, *second][: len(wanted[step])] == wanted[step]


REAL = {"altlex": 0.05, "cmrc2018": 0.3, "cose": 0.2, "covidfaq": 0.1, "disflqa": 0.15, "pubmedqa": 0.2}


@pytest.mark.slow
def test_a_thousand_steps_of_real_collections(
    real_data: Path, static_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank through the trainer, two ranks, and a restart at step 900; shares within 3 standard errors."""
    steps, size = 1_000, 64
    with Store.open(tmp_path / "store", create=True) as store:
        jobs.ingest(store, [str(file) for name in REAL for file in (real_data / "raw" / name).iterdir()])
        spec = registry.weighted(registry.pin(store), REAL)
        folders.export_hf_dataset(store, registry.save(store, spec, "mix"), tmp_path / "hf")
        data = materialise(store, spec)
    plan = plan_of(data, size, 5)
    rows = [planned(data, plan, step) for step in range(steps)]
    wanted = [[query for _, query in batch] for batch in rows]
    found = Counter(batch[0][0] for batch in rows)
    for name, weight in REAL.items():
        assert abs(found[name] / steps - weight) <= 3 * math.sqrt(weight * (1 - weight) / steps)

    trainer, seen = trainer_of(tmp_path / "hf", str(static_model), tmp_path, per_device_train_batch_size=size)
    assert loaded(trainer, seen, steps) == wanted
    epoch, skipped = divmod(900, len(trainer.get_train_dataloader()))
    loader = skip_first_batches(trainer.get_train_dataloader(), skipped)
    loader.set_epoch(epoch)
    loader.batch_sampler.batch_sampler.set_epoch(epoch)  # as the trainer does
    seen.queries.clear()
    assert len(list(islice(loader, 99))) == 99
    assert seen.queries[:99] == wanted[900:999]

    monkeypatch.setattr(ranks, "state", lambda: SimpleNamespace(num_processes=2))
    sampler = sampler_of(tmp_path / "hf", size // 2, 5)
    first = dict(zip(REAL, [0, *sampler.dataset.cumulative_sizes], strict=False))
    shards = [BatchSamplerShard(sampler, 2, rank, even_batches=False) for rank in range(2)]
    step = 0
    while step < steps:
        for pair in zip(*shards, strict=True):
            name, chosen = plan.batch(step)
            assert [*pair[0], *pair[1]][: len(chosen)] == [first[name] + int(row) for row in chosen]
            step += 1
        sampler.set_epoch(sampler.epoch + 1)


def test_it_works_without_duckdb(exported: tuple[Path, MaterialisedMixture]) -> None:
    script = (
        "import sys; sys.modules['duckdb'] = None\nimport datasets, torch\nfrom trainers import MixtureBatchSampler\n"
        f"folder = {str(exported[0])!r}\nparts = list(datasets.load_from_disk(folder).values())\n"
        "inner = [torch.utils.data.BatchSampler(range(len(p)), 8, False) for p in parts]\n"
        "sampler = MixtureBatchSampler.of(folder)(torch.utils.data.ConcatDataset(parts), inner, seed=3)\n"
        "print([list(batch) for batch in sampler][:3])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout) == [list(b) for b in sampler_of(exported[0], 8, 3)][:3]


def test_it_says_that_loss_weights_are_not_used(
    exported: tuple[Path, MaterialisedMixture], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = exported
    sampler_of(folder, 8, 3)
    assert caplog.messages == []
    shutil.copytree(folder, tmp_path / "hf")
    parts = [replace(c, loss_weight=2.0 if c.name == "hard" else 1.0) for c in data.spec.components]
    (tmp_path / "hf" / "mixture.json").write_text(MixtureSpec(tuple(parts)).to_json())
    sampler_of(tmp_path / "hf", 8, 3)
    assert caplog.messages == ["a sampler does not scale losses: the loss weights of hard are not used"]


def test_what_it_refuses(exported: tuple[Path, MaterialisedMixture], static_model: Path, tmp_path: Path) -> None:
    folder = exported[0]
    with pytest.raises(UsageError, match=r"no mixture.json; `mixture export`"):
        MixtureBatchSampler.of(tmp_path)
    make = MixtureBatchSampler.of(folder)
    parts = datasets.load_from_disk(str(folder))
    inner = [torch.utils.data.BatchSampler(range(7), 8, False)] * len(parts)
    with pytest.raises(UsageError, match=r"row 0 of 'easy' is another"):
        make(ConcatDataset([parts[name] for name in ("hard", "few", "easy", "middle", "never")]), inner)
    with pytest.raises(UsageError, match=r"rows, those of"):
        make(ConcatDataset([parts[name].select(range(5)) for name in parts]), inner)
    (folder / "easy" / "positives.arrow").rename(tmp_path / "away")
    try:
        with pytest.raises(UsageError, match="export the mixture anew"):
            make(ConcatDataset(list(parts.values())), inner)
    finally:
        (tmp_path / "away").rename(folder / "easy" / "positives.arrow")
    split = trainer_of(folder, str(static_model), tmp_path, accelerator_config={"split_batches": True})[0]
    with pytest.raises(TypeError, match="'NoneType' and 'int'"):  # accelerate's own
        split.get_train_dataloader()

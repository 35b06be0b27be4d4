"""Two ranks on gloo compute what one computes, and write what one writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cli import app
from mixture import Store, registry
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.store.materialise import materialise
from tests.trainers.conftest import write_suite
from trainers.batch.texts import BatchSource, TextBatch
from trainers.finetune import FinetuneSettings
from trainers.finetune.loop import batch_losses
from trainers.learning.gradients import gradient_products
from trainers.loop.steps import TrainingLoop
from trainers.losses import info_nce
from trainers.model.encoder import load_encoder, load_for_training
from trainers.parallel import ranks

SETTINGS = FinetuneSettings(steps=1, batch_size=7, temperature=0.05, negatives=2, max_query_tokens=24,
                            max_passage_tokens=32, tokens_per_pass=100, tokens_kept=100)  # fmt: skip
LEARN = ["learn-weights", "--mix", "mix", "--steps", "50", "--batch-size", "6", "--learning-rate", "3e-4"]
for _assignment in ("temperature=0.05", "negatives=1", "max_query_tokens=32", "max_passage_tokens=16",
                    "checkpoint_every=25", "weights_learning_rate=0.1"):  # fmt: skip
    LEARN += ["--set", _assignment]


# Losses other than the default, and what is added to any.
OTHERS: dict[str, dict[str, Any]] = {
    "expected_ndcg": {"loss": "expected_ndcg"},
    "several_positives": {"loss": "expected_ndcg", "ndcg_positives": "all"},
    "drawn": {"loss": "expected_ndcg", "ndcg_positives": "all", "ndcg_samples": 16},
    "directions": {"directions": ("qd", "qq", "dq", "dd")},
    "spread_out": {"spread_out": 20.0},
    "distil": {"loss": "distil", "margin": 0.3, "margin_by": "teacher"},
    "margin_mse": {"loss": "distil", "distil_by": "margin_mse", "teacher_temperature": 1.0},
}


def _of_one_query(batch: TextBatch) -> TextBatch:
    """The first and the last example, which two ranks have, answer one question; a teacher scored the passages."""
    assert batch.masked is not None
    masked = batch.masked.clone()
    masked[0, -3] = masked[-1, 0] = True
    return replace(batch, masked=masked, teacher=torch.linspace(1, 0, len(batch.passages)).view(len(masked), -1))


def gradients(folder: Path, mixture: str, model: str, out: Path) -> None:
    """Fine-tuning gradients of a batch of 7, which two ranks cannot share evenly, and inner products of two groups';
    the first rank writes them."""
    data = MaterialisedMixture.open(folder, mixture)
    plan = BatchPlan(data.spec.weights, data.sizes, SETTINGS.batch_size, 1, positives=data.positives())
    loop = TrainingLoop(load_for_training(model, SETTINGS), SETTINGS, out.parent)
    batch = BatchSource(data, plan, negatives=2).homogeneous(0)
    losses = batch_losses(loop, batch)
    products = gradient_products(losses, torch.arange(7) % 2, 3, loop.parameters)
    loop.accelerator.backward(losses.mean())
    ranks.reduce_gradients(loop.parameters)
    others = {}
    for name, forms in OTHERS.items():
        other = TrainingLoop(load_for_training(model, SETTINGS), replace(SETTINGS, **forms), out.parent)
        values = batch_losses(other, _of_one_query(batch))
        other.accelerator.backward(values.mean())
        ranks.reduce_gradients(other.parameters)
        flat = [p.grad.to_dense().flatten() for p in other.parameters if p.grad is not None]
        others[name] = (values.detach(), torch.cat(flat))
    bare = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    if ranks.state().process_index == ranks.state().num_processes - 1:
        bare[0].grad = torch.full((2,), 3.0)
    ranks.reduce_gradients(bare)
    apart = TrainingLoop(load_encoder(model), replace(SETTINGS, cross_device=False), out.parent)
    with torch.no_grad():
        own_rank_only = batch_losses(apart, batch)
        embeddings = loop.embed_batch(loop.encoder, batch)
    if ranks.is_main():
        found = torch.cat([p.grad.to_dense().flatten() for p in loop.parameters if p.grad is not None])
        torch.save(
            {
                "losses": losses.detach(),
                "products": products,
                "own_rank_only": own_rank_only,
                "embeddings": embeddings,
                "gradient": found,
                "others": others,
                "sparse": [p.grad.is_sparse for p in loop.parameters if p.grad is not None],
                "of_the_last_rank": bare[0].grad,
                "of_none": bare[1].grad,
                "ranks": ranks.state().num_processes,
            },
            out,
        )


SCRIPT = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_ranks", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
from trainers.parallel import ranks
folder, mixture, model, out = sys.argv[2:6]
def fail():
    raise ValueError("only the first rank does this")
try:
    ranks.on_main(fail)
except ValueError as error:
    Path(out).with_name(f"error-{ranks.state().process_index}").write_text(str(error))
tests.gradients(Path(folder), mixture, model, Path(out))
from cli import app
app(sys.argv[6:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny_model", "static_model"])
def test_two_ranks_compute_what_one_computes(
    small_store: Store,
    mixture_data: MaterialisedMixture,
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = str(request.getfixturevalue(kind))
    gradients(mixture_data.folder, mixture_data.spec.id, model, tmp_path / "one.pt")
    small_store.close()
    shutil.copytree(small_store.work, tmp_path / "two")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    learn = [*LEARN, "--proxy", model, "--json"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), __file__]
    given = [str(mixture_data.folder), mixture_data.spec.id, model, str(tmp_path / "two.pt")]
    environment = os.environ | {
        "MIXTURE_STORE": str(tmp_path / "two"),
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, *launch, *given, *learn], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert float((one["gradient"] - two["gradient"]).norm() / one["gradient"].norm()) < 1e-5
    for name in OTHERS:
        (alone, gradient), (together, other_gradient) = one["others"][name], two["others"][name]
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)
        assert float((gradient - other_gradient).norm() / gradient.norm()) < 1e-5, name
    for found in (one, two):
        assert any(found["sparse"]) == (kind == "static_model")
        assert found["of_the_last_rank"].tolist() == [3.0, 3.0]
        assert found["of_none"] is None
    torch.testing.assert_close(one["losses"], two["losses"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one["products"], two["products"], rtol=1e-4, atol=1e-6)
    assert one["products"][0, 0] > 1e-4
    torch.testing.assert_close(one["own_rank_only"], one["losses"])
    # Without cross-device negatives an example sees its own rank's: here the first four, and the other three.
    query, passages = one["embeddings"]
    halves = [
        info_nce(query[a:b], passages[3 * a : 3 * b], temperature=0.05, in_batch=True) for a, b in ((0, 4), (4, 7))
    ]
    torch.testing.assert_close(two["own_rank_only"], torch.cat(halves), rtol=1e-5, atol=1e-6)
    assert (tmp_path / "error-1").read_text() == "only the first rank does this"

    # One result on standard output, whatever the number of ranks.
    assert len(json.loads(done.stdout)["components"]) == 3
    monkeypatch.setenv("MIXTURE_STORE", str(small_store.work))
    with pytest.raises(SystemExit, match="0"):
        app(learn)
    history = "SELECT * EXCLUDE run_id FROM weight_history ORDER BY step, collection"
    with Store.open(small_store.work) as first, Store.open(tmp_path / "two") as second:
        rows = [store.sql(history).to_pylist() for store in (first, second)]
        assert second.sql("SELECT status, count(*) AS n FROM runs GROUP BY ALL").to_pylist() == [
            {"status": "finished", "n": 2}
        ]
    assert len(rows[0]) == len(rows[1]) == 50 * 3
    for a, b in zip(*rows, strict=True):
        assert (a["step"], a["collection"], a["num_examples"]) == (b["step"], b["collection"], b["num_examples"])
        assert a["weight"] == pytest.approx(b["weight"], abs=1e-5)
        assert a["mean_weight"] == pytest.approx(b["mean_weight"], abs=1e-5)
    assert max(r["weight"] for r in rows[0]) > 1 / 3 + 0.01  # there was something to agree on


TOWARDS = {
    "search": ["branch_steps=12", "num_candidates=30", "fidelity=3", "measure=loss"],
    "influence": ["round_steps=8", "probe_steps=3"],
    "kmm": ["branch_steps=6"],
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", TOWARDS)
def test_two_ranks_learn_the_weights_of_one_towards_a_target(
    small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path, algorithm: str
) -> None:
    suite = write_suite(mixture_data, tmp_path / "middle-en", 24)
    small_store.close()
    learn = ["learn-weights", "--mix", "mix", "--proxy", str(static_model), "--algorithm", algorithm, "--steps", "24",
             "--batch-size", "7", "--learning-rate", "0.02", "--target", str(suite), "--json"]  # fmt: skip
    for assignment in ("temperature=0.05", "negatives=1", "max_query_tokens=32", "max_passage_tokens=16",
                       "group_sets=false", *TOWARDS[algorithm]):  # fmt: skip
        learn += ["--set", assignment]
    two_ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    weights, tried = [], []
    for name, launch in (("one", []), ("two", two_ranks)):
        shutil.copytree(small_store.work, tmp_path / name)
        environment = os.environ | {
            "MIXTURE_STORE": str(tmp_path / name), "PYTHONPATH": str(Path(__file__).parents[3]),
            "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, *launch, "-m", "mixture", *learn]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        weights.append({c["collection"]: c["weight"] for c in json.loads(done.stdout)["components"]})
        with Store.open(tmp_path / name) as store:
            rows = store.sql("SELECT target, loss, ndcg FROM candidate_scores ORDER BY candidate, target").to_pylist()
            tried.append([row["loss"] for row in rows])
    assert weights[1] == pytest.approx(weights[0], abs=1e-5)
    assert max(weights[0].values()) > 1 / 3 + 0.01  # there was something to agree on
    assert tried[1] == pytest.approx(tried[0], abs=1e-5)
    assert bool(tried[0]) == (algorithm != "kmm")


@pytest.mark.slow
@pytest.mark.parametrize("phases", [False, True])
def test_two_ranks_hold_out_the_rows_of_one(
    small_store: Store, mixture_data: MaterialisedMixture, static_model: Path, tmp_path: Path, phases: bool
) -> None:
    steps = ["--steps", "8"]
    if phases:
        parts = registry.pin(small_store)
        equal = materialise(small_store, registry.weighted(parts, dict.fromkeys(parts, 1.0)))
        steps = ["--phase", f"{mixture_data.spec.id}:5", "--phase", f"{equal.spec.id}:3"]
    train = ["trainers", str(mixture_data.folder), "--model", str(static_model), *steps, "--batch-size", "7"]
    for assignment in ("temperature=0.05", "negatives=1", "learning_rate=0.02", "holdout=0.4", "evaluate_every=4",
                       "final=best", "tracker=none"):  # fmt: skip
        train += ["--set", assignment]
    records = []
    for name, launch in (
        ("one", []),
        ("two", ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]),
    ):
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[3]), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", *launch, *train, "--out", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        records.append(json.loads((tmp_path / name / "training.json").read_text()))
    one, two = records
    assert [row["num_examples"] for row in one["drawn"]] == [row["num_examples"] for row in two["drawn"]] != [40] * 3
    assert one["final_step"] == two["final_step"]
    assert (one["drawn"], one.get("phases")) == (two["drawn"], two.get("phases"))
    losses = [[row.pop("loss") for row in record["held_out"]] for record in records]
    assert one["held_out"] == two["held_out"] and len(losses[0]) == 9
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_four_ranks_take_the_batches_of_one_over_10_000_steps(
    mixture_data: MaterialisedMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches() -> list[tuple[str, list[int]]]:
        data = MaterialisedMixture.open(mixture_data.folder, mixture_data.spec.id)
        plan = BatchPlan(data.spec.weights, data.sizes, 10, 7, positives=data.positives())
        return [(name, rows.tolist()) for name, rows in map(plan.batch, range(10_000))]

    alone = batches()
    assert {name for name, _ in alone} == {"easy", "middle", "hard"}
    taken: list[list[int]] = [[] for _ in alone]
    for rank in range(4):
        monkeypatch.setattr(ranks, "state", lambda rank=rank: SimpleNamespace(num_processes=4, process_index=rank))
        own = batches()
        assert own == alone
        for place, (_, rows) in enumerate(own):
            taken[place] += [rows[i] for i in ranks.share(len(rows))]
    assert [sorted(rows) for rows in taken] == [sorted(rows) for _, rows in alone]


def test_shares_cover_everything_once() -> None:
    assert list(ranks.share(5)) == [0, 1, 2, 3, 4]
    assert list(ranks.share(0)) == []
    assert ranks.on_main(lambda: 3) == 3
    own = torch.randn(4, 2)
    assert ranks.gather(own, 4) is own

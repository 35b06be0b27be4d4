"""The model side's jobs: store and registry around the training loops. What the command line calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture import registry
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.registry import SavedMixture
from mixture.store import Store
from mixture.store.materialise import materialise
from mixture.store.write import append, insert_rows
from trainers.encoder import load_encoder, model_identity
from trainers.evaluation.evaluate import SuiteResult, document_prompt_for, evaluate_suite, prompt_for
from trainers.evaluation.suites import find_suites, load_suite
from trainers.finetune import FinetuneSettings, finetune
from trainers.finetune.loop import finished
from trainers.loop import Progress
from trainers.settings import TrainingSettings, run_id
from trainers.tdro.config import TdroSettings
from trainers.tdro.loop import learn_weights
from trainers.tiny import NAME as TINY
from trainers.tiny import build_tiny

# Names a long stage and gives its progress callback.
Stage = Callable[[str], Progress | None]


def _silent(_: str) -> Progress | None:
    return None


def resolve_model(store: Store, data: MaterialisedMixture, model: str, *, seed: int) -> str:
    """A model's name or folder; `tiny-qwen2` is built from the mixture's texts once and kept in the store."""
    if model != TINY:
        return model
    texts = hashlib.sha256("".join(sorted(c.digest for c in data.spec.components)).encode()).hexdigest()[:12]
    folder = store.root / "models" / f"{TINY}-{texts}-{seed}"
    if not (folder / "modules.json").is_file():
        build_tiny((text for part in data.components.values() for text in part.texts()), folder, seed=seed)
    return str(folder)


def learn(
    store: Store, mixture: SavedMixture, name: str, proxy: str, reference: str | None, settings: TdroSettings,
    *, reference_settings: FinetuneSettings | None = None, stage: Stage = _silent,
) -> SavedMixture:  # fmt: skip
    """tDRO over a mixture's collections; saves the learned weights as a new mixture called `name`.

    Without `reference` one is fine-tuned first from the proxy on the same collections, equally weighted, with
    `reference_settings` (default: the proxy's settings). Killed, the same call goes on where it was.
    """
    data = materialise(store, mixture.spec)
    proxy_model = resolve_model(store, data, proxy, seed=settings.seed)
    chosen = reference_settings or _as_finetune(settings)
    # A reference of our own is named by what it is trained on, so that a finished run is found without training one.
    uniform = mixture.spec.with_weights(dict.fromkeys(mixture.spec.weights, 1.0))
    identity = model_identity(reference) if reference else run_id("reference", uniform.id, chosen, model=proxy)
    run = run_id("tdro", mixture.spec.id, settings, name=name, proxy=model_identity(proxy_model), reference=identity)
    done = store.rows("SELECT result FROM runs WHERE run_id = ? AND status = 'finished'", [run])
    if done:
        return registry.resolve(store, done[0]["result"])
    if reference is None:
        out = store.root / "runs" / f"reference-{identity}"
        finetune(materialise(store, uniform), proxy_model, chosen, out, progress=stage("reference model"))
        reference = str(out)
    with _recorded(store, run, "tdro", mixture, settings, proxy=proxy_model, reference=reference, name=name) as result:
        weights = learn_weights(
            data, proxy_model, reference, settings, store.root / "runs" / run,
            record=lambda rows: _record_history(store, run, rows), progress=stage("tDRO"),
        )  # fmt: skip
        note = f"tDRO, {settings.average} weights after {settings.steps} steps"
        spec = mixture.spec.with_weights(weights)
        learned = registry.save(store, spec, name, parents=[mixture.spec.id], run_id=run, note=note)
        result.append(learned.reference)
    return learned


def train(
    store: Store, mixture: SavedMixture, model: str, settings: FinetuneSettings, out: Path, *, stage: Stage = _silent
) -> str:
    """Fine-tune `model` on a mixture into the folder `out`; the run is in the store. Returns the run's id."""
    data = materialise(store, mixture.spec)
    base = resolve_model(store, data, model, seed=settings.seed)
    run = run_id("finetune", mixture.spec.id, settings, model=model_identity(base))
    if finished(out, run):
        return run
    with _recorded(store, run, "finetune", mixture, settings, model=base, out=str(out.resolve())) as result:
        finetune(data, base, settings, out, progress=stage("training"))
        result.append(str(out.resolve()))
    return run


def evaluate(
    store: Store, model: str, suites: Sequence[Path], *, prompt: str | None = None, batch_size: int = 64,
    stage: Stage = _silent,
) -> list[SuiteResult]:  # fmt: skip
    """Score a model on suites (folders in BEIR layout, or folders of such) and keep the numbers in the store.

    Queries get `prompt`, or else the model's own prompt for the suite (`evaluation.prompt_for`).
    """
    folders = find_suites(suites)
    known_model(model)
    encoder = load_encoder(model)
    results = []
    for folder in folders:
        suite = load_suite(folder)
        show = stage(suite.name)
        results.append(
            evaluate_suite(
                encoder,
                suite,
                prompt=prompt_for(encoder, suite.name)[1] if prompt is None else prompt,
                document_prompt=document_prompt_for(encoder)[1],
                batch_size=batch_size,
                progress=None if show is None else partial(_counts, show),
            )
        )
        _record_evaluation(store, model, results[-1:])
    return results


def _counts(show: Progress, done: int, total: int) -> None:
    show(done, total, "")


def _record_evaluation(store: Store, model: str, results: Sequence[SuiteResult]) -> None:
    """Write results to the store, with the mixture that the model was trained on, if it is ours."""
    record = Path(model) / "training.json"
    trained = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    now = datetime.now(UTC)
    insert_rows(
        store,
        "evaluations",
        [
            {"model": str(Path(model).resolve()) if Path(model).is_dir() else model,
             "mixture": trained.get("mixture", {}).get("id"), "run_id": trained.get("run_id"),
             "suite": result.suite, "metric": metric, "value": value, "num_queries": result.num_queries,
             "num_documents": result.num_documents, "corpus": result.corpus, "prompt": result.prompt,
             "evaluated_at": now}
            for result in results
            for metric, value in result.metrics.items()
        ],
    )  # fmt: skip


def _as_finetune(settings: TrainingSettings) -> FinetuneSettings:
    shared = {field.name: getattr(settings, field.name) for field in fields(TrainingSettings)}
    return FinetuneSettings(**shared)


@contextmanager
def _recorded(
    store: Store, run: str, kind: str, mixture: SavedMixture, settings: TrainingSettings, **more: str
) -> Iterator[list[str]]:
    """The row of a run in `runs`: running, then finished with the result that the body appends, or failed."""
    row = {"run_id": run, "kind": kind, "status": "running", "mixture": mixture.spec.id,
           "config": json.dumps(asdict(settings) | more, sort_keys=True), "started_at": datetime.now(UTC)}  # fmt: skip

    def begin(connection: Any) -> None:
        connection.execute("DELETE FROM runs WHERE run_id = ?", [run])
        append(connection, "runs", [row])

    def end(status: str, result: str | None) -> None:
        values = [status, result, run]
        store.transaction(
            lambda connection: connection.execute(
                "UPDATE runs SET status = ?, result = ?, finished_at = now() WHERE run_id = ?", values
            )
        )

    store.transaction(begin)
    result: list[str] = []
    try:
        yield result
    except Exception:  # whatever it was is raised again; a kill or Ctrl-C leaves "running", to be resumed
        end("failed", None)
        raise
    end("finished", result[0])


def _record_history(store: Store, run: str, rows: Sequence[dict[str, Any]]) -> None:
    """Append the steps that the store does not have yet: a resumed run writes none twice."""

    def work(connection: Any) -> None:
        found = connection.execute("SELECT coalesce(max(step), 0) FROM weight_history WHERE run_id = ?", [run])
        last = found.fetchone()[0]
        new = [{"run_id": run, **row} for row in rows if row["step"] > last]
        append(connection, "weight_history", pa.Table.from_pylist(new) if new else [])

    store.transaction(work)


def known_model(model: str) -> None:
    """Refuse a model path that does not exist before anything long starts."""
    if model != TINY and model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise UsageError(f"no model folder {model!r}")

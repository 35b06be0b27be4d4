"""Fine-tuning of a retriever on homogeneous batches (tDRO, arXiv 2408.10613, equation 7)."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from sentence_transformers import SentenceTransformer
from torch import Tensor

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.sampling import BatchPlan
from trainers import ranks
from trainers.data import DEFAULT_PROMPT, BatchSource, TextBatch, query_prefix
from trainers.encoder import add_lora, load_encoder, merge_lora, model_identity
from trainers.finetune.config import FinetuneSettings
from trainers.loop import History, Progress, TrainingLoop
from trainers.losses import info_nce
from trainers.settings import run_id

RECORD = "training.json"
MARK = "run.json"


def finetune(
    mixture: MaterialisedMixture, model: str, settings: FinetuneSettings, out: Path, *, progress: Progress | None = None
) -> str:
    """Train `model` on a mixture and save it to `out`, a sentence-transformers folder. Returns the run's id.

    A run that was killed goes on from its last checkpoint when called again with the same arguments; a finished one
    returns at once. Raises `UsageError` where `out` holds another run or other files.
    """
    run = run_id("finetune", mixture.spec.id, settings, model=model_identity(model))
    if ranks.on_main(lambda: _begin(out, run)):
        return run
    encoder = load_encoder(model, max_tokens=settings.max_passage_tokens)
    encoder.prompts.update(prompts_of(mixture))
    add_lora(encoder, settings)
    history = History()
    loop = TrainingLoop(encoder, settings, out / "checkpoints", also=(history,))
    loop.resume()
    source = _source(mixture, settings)
    loss_weights = {c.collection: c.loss_weight for c in mixture.spec.components}
    loop.encoder.train()
    while loop.step < settings.steps:
        batch = source.homogeneous(loop.step)
        name = batch.names[int(batch.collections[0])]
        value = step(loop, batch, loss_weights[name])
        history.rows.append({"step": loop.step, "collection": name, "loss": value})
        loop.save_if_due()
        if progress is not None:
            progress(loop.step, settings.steps, f"loss {value:.4f} on {name}")
    merge_lora(loop.encoder)
    ranks.on_main(lambda: _save(loop.encoder, out, mixture, model, settings, run, history))
    return run


def step(loop: TrainingLoop, batch: TextBatch, loss_weight: float = 1.0) -> float:
    """One step of fine-tuning on a batch; returns its loss, loss weight included."""
    with loop.memory(batch):
        losses = batch_losses(loop, batch)
        value = loop.check(losses * loss_weight, batch)
        loop.descend(losses.mean() * loss_weight, batch)
    return value


def batch_losses(loop: TrainingLoop, batch: TextBatch) -> Tensor:
    """Equation 7 on a batch, (B,) float32; the whole batch on every rank, so its passages are negatives across ranks
    too."""
    settings: FinetuneSettings = loop.settings  # type: ignore[assignment]
    query, passages = loop.embed(loop.encoder, batch)
    masked = batch.masked.to(query.device) if settings.in_batch and batch.masked is not None else None
    return info_nce(query, passages, temperature=settings.temperature, in_batch=settings.in_batch, masked=masked)


def _begin(out: Path, run: str) -> bool:
    """Whether the run is finished in `out`; where it is not, the folder is marked as this run's."""
    if finished(out, run):
        return True
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    (out / "checkpoints" / MARK).write_text(json.dumps({"run_id": run}), "utf-8")
    return False


def finished(out: Path, run: str) -> bool:
    """Whether this run is finished in `out`; a `UsageError` where `out` holds anything else than this run."""
    mark = out / "checkpoints" / MARK
    if (out / RECORD).is_file():
        if json.loads((out / RECORD).read_text("utf-8"))["run_id"] == run:
            return True
        raise UsageError(f"{out} holds another finished model; name a new folder with --out")
    if mark.is_file():
        if json.loads(mark.read_text("utf-8"))["run_id"] != run:
            raise UsageError(f"{out} holds an unfinished run with other settings; remove it or name a new --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; name a new folder with --out")
    return False


def prompts_of(mixture: MaterialisedMixture) -> dict[str, str]:
    """Prompts to save with the model: one for each collection, `query` for any other query, `document` empty."""
    named = {name: query_prefix((part.prompts or (DEFAULT_PROMPT,))[0]) for name, part in mixture.components.items()}
    return named | {"query": query_prefix(DEFAULT_PROMPT), "document": ""}


def _source(mixture: MaterialisedMixture, settings: FinetuneSettings) -> BatchSource:
    plan = BatchPlan(
        mixture.spec.weights, mixture.sizes, settings.batch_size, settings.seed, positives=mixture.positives()
    )
    return BatchSource(mixture, plan, negatives=settings.negatives)


def _save(
    encoder: SentenceTransformer, out: Path, mixture: MaterialisedMixture, model: str, settings: FinetuneSettings,
    run: str, history: History,
) -> None:  # fmt: skip
    """The model, then its record (whose presence says that the run is finished), then no more checkpoints."""
    encoder.save(str(out), create_model_card=False)
    record = {
        "run_id": run,
        "model": model,
        "mixture": json.loads(mixture.spec.to_json()),
        "settings": asdict(settings),
        "losses": history.rows,
    }
    scratch = out / f".{RECORD}"
    scratch.write_text(json.dumps(record, ensure_ascii=False, indent=1), "utf-8")
    scratch.replace(out / RECORD)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)

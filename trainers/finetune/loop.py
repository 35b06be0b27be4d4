"""Fine-tuning of a retriever on homogeneous batches (tDRO, arXiv 2408.10613, equation 7)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, silent
from mixture.sampling import BatchPlan
from mixture.suites.suite import Suite
from trainers.batch.feed import Feed
from trainers.batch.texts import BatchSource, TextBatch, check_prompts, say_small, say_taught, say_texts
from trainers.finetune import output
from trainers.finetune.by_collection import check_names, with_prompts
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.elastic import check_depths, student_losses
from trainers.finetune.holdout import HeldOut, say_held_out
from trainers.finetune.identity import identity
from trainers.finetune.phases import Phases, as_phases
from trainers.finetune.scores import Scores
from trainers.loop.checkpoints import fill
from trainers.loop.recent import MOST, by_step, recent
from trainers.loop.steps import History, TrainingLoop
from trainers.loop.stopping import on_request
from trainers.loop.trackers import Tracker
from trainers.losses import LOSSES, matryoshka, spread_out
from trainers.model.adapters import add_lora, merge_lora
from trainers.model.encoder import load_for_training, to_device
from trainers.model.fitting import fitted
from trainers.model.template import Template, template_of
from trainers.parallel import ranks


def finetune(
    data: MaterialisedMixture | Phases, model: str, settings: FinetuneSettings, out: Path, *,
    suites: Sequence[Suite] = (), contamination: Mapping[str, Any] | None = None, progress: Progress = silent,
) -> str:  # fmt: skip
    """Train `model` on a mixture, or on several one after the other, and save it to `out`, a sentence-transformers
    folder. Returns the run's id. Phases have the steps, whatever the settings say; one schedule goes over all.

    Beside the model lies `training.json`: run_id, model, mixture, settings, template (`Template.parts`), final_step
    (which became the model), drawn (`Phases.drawn`), evaluations (`Scores.rows`), held_out (`Scores.losses`),
    query_scores (of the final step: suite, corpus, metric -> query id -> value), losses (step, collection, examples,
    loss) and contamination: what the mixture holds of test sets, `mixture.jobs.ContaminationStatement` as plain values;
    None where it was not searched. Where there are several phases, phases has the mixture and the steps of each, and
    mixture is None unless they have the same one.

    With the setting `holdout` no batch draws the rows that `mixture.holdout` names. The mixture stays what it is.

    A run that was killed goes on from its last checkpoint when called again with the same arguments; a finished one
    returns at once. Raises `UsageError` where `out` holds another run or other files, and `Stopped` after SIGTERM or
    Ctrl-C.
    """
    phases = as_phases(data, settings)
    settings = fitted(phases.settings(settings), model)
    run = identity(phases, model, settings, suites)
    history, scores = History(), Scores(suites, settings)
    if ranks.on_main(lambda: output.finished(out, run)):
        return run
    # Mistakes are said before `out` belongs to this run.
    phases, held_out = phases.changed(partial(with_prompts, settings=settings)).hold_out(settings.holdout)
    template, mixture = template_of(model, settings), phases.whole
    encoder, sources = encoder_of(mixture, model, settings), _sources(phases, settings, template)
    for others in phases.overshadowed:
        check_prompts(encoder, others, settings, template)
    scores.check(encoder)
    size = encoder.get_embedding_dimension() or 0
    if max(settings.matryoshka_dims, default=0) > size:
        raise UsageError(f"matryoshka_dims has {max(settings.matryoshka_dims)}; the embeddings have {size} dimensions")
    check_depths(encoder, settings)
    if held_out:
        scores.held_out = HeldOut(held_out, encoder, settings, template)
        say_held_out(mixture, held_out)
    say_texts(mixture, template)
    if settings.taught:
        say_taught(mixture, settings.taught_in(mixture.components))
    say_small(mixture, settings.batch_size, mixed=settings.batching == "mixed",
              own={name: settings.of(name).batch_size for name in mixture.components})  # fmt: skip
    ranks.on_nodes(lambda: output.mark(out, run))
    loop = TrainingLoop(encoder, settings, out / "checkpoints", also=(history, scores))
    loop.resume()
    loss_weights = [{c.name: c.loss_weight for c in phase.mixture.spec.components} for phase in phases.parts]
    draws = [source.shared if settings.batching == "mixed" else source.homogeneous for source in sources]
    loop.encoder.train()
    with (
        closing(Tracker(settings, out / "logs", run)) as tracker,
        on_request(),
        Feed(lambda n: loop.prepared(draws[phases.at(n)](n)), loop.step, settings.steps) as batches,
    ):
        if held_out and loop.step == 0:
            tracker.log(_evaluated(loop, scores), 0)
        for batch in batches:
            began, phase = time.perf_counter(), phases.at(loop.step)
            if loop.step in phases.begin:
                loop.begin_phase()
            losses = step(loop, batch, _loss_weights(batch, loss_weights[phase]))
            found = _by_collection(batch, losses, loop.step)
            history.rows += found
            numbers = _numbers(loop, batch, found, batches.waited, time.perf_counter() - began)
            tracker.log(numbers | ({"phase": phase + 1} if len(phases.parts) > 1 else {}), loop.step)
            if scores.due(loop.step):
                tracker.log(_evaluated(loop, scores), loop.step)
                if settings.needs_best and scores.best == loop.step:
                    loop.checkpoints.save_best(loop.step)
            loop.save_if_due()
            late = recent(by_step(history.rows[-MOST * len(batch.names) :]), settings.steps).text
            progress(loop.step, settings.steps, phases.title(phase) + late)
    kept = {"losses": history.rows, "evaluations": scores.rows, "queries": scores.queries, "held_out": scores.losses,
            "template": template.parts, "contamination": contamination}  # fmt: skip
    _finish(loop, phases, model, out, {"run_id": run, **kept})
    return run


def encoder_of(mixture: MaterialisedMixture, model: str, settings: FinetuneSettings) -> SentenceTransformer:
    """The model as training starts from it: prompts checked and added, LoRA added."""
    encoder, template = load_for_training(model, settings), template_of(model, settings)
    check_prompts(encoder, mixture, settings, template)
    encoder.prompts = {**prompts_of(mixture, template)}  # those that it came with are not trained with
    encoder.default_prompt_name = None  # one for all texts would stand before passages too
    add_lora(encoder, settings)
    return encoder


def step(loop: TrainingLoop, batch: TextBatch, loss_weight: float | Tensor = 1.0) -> Tensor:
    """One step of fine-tuning on a batch; returns its losses, (B,) float32 on the CPU, loss weights included.

    loss_weight: of the whole batch, or of each example, (B,)
    """
    with loop.explaining_oom(batch):
        query, passages = loop.embed_batch(loop.encoder, batch)
        losses = batch_losses(loop, batch, (query, passages))
        losses = losses * (loss_weight if isinstance(loss_weight, float) else loss_weight.to(losses))
        loop.check(losses, batch)
        students = _students(loop, batch, query.detach(), passages.detach(), losses.detach().mean(), loss_weight)
        del query, passages  # what they were computed with can go before students are embedded
        loop.descend(losses.mean(), batch, students)
    return losses.detach().cpu()


def _students(
    loop: TrainingLoop, batch: TextBatch, query: Tensor, passages: Tensor, full: Tensor, loss_weight: float | Tensor
) -> Iterator[Tensor]:  # fmt: skip
    """The losses of smaller depths, as far as the settings name some (`elastic`)."""
    if not loop.settings.elastic_layers:  # type: ignore[attr-defined]
        return iter(())
    settings, in_batch, masked, _ = _compared(loop, batch)
    return student_losses(
        loop, batch, (query, passages.unflatten(0, (len(query), -1))), full, loss_weight,
        temperature=settings.temperature, in_batch=in_batch,
        masked=None if masked is None else to_device(masked, query.device),
    )  # fmt: skip


def _compared(loop: TrainingLoop, batch: TextBatch) -> tuple[FinetuneSettings, bool, Tensor | None, Tensor]:
    """The settings that a batch is trained with; whether the other examples' passages are candidates; which of these do
    not count, (B, B·N); and the rank of each query, where that decides."""
    settings: FinetuneSettings = loop.settings  # type: ignore[assignment]
    chosen = [settings.of(batch.names[group]) for group in np.unique(batch.collections)]
    in_batch = any(one.in_batch for one in chosen)
    masked, rank = batch.masked if in_batch else None, torch.zeros(len(batch.queries))
    if masked is not None and not all(one.in_batch for one in chosen):
        masked = masked | _of_others(batch, {name for name in batch.names if not settings.of(name).in_batch})
    if len(chosen) == 1:  # of one collection; others share what of their settings decides here
        settings = chosen[0]
    if masked is not None and not settings.cross_device:
        rank = ranks.rank_of_each(len(batch.queries))
        others = rank[:, None] != rank.repeat_interleave(masked.shape[1] // len(rank))[None, :]
        masked = masked | others
    return settings, in_batch, masked, rank


def batch_losses(loop: TrainingLoop, batch: TextBatch, embedded: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The loss on a batch (equation 7 by default), (B,) float32, in the forms that the settings ask for.

    Every rank has the whole batch, so passages are negatives across ranks.

    embedded: queries and passages (`TrainingLoop.embed_batch`), where that is done
    """
    query, passages = embedded or loop.embed_batch(loop.encoder, batch)
    settings, in_batch, masked, rank = _compared(loop, batch)
    passages = passages.unflatten(0, (len(query), -1))
    kind = LOSSES[settings.loss_at(loop.step)]
    facts = {
        "answers": lambda: None if masked is None else to_device(_answers(batch, rank), query.device),
        "key": lambda: (settings.seed, loop.step),
        "teacher": lambda: None if batch.teacher is None else to_device(batch.teacher, query.device),
    }
    left = set() if in_batch else set(kind.of_batch)
    objective = partial(
        kind.function, temperature=settings.temperature, in_batch=in_batch,
        masked=None if masked is None else to_device(masked, query.device),
        symmetric=settings.symmetric_loss and in_batch,
        **{name: getattr(settings, name) for name in kind.takes if name not in left},
        **{name: facts[name]() for name in kind.given},
    )  # fmt: skip

    def loss(query: Tensor, passages: Tensor) -> Tensor:
        found = objective(query, passages)
        return found + settings.spread_out * spread_out(query, passages) if settings.spread_out else found

    if settings.matryoshka_dims:
        return matryoshka(loss, query, passages, settings.matryoshka_dims)
    return loss(query, passages)


def _of_others(batch: TextBatch, names: set[str]) -> Tensor:
    """(B, B·N) bool: other examples' passages, of the examples of the collections `names`."""
    alone = torch.tensor([batch.names[group] in names for group in batch.collections])
    own = torch.eye(len(alone), dtype=torch.bool).repeat_interleave(len(batch.passages) // len(alone), dim=1)
    return alone[:, None] & ~own


def _loss_weights(batch: TextBatch, by_name: Mapping[str, float]) -> float | Tensor:
    """Of the batch where it is of one collection, else of each example, (B,)."""
    weights = [by_name[batch.names[group]] for group in batch.collections]
    return weights[0] if len(set(weights)) == 1 else torch.tensor(weights)


def _by_collection(batch: TextBatch, losses: Tensor, step: int) -> list[dict[str, Any]]:
    """The rows of the history: each collection's examples and mean loss, of the step's losses (B,)."""
    groups = torch.from_numpy(batch.collections)
    rows = []
    for group in groups.unique().tolist():
        own = losses[groups == group]
        rows.append({"step": step, "collection": batch.names[group], "examples": len(own), "loss": float(own.mean())})
    return rows


def _answers(batch: TextBatch, rank: Tensor) -> Tensor:
    """The marked candidates of a query's own rank, (B, B·N): of equal texts the first, and none that equals its own
    positive. A ranking has a text once."""
    each = len(batch.passages) // len(rank)
    places: dict[tuple[float, str], int] = {}
    ranked = zip(rank.repeat_interleave(each).tolist(), batch.passages, strict=True)
    first = torch.tensor([places.setdefault(text, place) for place, text in enumerate(ranked)])
    own = torch.arange(len(rank)) * each
    same_rank = rank[:, None] == rank.repeat_interleave(each)
    once = (first == torch.arange(len(first))) & (first != first[own][:, None])
    assert batch.masked is not None
    return batch.masked & same_rank & once


def prompts_of(mixture: MaterialisedMixture, template: Template) -> dict[str, str]:
    """Prompts to save with the model: one for each collection, `query` for any other query, `document` for passages."""
    named = {name: template.prefixes(part.prompts)[0] for name, part in mixture.components.items()}
    return named | {"query": template.before_query(), "document": template.before_passage}


def _sources(phases: Phases, settings: FinetuneSettings, template: Template) -> list[BatchSource]:
    """Where the batches of each phase come from."""
    check_names(settings, {name for phase in phases.parts for name in phase.mixture.components})
    plans = phases.plans(settings)
    return [_source(phase.mixture, settings, template, plan) for phase, plan in zip(phases.parts, plans, strict=True)]


def _source(
    mixture: MaterialisedMixture, settings: FinetuneSettings, template: Template = Template(),
    plan: BatchPlan | None = None,
) -> BatchSource:  # fmt: skip
    plan = plan or as_phases(mixture, settings).plans(settings)[0]
    negatives = {name: settings.of(name).negatives for name in mixture.components}
    return BatchSource(mixture, plan, negatives=negatives, symmetric_prompts=settings.symmetric_prompts,
                       template=template, taught=settings.taught)  # fmt: skip


def _evaluated(loop: TrainingLoop, scores: Scores) -> dict[str, float]:
    """Evaluate the model as it is; what trackers show."""
    with loop.accelerator.autocast():  # flash attention takes no float32
        return scores.score(loop.encoder, loop.step)


def _numbers(
    loop: TrainingLoop, batch: TextBatch, found: Sequence[Mapping[str, Any]], waited: float, seconds: float
) -> dict[str, float]:  # fmt: skip
    """What a tracker shows of a step; tokens are those that this rank encodes, without padding."""
    tokens = batch.tokens.num_tokens if batch.tokens is not None else 0
    return {
        "loss": by_step(found)[0],
        **{f"loss/{row['collection']}": row["loss"] for row in found},
        "learning rate": loop.learning_rate,
        "gradient norm": loop.gradient_norm,
        "tokens per second": tokens / (seconds + waited),
        "data wait, seconds": waited,
    }


def _finish(loop: TrainingLoop, phases: Phases, model: str, out: Path, found: dict[str, Any]) -> None:
    """Save the final model, and the best one where it is kept; the checkpoints go."""
    mixture = phases.whole
    settings: FinetuneSettings = loop.settings  # type: ignore[assignment]
    step = loop.step
    if settings.final == "best":
        loop.checkpoints.load_best()
        step = loop.checkpoints.best or step
    weights = loop.checkpoints.weights() if loop.sharded else None
    if settings.keep_best and not loop.sharded:
        loop.encoder.to("cpu")  # a device may not hold two
    if settings.keep_best:
        ranks.on_main(lambda: _save_best(loop, encoder_of(mixture, model, settings), out / "best"))
    seen = [row for row in found["losses"] if row["step"] <= step]
    record = {
        "run_id": found["run_id"],
        "model": model,
        **phases.record,
        "settings": asdict(settings),
        "template": found["template"],
        "final_step": step,
        "drawn": phases.drawn(seen, settings),
        "evaluations": found["evaluations"],
        "held_out": found["held_out"],
        "query_scores": [row for row in found["queries"] if row["step"] == step],
        "losses": found["losses"],
        "contamination": found["contamination"],
    }
    ranks.on_main(lambda: _save_last(loop, partial(encoder_of, mixture, model, settings), weights, out, record))
    ranks.on_nodes(lambda: output.clear(out))


def _save_last(
    loop: TrainingLoop, build: Callable[[], SentenceTransformer], weights: dict[str, Tensor] | None, out: Path,
    record: dict[str, Any],
) -> None:  # fmt: skip
    encoder = loop.encoder
    if weights is not None:  # no rank holds all of it
        encoder = build()
        fill(encoder, weights)
    if loop.settings.lora_merge:
        merge_lora(encoder)
    output.save(encoder, out, record)


def _save_best(loop: TrainingLoop, encoder: SentenceTransformer, folder: Path) -> None:
    loop.checkpoints.restore_best(encoder)
    if loop.settings.lora_merge:
        merge_lora(encoder)
    encoder.save(str(folder), create_model_card=False)

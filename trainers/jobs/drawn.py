"""What a run draws, found anew from its mixture and settings: does it draw rows that are forgotten?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixture import registry
from mixture.arguments import Name
from mixture.errors import StoreError, UsageError, unknown_name
from mixture.jobs.forget import chosen_rows
from mixture.materialised import MaterialisedMixture
from mixture.progress import Progress, silent
from mixture.registry.holding import former_names
from mixture.specs import MixtureSpec
from mixture.store import Store, forgotten, layout
from mixture.store.change import FORGOTTEN
from mixture.store.forgotten import ROWS
from mixture.store.materialise import materialise
from mixture.whole import scratch_in
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.output import record_if_any
from trainers.finetune.phases import Phases
from trainers.learning.config import LearningSettings
from trainers.settings import S, resolve

if TYPE_CHECKING:
    from trainers.batch.texts import TextBatch

SIDES = ("query", "positive", "negative")


@dataclass(frozen=True)
class CheckedRun:
    """What all batches of a run hold of rows that are forgotten.

    steps:      batches walked through, all that the run has
    draws:      rows in them
    compared:   batches that the run's own record tells of, in collections and numbers of rows; all of them agree
    rows:       rows looked for
    held:       those that the run could draw: its mixtures have them, and they are not held out
    drawn:      draws of these rows; by_row has them by row: collection, example_id, draws, the most first
    with_texts: rows whose texts are known; of the others an old version of the store is gone
    same_query, same_positive, same_negative: draws of other rows that bring an equal query; a positive of such a row as
                positive, as negative
    """

    run: str
    model: str | None
    steps: int
    draws: int
    compared: int
    rows: int
    held: int
    drawn: int
    by_row: tuple[dict[str, Any], ...]
    with_texts: int
    same_query: int
    same_positive: int
    same_negative: int


class _Asked(NamedTuple):
    """A run as it was asked for: its id, the folder of its model, settings, mixtures with their steps, and what it
    recorded: step (from 1) -> collection -> rows."""

    run: str
    model: str | None
    settings: FinetuneSettings | LearningSettings
    phases: list[tuple[MixtureSpec, int]]
    recorded: dict[int, dict[str, int]]


def check_forgotten(
    store: Store, run: Name, what: str | None = None, *, where: str | None = None, progress: Progress = silent
) -> CheckedRun:  # fmt: skip
    """Draw all batches of a run anew, as its training does, and count the draws of forgotten rows.

    run:   a run's id, or the folder of the model that it made
    what, where: count other rows, as `mixture.jobs.forget` takes them; default: all that are forgotten

    The batches are compared with what the run recorded of each. Raises `StoreError` where they differ, and `UsageError`
    for runs of learners that train many times, for soups, and where the store lacks a content of the run.
    """
    asked = _asked(store, run)
    if what is None and where is None:
        query = "SELECT DISTINCT collection, example_id FROM removals WHERE reason = ? ORDER BY ALL"
        rows = store.read(query, [FORGOTTEN]).cast(ROWS)
        if not rows.num_rows:
            raise UsageError("no row is forgotten; name rows to count with `what` or `where`")
    else:
        rows = chosen_rows(store, what, where, although_forgotten=True).rows
    known = forgotten.texts(store, rows)
    former = former_names(store, sorted(set(rows["collection"].to_pylist())))
    with _opened(store, [spec for spec, _ in asked.phases]) as mixtures:
        parts = [(mixture, steps) for mixture, (_, steps) in zip(mixtures, asked.phases, strict=True)]
        draw, components = _draws(parts, asked.settings)
        found = _Found(components, rows, known, former)
        total = sum(steps for _, steps in parts)
        compared = 0
        for step in range(total):
            phase, batch = draw(step)
            compared += _agrees(batch, step, asked)
            found.count(phase, batch)
            progress(step + 1, total, asked.run)
    with_texts = known.group_by(["collection", "example_id"]).aggregate([]).num_rows
    by_row = [
        {"collection": name, "example_id": id, "draws": count} for (name, id), count in found.by_row.most_common()
    ]
    return CheckedRun(
        asked.run, asked.model, total, found.draws, compared, rows.num_rows, found.held,
        found.by_row.total(), tuple(by_row), with_texts, *(found.texts[side] for side in SIDES),
    )  # fmt: skip


def _asked(store: Store, run: Name) -> _Asked:
    folder = Path(run).expanduser()
    record = record_if_any(folder)
    if record and "run_id" not in record:
        raise UsageError(f"{folder} is an average of models; check each of those")
    if record:
        return _of_record(record, str(folder))
    rows = store.rows("SELECT * FROM runs WHERE run_id = ?", [str(run)])
    if not rows:
        if folder.is_dir():
            raise UsageError(f"{folder} holds no finished training")
        raise unknown_name("run", str(run), [row["run_id"] for row in store.rows("SELECT run_id FROM runs")])
    row = rows[0]
    config = json.loads(row["config"] or "{}")
    result = row["result"] if row["kind"] in ("finetune", "reference") else None
    record = record_if_any(Path(result)) if result else {}
    if result and record and (row["kind"] == "reference" or record["run_id"] == row["run_id"]):
        return _of_record(record, result)._replace(run=row["run_id"])
    if row["kind"] in ("finetune", "reference"):
        settings: FinetuneSettings | LearningSettings = _settings(FinetuneSettings, config)
    elif row["kind"] == "tdro" and "target" not in config:
        settings = _settings(LearningSettings, config)
    else:
        raise UsageError(f"run {row['run_id']} is a {row['kind']}, of many trainings; what they could draw is what its "
                         "mixture holds, as `mixture show` says")  # fmt: skip
    told = config.get("phases") or [{"mixture": row["mixture"], "steps": settings.steps}]
    phases = [(registry.resolve(store, one["mixture"]).spec, one["steps"]) for one in told]
    return _Asked(row["run_id"], result, settings, phases, _history(store, row["run_id"]))


def _of_record(record: Mapping[str, Any], model: str) -> _Asked:
    settings = _settings(FinetuneSettings, record["settings"])
    told = record.get("phases") or [{"mixture": record["mixture"], "steps": settings.steps}]
    phases = [(MixtureSpec.from_json(json.dumps(one["mixture"])), one["steps"]) for one in told]
    recorded: dict[int, dict[str, int]] = {}
    for row in record["losses"]:
        recorded.setdefault(row["step"], {})[row["collection"]] = row["examples"]
    return _Asked(record["run_id"], model, settings, phases, recorded)


def _history(store: Store, run: str) -> dict[int, dict[str, int]]:
    rows = store.rows("SELECT step, collection, num_examples AS n FROM weight_history WHERE run_id = ?", [run])
    found: dict[int, dict[str, int]] = {}
    for row in rows:
        if row["n"]:
            found.setdefault(row["step"], {})[row["collection"]] = row["n"]
    return found


def _settings(kind: type[S], config: Mapping[str, Any]) -> S:
    """The settings of a run, from all that is kept beside them."""
    return resolve(kind, None, {name: config[name] for name in kind.__dataclass_fields__ if name in config})


@contextmanager
def _opened(store: Store, specs: Sequence[MixtureSpec]) -> Iterator[list[MaterialisedMixture]]:
    """The mixtures with their data, forgotten rows too, in a folder that goes at the end; what the store's own folder
    has is not written again."""
    own = layout.materialised(store.work)
    with scratch_in(store.work) as root:
        layout.component(root, "").mkdir(parents=True)
        for digest in {c.digest for spec in specs for c in spec.components if c.digest}:
            if (there := layout.component(own, digest)).is_dir():
                layout.component(root, digest).symlink_to(there.resolve(), target_is_directory=True)
        yield [materialise(store, spec, root, although_forgotten=True) for spec in specs]


Draw = Callable[[int], "tuple[int, TextBatch]"]


def _draws(
    parts: Sequence[tuple[MaterialisedMixture, int]], settings: FinetuneSettings | LearningSettings
) -> tuple[Draw, list[MaterialisedMixture]]:
    """What gives the number of a step's phase, and its batch; the mixture of each phase, without rows held out."""
    from trainers.batch.texts import BatchSource

    if isinstance(settings, LearningSettings):
        from trainers.learning.loop import uniform_plan

        ((mixture, _),) = parts
        source = BatchSource(mixture, uniform_plan(mixture, settings), negatives=settings.negatives)
        return lambda step: (0, source.mixed(step)), [mixture]
    chosen = settings
    phases, _ = Phases.of(parts).hold_out(chosen.holdout)
    sources = [
        BatchSource(phase.mixture, plan, negatives={name: chosen.of(name).negatives for name in phase.mixture.sizes})
        for phase, plan in zip(phases.parts, phases.plans(chosen), strict=True)
    ]
    draws = [source.shared if chosen.batching == "mixed" else source.homogeneous for source in sources]

    def draw(step: int) -> tuple[int, TextBatch]:
        number = phases.at(step)
        return number, draws[number](step)

    return draw, [phase.mixture for phase in phases.parts]


def _agrees(batch: TextBatch, step: int, asked: _Asked) -> int:
    """1 where the run recorded this batch; a `StoreError` where it recorded another one."""
    told = asked.recorded.get(step + 1)
    if told is None:
        return 0
    counted = Counter(batch.names[group] for group in batch.collections)
    if counted != told:
        raise StoreError(
            f"batch {step + 1} of run {asked.run} is {dict(counted)} by its mixture and settings, but it recorded "
            f"{told}: what it drew cannot be told"
        )
    return 1


class _Found:
    """Counts over batches. rows: `ROWS`; known: as `forgotten.texts`; former: as `former_names`."""

    def __init__(
        self, mixtures: Sequence[MaterialisedMixture], rows: pa.Table, known: pa.Table, former: Mapping[str, set[str]]
    ) -> None:
        self.draws = 0
        self.by_row: Counter[tuple[str, str]] = Counter()
        self.texts: Counter[str] = Counter()
        passages = known.filter(pc.equal(known["kind"], "passage"))["text"]
        queries = known.filter(pc.equal(known["kind"], "query"))["text"].combine_chunks()
        self._passages = set(passages.to_pylist())
        pairs = list(zip(rows["collection"].to_pylist(), rows["example_id"].to_pylist(), strict=True))
        self._of = [
            {name: {id: now for now, id in pairs if now in former.get(part.collection, ())}
             for name, part in mixture.components.items()}
            for mixture in mixtures
        ]  # fmt: skip
        self._same_query = [
            {name: _among(part.queries(), queries) for name, part in mixture.components.items()} for mixture in mixtures
        ]
        held = {
            (now, id)
            for mixture, of in zip(mixtures, self._of, strict=True)
            for name, gone in of.items() if gone
            for id in mixture.components[name].example_ids().to_pylist() if (now := gone.get(id)) is not None
        }  # fmt: skip
        self.held = len(held)

    def count(self, phase: int, batch: TextBatch) -> None:
        each = len(batch.passages) // len(batch.examples)
        self.draws += len(batch.examples)
        for place, (id, group, row) in enumerate(zip(batch.examples, batch.collections, batch.rows, strict=True)):
            name = batch.names[group]
            if (now := self._of[phase][name].get(id)) is not None:
                self.by_row[now, id] += 1
                continue
            own = [text in self._passages for text in batch.passages[place * each : (place + 1) * each]]
            self.texts["query"] += bool(self._same_query[phase][name][row])
            self.texts["positive"] += own[0]
            self.texts["negative"] += sum(own[1:])


def _among(texts: pa.ChunkedArray, wanted: pa.Array) -> np.ndarray:
    """For each of (n,) texts whether it is wanted, (n,) bool."""
    return np.asarray(pc.is_in(texts, wanted.cast(texts.type)).to_numpy(zero_copy_only=False), np.bool_)

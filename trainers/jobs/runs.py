"""The store's record of runs: what was asked, how it ended, the weights step by step. The first rank writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture.materialised import MaterialisedMixture
from mixture.registry.holdout import HELD_OUT, TRAIN
from mixture.registry.slices import Slice, keep, slice_of
from mixture.specs import WEIGHT_COLUMNS, MixtureSpec
from mixture.store import Store
from mixture.store.materialise import materialise
from mixture.store.teachers import write_scores
from mixture.store.write import append
from trainers.finetune.output import record_of
from trainers.finetune.phases import Phases
from trainers.finetune.scores import LOSS
from trainers.loop.stopping import Stopped
from trainers.parallel import ranks
from trainers.settings import TrainingSettings


def materialised(store: Store, spec: MixtureSpec, *, taught: Sequence[str] = ()) -> MaterialisedMixture:
    """A mixture's data: the first rank of each machine writes what is missing, the others open it.

    taught: components whose scores are brought up to the store's of today
    """

    def write() -> None:
        materialise(store, spec)
        if taught:
            write_scores(store, spec, only=taught)

    ranks.on_nodes(write)
    return materialise(store, spec)


@contextmanager
def recorded(
    store: Store, run: str, kind: str, mixture: str | None, settings: TrainingSettings | Mapping[str, Any], **more: Any
) -> Iterator[dict[str, Any]]:
    """The row of a run in `runs`: running; then finished, or failed. mixture: None for one of several.

    What the body puts into the dictionary it gets: `result` (a reference or folder), and anything else, which joins the
    row's config.
    """
    config = (dict(settings) if isinstance(settings, Mapping) else asdict(settings)) | more
    row = {"run_id": run, "kind": kind, "status": "running", "mixture": mixture,
           "config": json.dumps(config, sort_keys=True), "started_at": datetime.now(UTC)}  # fmt: skip

    def begin(connection: Any) -> None:
        connection.execute("DELETE FROM runs WHERE run_id = ?", [run])
        append(connection, "runs", [row])

    def end(status: str, result: str | None) -> None:
        values = [status, result, json.dumps(config | found, sort_keys=True), run]
        store.transaction(
            lambda connection: connection.execute(
                "UPDATE runs SET status = ?, result = ?, config = ?, finished_at = now() WHERE run_id = ?", values
            )
        )

    ranks.on_main(lambda: store.transaction(begin))
    found: dict[str, Any] = {}
    try:
        yield found
    except Stopped:  # like a kill it leaves "running", to be resumed
        raise
    except Exception:  # whatever it was is raised again
        if ranks.is_main():
            end("failed", None)
        raise
    result = found.pop("result", None)
    ranks.on_main(lambda: end("finished", result))


def finished_config(store: Store, run: str) -> dict[str, Any] | None:
    """The config of a run that is finished, with what it found; None where it is not."""
    rows = ranks.on_main(lambda: store.rows("SELECT config FROM runs WHERE run_id = ? AND status = 'finished'", [run]))
    return dict(json.loads(rows[0]["config"])) if rows else None


def set_result(store: Store, run: str, result: str) -> None:
    """Say what a finished run made, where that is not said yet."""

    def work() -> None:
        if store.rows("SELECT 1 FROM runs WHERE run_id = ? AND result IS NULL", [run]):
            store.transaction(lambda c: c.execute("UPDATE runs SET result = ? WHERE run_id = ?", [result, run]))

    ranks.on_main(work)


def record_history(store: Store, run: str, rows: Sequence[dict[str, Any]]) -> None:
    """Append the steps that the store does not have yet: a resumed run writes none twice."""

    def work(connection: Any) -> None:
        found = connection.execute("SELECT coalesce(max(step), 0) FROM weight_history WHERE run_id = ?", [run])
        last = found.fetchone()[0]
        new = [{"run_id": run, **row} for row in rows if row["step"] > last]
        append(connection, "weight_history", pa.Table.from_pylist(new) if new else [])

    store.transaction(work)


def drawn_from(store: Store, phases: Phases, holdout: float) -> dict[tuple[str, str], Slice]:
    """What a training draws from, of the components that it holds rows out of: slices that the store keeps, by name and
    digest of the component."""
    kept, _ = phases.hold_out(holdout)
    found, label = {}, f"{TRAIN}, holdout={holdout:g}"
    for (whole, _), (left, _) in zip(phases.parts, kept.parts, strict=True):
        for c in whole.spec.components:
            if left.components[c.name] is not whole.components[c.name]:
                ids, before = left.components[c.name].example_ids(), f"{c.slice}, " if c.slice else ""
                found[c.name, c.digest] = slice_of(
                    c.collection, before + label, "what a training with this holdout draws from", ids
                )
    if found:
        ranks.on_main(lambda: keep(store, list(found.values())))
    return found


def record_training(
    store: Store, run: str, out: Path, slices: Mapping[tuple[str, str], Slice] | None = None
) -> None:  # fmt: skip
    """What a finished fine-tuning drew (`run_draws`) and scored (`evaluations`, `evaluation_queries`), from its record
    in `out`; once, whatever was there of this run. slices: `drawn_from`, in place of the components.

    Scores during training have their step. Those of the step that became the model are there a second time without
    one, as the model's: `mixture evaluate` writes such. The loss on held-out rows is there with its step alone.
    """
    record = ranks.on_main(lambda: record_of(out))
    model, now = str(out.resolve()), datetime.now(UTC)
    common = {"model": model, "mixture": (record["mixture"] or {}).get("id"), "evaluated_at": now}
    rows = [row | common | {"run_id": run} for row in record["evaluations"]]
    rows += [row | {"step": None} for row in rows if row["step"] == record["final_step"]]
    rows += [
        {"step": row["step"], "suite": f"{row['collection']}/{HELD_OUT}", "metric": LOSS, "value": row["loss"],
         "num_queries": row["num_examples"], "num_documents": row["num_documents"], "corpus": f"{HELD_OUT} rows",
         "run_id": run, **common}
        for row in record.get("held_out", ())
    ]  # fmt: skip
    draws = [{name: value for name, value in row.items() if name != "phases"} | {"run_id": run}
             for row in record["drawn"]]  # fmt: skip
    for row in draws:
        if (drawn := (slices or {}).get((row["collection"], row["digest"]))) is not None:
            row |= {"slice_of": drawn.collection, "selection": drawn.selection}
    queries = [
        one
        for row in record["query_scores"]
        for one in query_rows(row["values"], **common, suite=row["suite"], corpus=row["corpus"])
    ]

    def work(connection: Any) -> None:
        connection.execute("DELETE FROM run_draws WHERE run_id = ?", [run])
        connection.execute("DELETE FROM evaluations WHERE run_id = ? AND step IS NOT NULL", [run])
        append(connection, "run_draws", draws)
        append(connection, "evaluations", rows)
        append(connection, "evaluation_queries", queries)

    ranks.on_main(lambda: store.transaction(work))


def query_rows(by_metric: Mapping[str, Mapping[str, float]], **common: Any) -> list[dict[str, Any]]:
    """Rows of the table `evaluation_queries` from metric -> query id -> value; `common` are their other columns."""
    return [
        {**common, "metric": metric, "query_id": query, "value": value}
        for metric, values in by_metric.items()
        for query, value in values.items()
    ]


def last_weights(store: Store, run: str) -> dict[str, dict[str, float]]:
    """ "current", "mean", "ema" -> collection -> weight after the last step that the store has."""
    rows = ranks.on_main(
        lambda: store.rows(
            """SELECT collection, weight, mean_weight, ema_weight FROM weight_history WHERE run_id = $run
               AND step = (SELECT max(step) FROM weight_history WHERE run_id = $run) ORDER BY collection""",
            {"run": run},
        )
    )
    return {average: {row["collection"]: row[column] for row in rows} for average, column in WEIGHT_COLUMNS.items()}

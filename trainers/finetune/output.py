"""What a fine-tuning leaves in its folder: the model, its record, its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixture.errors import UsageError
from mixture.whole import check_new
from trainers.model.template import RECORD

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


MARK = "run.json"


def mark(out: Path, run: str) -> None:
    """Say that an unfinished run is at work in `out`; what a machine other than the first has of another one goes."""
    mark = out / "checkpoints" / MARK
    if mark.is_file() and json.loads(mark.read_text("utf-8"))["run_id"] != run:
        shutil.rmtree(mark.parent)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"run_id": run}), "utf-8")


def check_folder(out: Path) -> None:
    """Raise `UsageError` where `out` holds what no training left there; what it left, `finished` looks at."""
    left = (out / RECORD).is_file() or (out / "checkpoints" / MARK).is_file()
    if not left:
        check_new(out, "out")


def finished(out: Path, run: str) -> bool:
    """Whether this run is finished in `out`; a `UsageError` where `out` holds anything else than this run."""
    mark = out / "checkpoints" / MARK
    if (out / RECORD).is_file():
        if record_of(out)["run_id"] == run:
            return True
        raise UsageError(f"{out} holds another finished model; name a new folder in `out`")
    if mark.is_file() and json.loads(mark.read_text("utf-8"))["run_id"] != run:
        raise UsageError(f"{out} holds an unfinished run with other settings; remove it, or name a new folder in `out`")
    check_folder(out)
    return False


def record_of(out: Path) -> dict[str, Any]:
    """The record of a finished run (`trainers.finetune.loop.finetune` says what is in it)."""
    return dict(json.loads((out / RECORD).read_text("utf-8")))


def record_if_any(model: Path) -> dict[str, Any]:
    """The record in a model's folder; empty for a model that was not trained here, or is no folder."""
    return record_of(model) if (model / RECORD).is_file() else {}


def mixtures_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mixtures that a model was trained on, from its record, in order: mixture (its spec) and steps, up to the step
    that became the model; of what no training made steps is None. Empty where the record names no mixture."""
    if "phases" not in record:
        mixture = record.get("mixture")
        return [{"mixture": mixture, "steps": record.get("final_step")}] if mixture else []
    found, left = [], record["final_step"]
    for phase in record["phases"]:
        if left > 0:
            found.append(phase | {"steps": min(left, phase["steps"])})
        left -= phase["steps"]
    return found


def held_out(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The loss on held-out rows by component, from a run's record: before training, and of the step that became the
    model. Empty where none were held out."""
    rows = {(row["collection"], row["step"]): row for row in record.get("held_out", ())}
    names = dict.fromkeys(name for name, _ in rows)
    return [
        {"collection": name, "held_out": rows[name, 0]["num_held_out"], "measured": rows[name, 0]["num_examples"],
         "first": rows[name, 0]["loss"], "last": rows[name, record["final_step"]]["loss"]}
        for name in names
    ]  # fmt: skip


def save(encoder: SentenceTransformer, out: Path, record: dict[str, Any]) -> None:
    """The model with its card, then its record (whose presence says that the run is finished), then no more
    checkpoints."""
    from trainers.model.card import model_card

    encoder.save(str(out), create_model_card=False)
    (out / "README.md").write_text(model_card(record), "utf-8")
    scratch = out / f".{RECORD}"
    scratch.write_text(json.dumps(record, ensure_ascii=False, indent=1), "utf-8")
    scratch.replace(out / RECORD)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def clear(out: Path) -> None:
    """No more checkpoints, on a machine that has no model here either."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    with suppress(OSError):
        out.rmdir()

"""Soups: the average of trained models, as a model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixture.arguments import Name, Names, listed
from mixture.errors import UsageError
from mixture.progress import Progress, silent
from trainers.model.alike import Trained, check_alike, common_start, opened
from trainers.model.template import CONFIG, RECORD


@dataclass(frozen=True)
class Soup:
    """An average of models.

    model:   its folder
    start:   the model that all of them began with; None where that is not known
    mixture: the id of the mixture that all were trained on; None where they differ or have none
    models:  what it is made of: model (its folder), weight (the sum is 1), run and mixture (None where not known)
    """

    model: Path
    start: str | None
    mixture: str | None
    models: tuple[dict[str, Any], ...]


def soup(models: Names, *, out: Name, weights: Sequence[float] | None = None, progress: Progress = silent) -> Soup:
    """Average trained models of one architecture and one start into the new folder `out`.

    models:  folders that `train` or sentence-transformers saved. Adapters are averaged as what they add to the weights
             of their base, so that the soup is a whole model
    weights: of the models in their order, as shares of their sum; default: equal

    Means are taken in float64 and kept in the models' own type, tensor by tensor: memory holds one model at most.
    Raises `UsageError` where the models differ in architecture, pooling, tokenizer, prompts or start. Nothing
    is written then.
    """
    folders = [Path(name).expanduser() for name in listed(models)]
    if not folders:
        raise UsageError("`models` is empty; name the folders of the models to average")
    shares, target = _shares(weights, len(folders)), Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is not empty; name a new folder in `out`")
    parts = opened(folders)
    check_alike(parts)
    record = _record(parts, shares)
    progress(0, 0, "loading PyTorch")
    from trainers.model.card import soup_card
    from trainers.model.soup import average, average_adapters

    # Written beside it and renamed: what is at `out` is whole.
    scratch = target.parent / f".{target.name}.soup"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        if parts[0].adapter:
            average_adapters(parts, shares, scratch)
        else:
            average(parts, shares, scratch, progress)
        _write_prompts(scratch, parts)
        (scratch / "README.md").write_text(soup_card(record), "utf-8")
        (scratch / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1), "utf-8")
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    mixture = record["mixture"]
    made_of = tuple({"model": str(part.folder), "weight": share, "run": part.record.get("run_id"),
                     "mixture": _mixture_id(part)} for part, share in zip(parts, shares, strict=True))  # fmt: skip
    return Soup(target, record["model"], mixture and mixture["id"], made_of)


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights of `count` models with the sum 1."""
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise UsageError(f"`weights` has {len(weights)} numbers for {count} models; give one for each")
    if wrong := [weight for weight in weights if not (math.isfinite(weight) and weight >= 0)]:
        raise UsageError(f"`weights` has {wrong[0]:g}; allowed: 0 or more")
    if not (total := math.fsum(weights)):
        raise UsageError("`weights` are all 0; give one of the models more")
    return [weight / total for weight in weights]


def _mixture_id(part: Trained) -> str | None:
    return (part.record.get("mixture") or {}).get("id")


def _record(parts: Sequence[Trained], shares: Sequence[float]) -> dict[str, Any]:
    """What stands in the soup's `training.json`: run_id (None: no training made it), model, mixture (of all, or None),
    template (of all, where each has one) and soup (model, weight, run_id, mixture and collections of each)."""
    mixtures = [part.record.get("mixture") for part in parts]
    same = len({_mixture_id(part) for part in parts}) == 1
    record: dict[str, Any] = {"run_id": None, "model": common_start(parts), "mixture": mixtures[0] if same else None}
    if all("template" in part.record for part in parts):
        record["template"] = parts[0].record["template"]
    record["soup"] = [
        {
            "model": str(part.folder.resolve()), "weight": share, "run_id": part.record.get("run_id"),
            "mixture": _mixture_id(part),
            "collections": [c["collection"] for c in (mixture or {}).get("components", ()) if c["weight"] > 0],
        }
        for part, share, mixture in zip(parts, shares, mixtures, strict=True)
    ]  # fmt: skip
    return record


def _write_prompts(folder: Path, parts: Sequence[Trained]) -> None:
    """Models of several mixtures have prompts for different collections; the soup has those of all."""
    prompts = {name: text for part in parts for name, text in part.prompts.items()}
    if prompts != parts[0].prompts:
        file = folder / CONFIG
        body = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        file.write_text(json.dumps(body | {"prompts": prompts}, ensure_ascii=False, indent=2), "utf-8")

"""Soups: the average of trained models, as a model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mixture.arguments import Name, Names, listed
from mixture.errors import UsageError
from mixture.progress import Progress, silent
from mixture.suites.families import family
from mixture.suites.given import suites_of
from mixture.suites.halves import LEARN
from mixture.suites.suite import Suite
from mixture.whole import check_new, new_folder, scratch_in
from trainers.evaluation.metrics import require_pytrec_eval
from trainers.finetune.output import mixtures_of
from trainers.finetune.scores import METRIC, check_judged, load_suites
from trainers.model.alike import Trained, check_alike, common_start, opened
from trainers.model.template import CONFIG, RECORD

# In `weights`: what each model is worth on the suites says its weight.
DEV = "dev"


@dataclass(frozen=True)
class Soup:
    """An average of models.

    model:   its folder
    start:   the model that all of them began with; None where that is not known
    mixture: the id of the mixture that all were trained on; None where they differ or have none
    models:  what it is made of: model (its folder), weight (the sum is 1), run and mixture (None where not known), and
             with weights by suites its score on them; a model of weight 0 is not in it
    score:   of the soup on these suites, mean nDCG@10 (`soup`); None without
    """

    model: Path
    start: str | None
    mixture: str | None
    models: tuple[dict[str, Any], ...]
    score: float | None = None


def soup(
    models: Names, *, out: Name, weights: Sequence[float] | str | None = None, suites: Names = (),
    progress: Progress = silent,
) -> Soup:  # fmt: skip
    """Average trained models of one architecture and one start into the new folder `out`.

    models:  folders that `train` or sentence-transformers saved. Adapters are averaged as what they add to the weights
             of their base, so that the soup is a whole model
    weights: of the models in their order, as shares of their sum; default: equal. `dev` finds them on `suites`: the
             greedy soup of Wortsman et al. 2022 (arXiv 2203.05482, recipe 1), which takes up one model after the other,
             the best first, where the mean of those taken scores no less with it
    suites:  with `dev`: folders in BEIR layout and names. A score is nDCG@10 over the queries of their
             `learn` halves; families of suites (xquad-zh, xquad-en) have equal say

    Means are taken in float64 and kept in the models' own type, tensor by tensor: memory holds one model at most.
    Raises `UsageError` where the models differ in architecture, pooling, tokenizer, prompts or start. Nothing
    is written then.
    """
    folders = [Path(name).expanduser() for name in listed(models)]
    if not folders:
        raise UsageError("`models` is empty; name the folders of the models to average")
    target = Path(out).expanduser()
    dev = _dev_suites(weights, suites)
    shares = [] if isinstance(weights, str) else _shares(weights, len(folders))
    check_new(target, "out")
    parts = opened(folders)
    check_alike(parts)
    progress(0, 0, "loading PyTorch")
    scores: list[float | None] = [None] * len(parts)
    score = None
    if dev:
        shares, measured, score = _greedy(parts, dev, target, progress)
        scores = [*measured]
    taken = [part for part, share in zip(parts, shares, strict=True) if share]
    shares_taken = [share for share in shares if share]
    record = _record(taken, shares_taken)
    if dev:
        record["dev"] = {"suites": [suite.title for suite in dev], METRIC: score,
                         "models": dict(zip(map(str, folders), scores, strict=True))}  # fmt: skip
    from trainers.model.card import soup_card

    with new_folder(target) as scratch:
        _average(taken, shares_taken, scratch, progress)
        (scratch / "README.md").write_text(soup_card(record), "utf-8")
        (scratch / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1), "utf-8")
    mixture = record["mixture"]
    made_of = tuple({"model": str(part.folder), "weight": share, "run": part.record.get("run_id"),
                     "mixture": _mixture_id(part)} | ({"score": one} if dev else {})
                    for part, share, one in zip(parts, shares, scores, strict=True))  # fmt: skip
    return Soup(target, record["model"], mixture and mixture["id"], made_of, score)


def _average(parts: Sequence[Trained], shares: Sequence[float], folder: Path, progress: Progress) -> None:
    """Write the average into an empty folder."""
    from trainers.model.soup import average, average_adapters

    if parts[0].adapter:
        average_adapters(parts, shares, folder)
    else:
        average(parts, shares, folder, progress)
    _write_prompts(folder, parts)


def _dev_suites(weights: Sequence[float] | str | None, suites: Names) -> list[Suite]:
    """The `learn` halves that weights are found on, none for weights that are given."""
    named = listed(suites)
    if isinstance(weights, str):
        if weights != DEV:
            raise UsageError(f"`weights` is {weights!r}; allowed: numbers, or {DEV}")
        if not named:
            raise UsageError(f"`weights={DEV}` finds the weights on suites: name them in `suite`")
        require_pytrec_eval()
        loaded = load_suites(suites_of(named), LEARN)
        check_judged(loaded)
        return loaded
    if named:
        raise UsageError(f"`suite` is read with `weights={DEV}` alone; leave it out")
    return []


def _greedy(
    parts: Sequence[Trained], suites: Sequence[Suite], target: Path, progress: Progress
) -> tuple[list[float], list[float], float]:  # fmt: skip
    """The weights, each model's own score, and the soup's."""
    count, done = 2 * len(parts) - 1, 0

    def score(folder: Path, what: str) -> float:
        nonlocal done
        progress(done, count, what)
        found = _mean_score(folder, suites)
        done += 1
        progress(done, count, f"{what}: {100 * found:.2f}")
        return found

    target.parent.mkdir(parents=True, exist_ok=True)
    scores = [score(part.folder, part.folder.name) for part in parts]
    first, *others = sorted(range(len(parts)), key=lambda one: -scores[one])
    taken, best = [first], scores[first]
    for one in others:
        tried = sorted([*taken, one])
        with scratch_in(target.parent) as scratch:
            folder = scratch / "soup"
            folder.mkdir()
            _average([parts[i] for i in tried], _shares(None, len(tried)), folder, silent)
            found = score(folder, f"with {parts[one].folder.name}")
        if found >= best:
            taken, best = tried, found
    return [1 / len(taken) if one in taken else 0.0 for one in range(len(parts))], scores, best


def _mean_score(folder: Path, suites: Sequence[Suite]) -> float:
    """nDCG@10 of a model: the mean over the suites of a family, then over families."""
    from trainers.evaluation.evaluate import evaluate_as_is
    from trainers.model.encoder import load_encoder

    encoder = load_encoder(str(folder))
    found: dict[str, list[float]] = {}
    for suite in suites:
        found.setdefault(family(suite.name), []).append(evaluate_as_is(encoder, suite).metrics[METRIC])
    return fmean(map(fmean, found.values()))


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
    template (of all, where each has one) and soup (model, weight, run_id, mixture and collections of each, and phases
    of one that had several)."""
    mixtures = [part.record.get("mixture") for part in parts]
    same = len({_mixture_id(part) for part in parts}) == 1
    record: dict[str, Any] = {"run_id": None, "model": common_start(parts), "mixture": mixtures[0] if same else None}
    if all("template" in part.record for part in parts):
        record["template"] = parts[0].record["template"]
    record["soup"] = [
        {
            "model": str(part.folder.resolve()), "weight": share, "run_id": part.record.get("run_id"),
            "mixture": _mixture_id(part),
            "collections": list(dict.fromkeys(
                c["collection"] for one in mixtures_of(part.record) for c in one["mixture"]["components"]
                if c["weight"] > 0
            )),
        } | ({"phases": [one | {"mixture": one["mixture"]["id"]} for one in mixtures_of(part.record)]}
             if "phases" in part.record else {})
        for part, share in zip(parts, shares, strict=True)
    ]  # fmt: skip
    return record


def _write_prompts(folder: Path, parts: Sequence[Trained]) -> None:
    """Models of several mixtures have prompts for different collections; the soup has those of all."""
    prompts = {name: text for part in parts for name, text in part.prompts.items()}
    if prompts != parts[0].prompts:
        file = folder / CONFIG
        body = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        file.write_text(json.dumps(body | {"prompts": prompts}, ensure_ascii=False, indent=2), "utf-8")

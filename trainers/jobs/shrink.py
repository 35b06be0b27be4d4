"""A trained model with fewer layers, or with narrower ones, as a model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixture import registry
from mixture.arguments import Name
from mixture.errors import MixtureError, UsageError
from mixture.progress import Stage, quiet
from mixture.registry import Mixture
from mixture.store import Store, layout
from mixture.store.write import append
from mixture.whole import check_new, new_folder
from trainers.finetune.config import FinetuneSettings
from trainers.finetune.output import record_if_any
from trainers.jobs.runs import materialised, recorded
from trainers.model.identity import locate, model_identity
from trainers.model.template import RECORD, Template, own_template
from trainers.settings import run_id
from trainers.shrinking.architecture import architecture_of
from trainers.shrinking.asked import Asked, checked
from trainers.shrinking.programme import Found, Removed, num_tried, search

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from trainers.shrinking.calibration import Calibration

FILE = "shrink.json"
EVALUATED = "evaluated.jsonl"
# Of the record of the model that was cut.
STILL_TRUE = ("phases", "final_step", "template", "soup")
# Texts that the saved model must embed as the one in memory does, and how far off it may be.
LOOKS = ("what is granite made of", "Granite is quartz, feldspar and mica, which cooled slowly under the ground.")
ALIKE = 1e-5


@dataclass(frozen=True)
class Shrunk:
    """A smaller model.

    model:       its folder
    start:       the model that it was cut from
    kept:        the layers that are left, by their numbers in `start`
    num_layers:  of `start`
    width:       inner channels of each layer, where some went; None: all are there
    parameters:  of the new model, and `parameters_before`
    run:         the run's id in the store; None where nothing was measured
    mixture:     the id of the mixture that it was measured on, likewise
    curve:       the best found set of each size, from 0: removed (layers), loss (mean over the collections, in nats)
    collections: collection, weight, rows (that the losses are means of), before, after, and with a search layer: the
                 one whose removal alone costs the collection most, and rise: by how much
    loss:        of the saved model on the same rows; None where nothing was measured
    """

    model: Path
    start: str
    kept: tuple[int, ...]
    num_layers: int
    width: int | None
    parameters: int
    parameters_before: int
    run: str | None
    mixture: str | None
    curve: tuple[dict[str, Any], ...]
    collections: tuple[dict[str, Any], ...]
    loss: float | None


def shrink(
    model: Name, *, out: Name, layers: int | None = None, store: Store | None = None, mixture: Mixture | None = None,
    first: bool = False, keep: Sequence[int] | None = None, keep_last: int | None = None, width: float = 1.0,
    rows: int = 32, temperature: float = 0.05, seed: int = 42, stage: Stage = quiet,
) -> Shrunk:  # fmt: skip
    """Take layers out of a trained model, and save what is left to the new folder `out`.

    layers:    how many are left. Which ones, a search finds (`shrinking.programme.search`) that tries the real model on
               rows of `mixture` in `store`; what it tried goes to the table `layer_losses`
    first:     the first ones are left, without a search: for models that were trained with `elastic_layers`
    keep:      these are left, without a search
    keep_last: so many of the last layers are not tried; default: 1 with last-token pooling, else 0
    width:     share of the inner channels of each layer's feed-forward part that are left (`shrinking.width.narrow`)
    rows:      of each collection, with other rows' positives as negatives; the mean over the collections has the
               mixture's weights
    temperature, seed: of the loss, and of which rows

    A search that was killed goes on when called again. LoRA is merged first. The new folder has the model's prompts,
    and a `shrink.json`: kept layers, curve, rows. Raises `UsageError` for what cannot be done; nothing is written then.
    """
    asked = checked(model, layers, first, keep, keep_last, width, rows)
    settings = FinetuneSettings(temperature=temperature, seed=seed)
    target = Path(out).expanduser()
    if (asked.searched or width < 1) and (store is None or mixture is None):
        raise UsageError("which layers or channels can go is measured on a mixture: name one in `mixture`")
    check_new(target, "out")
    spec = registry.resolve(store, mixture).spec if store is not None and mixture is not None else None
    show = stage("shrinking")
    show(0, 0, "loading PyTorch")
    work = _Work(asked, target, settings)
    if store is None or spec is None:
        return work.finish(None, None)
    data = materialised(store, spec)
    more = {"layers": asked.num_left, "keep": asked.kept, "keep_last": keep_last, "width": width, "rows": rows}
    run = run_id("shrink", spec.id, settings, model=model_identity(asked.model), shrink=json.dumps(more))
    told = {"temperature": temperature, "seed": seed, "model": asked.model, "out": str(target.resolve()), **more}
    with recorded(store, run, "shrink", spec.id, told) as row:
        work.calibrate(data, rows)
        kept = layout.run(store.work, run) / EVALUATED
        found = work.search(kept, show)
        made = work.finish(run, spec.id, found)
        _record(store, run, found, work)
        row["result"] = str(target.resolve())
    shutil.rmtree(kept.parent, ignore_errors=True)
    return made


class _Work:
    """The model that is cut, and what it is measured on."""

    def __init__(self, asked: Asked, out: Path, settings: FinetuneSettings) -> None:
        from trainers.model.adapters import merge_lora
        from trainers.model.encoder import load_encoder
        from trainers.shrinking.layers import layers_of

        self.asked, self.out, self.settings = asked, out, settings
        self.encoder = load_encoder(asked.model)
        merge_lora(self.encoder)
        if len(layers_of(self.encoder)) != asked.num_layers:
            raise MixtureError(f"{asked.model!r} has {len(layers_of(self.encoder))} layers, and its configuration says "
                               f"{asked.num_layers}")  # fmt: skip
        self.template = _template(self.encoder, asked.model)
        self.calibration: Calibration | None = None
        self.by_set: dict[Removed, dict[str, float]] = {}

    def calibrate(self, data: Any, rows: int) -> None:
        from trainers.shrinking.calibration import Calibration

        self.calibration = Calibration(data, self.encoder, self.settings, self.template, rows)

    @property
    def candidates(self) -> tuple[int, ...]:
        """The layers that may go."""
        from trainers.model.encoder import pools_last_token

        last = self.asked.keep_last
        if last is None:
            last = 1 if pools_last_token(self.encoder) else 0
        stay = {*architecture_of(self.asked.model).fixed, *range(self.asked.num_layers - last, self.asked.num_layers)}
        found = tuple(layer for layer in range(self.asked.num_layers) if layer not in stay)
        least = self.asked.num_layers - len(found)
        if self.asked.num_left < least:
            names = ", ".join(map(str, sorted(stay)))
            raise UsageError(f"`layers` is {self.asked.num_left}; allowed: {least} or more, since {names} stay")
        return found

    def search(self, file: Path, show: Any) -> Found:
        """What removals cost: of all that a search tries, or of the one that is asked for. What was measured is kept
        in `file`, a line a set."""
        self.by_set = _read(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        most = self.asked.num_layers - self.asked.num_left
        total = 1 + (num_tried(len(self.candidates), most) if self.asked.kept is None else bool(most))
        known = {removed: self._mean(losses) for removed, losses in self.by_set.items()}
        show(len(known), total, "calibrating")

        def loss(removed: Removed) -> float:
            losses = self._measured(self._cut(removed))
            self.by_set[removed] = losses
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"removed": removed, "losses": losses}) + "\n")
            without = f"without {', '.join(map(str, removed))}" if removed else "whole"
            show(len(self.by_set), total, f"{without}: {self._mean(losses):.4f}")
            return self._mean(losses)

        if self.asked.kept is None:
            return search(loss, self.candidates, most, known)
        sets = dict.fromkeys([(), _others(self.asked.kept, self.asked.num_layers)])
        values = {removed: known[removed] if removed in known else loss(removed) for removed in sets}
        return Found({len(removed): removed for removed in sets}, values)

    def finish(self, run: str | None, mixture: str | None, found: Found | None = None) -> Shrunk:
        """Cut, narrow, save, and look whether what was saved is what was measured."""
        asked, calibration = self.asked, self.calibration
        before = sum(p.numel() for p in self.encoder.parameters())
        gone = found.best[asked.num_layers - asked.num_left] if found else _others(asked.kept or (), asked.num_layers)
        cut, width = self._cut(gone), None
        if asked.width < 1 and calibration is not None:
            from trainers.shrinking.width import narrow

            width = narrow(cut, asked.width, calibration.token_ids)
        kept = _others(gone, asked.num_layers)
        curve = [{"removed": list(removed), "loss": loss} for removed, loss in found.curve] if found else []
        facts = {
            "model": _shown(asked.model), "identity": model_identity(asked.model), "layers": list(kept),
            "num_layers": asked.num_layers, "width": width, "mixture": mixture, "run_id": run,
        }  # fmt: skip
        with new_folder(self.out) as folder:
            cut.save(str(folder), create_model_card=False)
            loaded = self._same(folder, cut)
            after = self._measured(loaded) if calibration else {}
            rows = self._by_collection(found, after)
            loss = self._mean(after) if after else None
            self._write(folder, facts, curve, rows, loss)
        return Shrunk(self.out, asked.model, kept, asked.num_layers, width, sum(p.numel() for p in cut.parameters()),
                      before, run, mixture, tuple(curve), tuple(rows), loss)  # fmt: skip

    def _cut(self, removed: Removed) -> SentenceTransformer:
        from trainers.shrinking.layers import with_layers

        return with_layers(self.encoder, _others(removed, self.asked.num_layers))

    def _measured(self, encoder: SentenceTransformer) -> dict[str, float]:
        assert self.calibration is not None
        return self.calibration.losses(encoder)

    def _mean(self, losses: dict[str, float]) -> float:
        assert self.calibration is not None
        return self.calibration.mean(losses)

    def _same(self, folder: Path, cut: SentenceTransformer) -> SentenceTransformer:
        from trainers.model.encoder import load_encoder

        loaded = load_encoder(str(folder))
        pair = [one.encode(list(LOOKS), prompt="", show_progress_bar=False) for one in (cut, loaded)]
        apart = float(abs(pair[0] - pair[1]).max())
        if not apart <= ALIKE:
            raise MixtureError(f"{self.asked.model!r} cannot be cut so: loaded from its folder it embeds texts "
                               f"otherwise (by {apart:.2g})")  # fmt: skip
        return loaded

    def _by_collection(self, found: Found | None, after: dict[str, float]) -> list[dict[str, Any]]:
        calibration = self.calibration
        if calibration is None or found is None:
            return []
        whole = self.by_set[()]
        single = {removed[0]: losses for removed, losses in self.by_set.items() if len(removed) == 1}
        rows = []
        for name in calibration.names:
            costs = {layer: losses[name] - whole[name] for layer, losses in single.items()}
            most = max(costs, key=lambda layer: (costs[layer], -layer)) if self.asked.searched else None
            rows.append(
                {"collection": name, "weight": calibration.weights[name], "rows": calibration.num_rows[name],
                 "before": whole[name], "after": after[name]}
                | ({} if most is None else {"layer": most, "rise": costs[most]})
            )  # fmt: skip
        return rows

    def _write(
        self, folder: Path, facts: dict[str, Any], curve: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]],
        loss: float | None,
    ) -> None:  # fmt: skip
        from trainers.model.card import shrink_card

        asked, calibration = self.asked, self.calibration
        record = record_of_shrunk(asked.model, facts)
        (folder / "README.md").write_text(shrink_card(record, curve, rows, loss), "utf-8")
        (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1), "utf-8")
        body = facts | {
            "searched": asked.searched, "curve": list(curve), "loss": loss, "collections": list(rows),
            "calibration": None if calibration is None else calibration.digest,
            "settings": {"rows": asked.rows, "width": asked.width, "keep_last": asked.keep_last,
                         "temperature": self.settings.temperature, "seed": self.settings.seed,
                         "template": self.template.parts},
        }  # fmt: skip
        (folder / FILE).write_text(json.dumps(body, ensure_ascii=False, indent=1), "utf-8")


def record_of_shrunk(model: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What stands in the `training.json` of a smaller model: run_id (None: no training made it), model (that it was cut
    from), what is still true of that one's record (mixture or phases, template), and shrink."""
    before = record_if_any(Path(locate(model)))
    record = {"run_id": None, "model": _shown(model), "mixture": before.get("mixture"), "shrink": facts}
    return record | {name: before[name] for name in STILL_TRUE if name in before}


def _template(encoder: SentenceTransformer, model: str) -> Template:
    """How the model's texts look when it is used. What its name alone tells becomes prompts of the encoder: the new
    folder has another name."""
    if (own := own_template(model)) is not None:
        return own
    from trainers.jobs.encode import instructions_of

    known = instructions_of(encoder, model)
    if known.query or known.passage:
        encoder.prompts = {**encoder.prompts, "query": known.query, "document": known.passage}
    return Template(f"{known.query}{{query}}", f"{known.passage}{{passage}}", source="the model's own prompts")


def _others(layers: Sequence[int], number: int) -> Removed:
    return tuple(layer for layer in range(number) if layer not in set(layers))


def _shown(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _read(file: Path) -> dict[Removed, dict[str, float]]:
    """What an earlier call measured; a kill may have cut the last line."""
    found = {}
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[tuple(row["removed"])] = dict(row["losses"])
    return found


def _record(store: Store, run: str, found: Found, work: _Work) -> None:
    """The rows of `layer_losses`, once."""
    assert work.calibration is not None
    best = set(found.best.values())
    rows = [
        {"run_id": run, "removed": list(removed), "num_removed": len(removed), "best": removed in best,
         "collection": name, "num_rows": work.calibration.num_rows[name],
         "loss": loss if math.isfinite(loss) else None}
        for removed in found.losses for name, loss in work.by_set[removed].items()
    ]  # fmt: skip

    def write(connection: Any) -> None:
        connection.execute("DELETE FROM layer_losses WHERE run_id = ?", [run])
        append(connection, "layer_losses", rows)

    store.transaction(write)

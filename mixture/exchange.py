"""A mixture as a file, out and in: our own JSON, the JSON of the tDRO release, CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixture import registry
from mixture.cards import load_cards
from mixture.errors import UsageError
from mixture.registry import Origin, PinnedFacts, SavedMixture
from mixture.specs import SUM_TOLERANCE, Component, MixtureSpec, normalise
from mixture.store import Store, read

COLUMNS = ("collection", "weight", "loss_weight", "num_examples", "digest")


@dataclass(frozen=True)
class _Read:
    """What a file says. A component's digest is None where the format carries none."""

    components: dict[str, tuple[float, float, str | None]]
    facts: dict[str, PinnedFacts]
    parents: tuple[str, ...] = ()
    run_id: str | None = None
    note: str | None = None


def export_text(store: Store, mixture: SavedMixture, fmt: str) -> str:
    """A mixture in one of `FORMATS`: mixture (JSON, all of it), tdro (the release's JSON) or csv.

    Raises `UsageError` for another format, and for loss weights that the release's format cannot hold.
    """
    if fmt not in FORMATS:
        raise UsageError(f"format {fmt!r}; allowed: {', '.join(FORMATS)}")
    return FORMATS[fmt](mixture, registry.pinned_facts(store, mixture.spec))


def _own_json(mixture: SavedMixture, facts: Mapping[str, PinnedFacts]) -> str:
    """`MixtureSpec.to_json`, and beside it what is known of the mixture and its collections."""
    body = json.loads(mixture.spec.to_json())
    body["about"] = {
        "name": mixture.name, "version": mixture.version, "note": mixture.note, "parents": list(mixture.parents),
        "run_id": mixture.run_id, "created_at": mixture.created_at.isoformat(),
        "collections": {name: {"num_examples": known.num_examples,
                               "prompts": None if known.prompts is None else list(known.prompts)}
                        for name, known in facts.items()},
    }  # fmt: skip
    return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


def _tdro_json(mixture: SavedMixture, facts: Mapping[str, PinnedFacts]) -> str:
    """The release's keys and names. `size` and `epoch` (weight x all examples / size) need every size to be known."""
    odd = [c.collection for c in mixture.spec.components if c.loss_weight != 1.0]
    if odd:
        raise UsageError(
            f"the tdro format has no place for loss weights ({odd[0]} has one); use --format mixture or csv"
        )
    names = {card.name: card.name_in_release for card in load_cards().values()}
    parts = [(names.get(c.collection, c.collection), c.weight, facts[c.collection]) for c in mixture.spec.components]
    body: dict[str, Any] = {
        "domain_ids": {name: place for place, (name, *_) in enumerate(parts)},
        "domain_weights": {name: weight for name, weight, _ in parts},
    }
    sizes = {name: known.num_examples for name, _, known in parts if known.num_examples}
    if len(sizes) == len(parts):
        total = sum(sizes.values())
        body["size"] = sizes
        body["epoch"] = {name: weight * total / sizes[name] for name, weight, _ in parts}
    return json.dumps(body, ensure_ascii=False, indent=4) + "\n"


def _csv(mixture: SavedMixture, facts: Mapping[str, PinnedFacts]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for c in mixture.spec.components:
        size = facts[c.collection].num_examples
        writer.writerow([c.collection, float(c.weight), float(c.loss_weight), size, c.digest])
    return text.getvalue()


FORMATS: dict[str, Callable[[SavedMixture, Mapping[str, PinnedFacts]], str]] = {
    "mixture": _own_json,
    "tdro": _tdro_json,
    "csv": _csv,
}


def import_file(store: Store, file: Path, name: str) -> SavedMixture:
    """Save the mixture of a file (any of `FORMATS`, told by its content) under `name`.

    Our own JSON and a CSV with digests keep the mixture's id. A format without digests means the store's content of
    today; collections that the store lacks stay without a digest, and can be weighed and compared but not trained.
    Weights that do not sum to 1 are scaled.

    Raises `UsageError` for a file that cannot be read as one of the formats.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")  # as bytes: a line end inside a quoted name stays what it is
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error
    try:
        found = _read_json(text) if text.lstrip().startswith("{") else _read_csv(text)
    except (UsageError, csv.Error) as error:
        raise UsageError(f"{file}: {error}") from error
    held = {info.collection: PinnedFacts(info.num_examples, info.prompts) for info in read.collections(store)}
    if any(digest is None for *_, digest in found.components.values()):
        found = _with_names_of_the_store(found, held)
    unpinned = [name for name, (*_, digest) in found.components.items() if digest is None and name in held]
    spec, scaled = _spec(found, registry.pin(store, unpinned) if unpinned else {})
    notes = [found.note, f"its weights summed to {scaled!r}" if scaled is not None else None]
    return registry.save(
        store, spec, name, parents=found.parents, run_id=found.run_id, note="; ".join(filter(None, notes)) or None,
        origin=Origin(file.name, found.facts | {collection: held[collection] for collection in unpinned}),
    )  # fmt: skip


def _read_json(text: str) -> _Read:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from error
    if "components" in body:
        return _read_own(text, body)
    if "domain_weights" in body:
        return _read_tdro(body)
    raise UsageError("neither a mixture's JSON (components) nor the tDRO release's (domain_weights)")


def _read_own(text: str, body: Mapping[str, Any]) -> _Read:
    spec = MixtureSpec.from_json(text)
    about = body.get("about") or {}
    try:
        facts = {
            str(name): PinnedFacts(known.get("num_examples"),
                                   None if known.get("prompts") is None else tuple(known["prompts"]))
            for name, known in (about.get("collections") or {}).items()
        }  # fmt: skip
        return _Read(
            {c.collection: (c.weight, c.loss_weight, c.digest) for c in spec.components},
            facts, tuple(map(str, about.get("parents") or ())), about.get("run_id"), about.get("note"),
        )  # fmt: skip
    except (AttributeError, TypeError) as error:
        raise UsageError(f"what stands under about is not as the export writes it: {error}") from error


def _read_tdro(body: Mapping[str, Any]) -> _Read:
    try:
        weights = {str(name): float(weight) for name, weight in body["domain_weights"].items()}
        sizes = {str(name): int(size) for name, size in (body.get("size") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"domain_weights and size must be objects of numbers: {error}") from error
    odd = sorted(set(body.get("domain_ids") or weights) ^ set(weights))
    if odd or not weights:
        raise UsageError(f"domain_ids and domain_weights differ in: {', '.join(odd) or 'both are empty'}")
    return _Read({n: (w, 1.0, None) for n, w in weights.items()},
                 {n: PinnedFacts(size, None) for n, size in sizes.items() if n in weights})  # fmt: skip


def _read_csv(text: str) -> _Read:
    """A header line; collection and weight are needed, the other `COLUMNS` may follow in any order."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    header = rows.fieldnames or []
    if not {"collection", "weight"} <= set(header) or not set(header) <= set(COLUMNS):
        raise UsageError(f"the first line must name the columns, of these: {', '.join(COLUMNS)}; found: {header}")
    components: dict[str, tuple[float, float, str | None]] = {}
    facts = {}
    for row in rows:
        name = row["collection"]
        try:
            weight, loss_weight = float(row["weight"]), float(row.get("loss_weight") or 1.0)
            size = int(row["num_examples"]) if row.get("num_examples") else None
        except (TypeError, ValueError) as error:
            raise UsageError(f"line {rows.line_num}: {error}") from error
        if not name or name in components or None in row:
            raise UsageError(f"line {rows.line_num}: collection {name!r} is empty, named twice, or has too many values")
        components[name] = (weight, loss_weight, row.get("digest") or None)
        if size is not None:
            facts[name] = PinnedFacts(size, None)
    return _Read(components, facts)


def _with_names_of_the_store(found: _Read, held: Container[str]) -> _Read:
    """Collections under the names that the store has for them, where a datacard knows their name in the release."""
    ours = {card.name_in_release: card.name for card in load_cards().values()}
    new = {name: ours[name] if name not in held and ours.get(name) in held else name for name in found.components}
    if len(set(new.values())) < len(new):
        return found
    return _Read(
        {new[name]: part for name, part in found.components.items()},
        {new[name]: known for name, known in found.facts.items()},
        found.parents, found.run_id, found.note,
    )  # fmt: skip


def _spec(found: _Read, pins: Mapping[str, Component]) -> tuple[MixtureSpec, float | None]:
    """The mixture that a file means, and what its weights summed to where they had to be scaled."""
    weights = {name: weight for name, (weight, *_) in found.components.items()}
    total = math.fsum(weights.values())
    scaled = None if abs(total - 1.0) <= SUM_TOLERANCE else total
    if scaled is not None:
        weights = normalise(weights)
    parts = []
    for name, (_, loss_weight, digest) in found.components.items():
        pinned = pins[name].digest if name in pins else digest or ""
        # -0.0 is a weight of 0, and must not make another id.
        parts.append(Component(name, pinned, weights[name] + 0.0, loss_weight + 0.0))
    return MixtureSpec(tuple(parts)), scaled

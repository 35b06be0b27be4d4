"""A mixture as a file, out and in: our own JSON, the JSON of the tDRO release, CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixture import registry
from mixture.arguments import Name
from mixture.errors import UsageError
from mixture.registry import Origin, PinnedFacts, SavedMixture, slices
from mixture.registry.slices import Slice
from mixture.specs import SUM_TOLERANCE, Component, MixtureSpec
from mixture.store import Store, read
from mixture.weights import normalise

COLUMNS = ("collection", "weight", "loss_weight", "num_examples", "digest")
SLICE_COLUMNS = ("slice", "selection")
MINERS = "miners"  # a JSON list


@dataclass(frozen=True)
class _Read:
    """What a file says.

    components: by name, with weights of any scale
    facts:      by name, of components
    loose:      components whose digest the file does not give
    slices:     those whose examples it lists
    """

    components: dict[str, Component]
    facts: dict[str, PinnedFacts]
    loose: frozenset[str] = frozenset()
    slices: tuple[Slice, ...] = ()
    parents: tuple[str, ...] = ()
    run_id: str | None = None
    note: str | None = None


def export_text(store: Store, mixture: SavedMixture, fmt: str) -> str:
    """A mixture in one of `FORMATS`: mixture (JSON, all of it), tdro (the release's JSON) or csv.

    Only the first lists the examples of slices; the other two need them in the store that imports.

    Raises `UsageError` for another format, and for loss weights that the release's format cannot hold.
    """
    if fmt not in FORMATS:
        raise UsageError(f"format {fmt!r}; allowed: {', '.join(FORMATS)}")
    text = FORMATS[fmt](mixture, registry.pinned_facts(store, mixture.spec))
    kept = slices.kept(store, mixture.spec) if fmt == "mixture" else {}
    return _with_examples(text, kept) if kept else text


def _with_examples(text: str, kept: Mapping[str, Slice]) -> str:
    """Our own JSON with the example ids of the slices. Each list is one text: a line an id would bury the rest."""
    body = json.loads(text)
    for name, part in kept.items():
        body["about"]["collections"][name] |= {"rule": part.rule, "example_ids": " ".join(part.example_ids.to_pylist())}
    return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


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
    odd = [c.name for c in mixture.spec.components if c.loss_weight != 1.0]
    if odd:
        raise UsageError(
            f"the tdro format has no place for loss weights ({odd[0]} has one); use `format` mixture or csv"
        )
    from mixture.cards import load_cards

    # Where the released name is that of another component, a collection keeps its own.
    names = {card.name: card.name_in_release for card in load_cards().values()
             if card.name_in_release not in mixture.spec.weights}  # fmt: skip
    parts = [(names.get(c.name, c.name) if c.slice is None else c.name, c.weight, facts[c.name])
             for c in mixture.spec.components]  # fmt: skip
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
    sliced = any(c.slice is not None for c in mixture.spec.components)
    mined = any(c.miners is not None for c in mixture.spec.components)
    writer.writerow([*COLUMNS, *(SLICE_COLUMNS if sliced else ()), *([MINERS] if mined else ())])
    for c in mixture.spec.components:
        values = [c.collection, float(c.weight), float(c.loss_weight), facts[c.name].num_examples, c.digest]
        miners = "" if c.miners is None else json.dumps(c.miners, ensure_ascii=False)
        writer.writerow([*values, *((c.slice, c.selection) if sliced else ()), *([miners] if mined else ())])
    return text.getvalue()


FORMATS: dict[str, Callable[[SavedMixture, Mapping[str, PinnedFacts]], str]] = {
    "mixture": _own_json,
    "tdro": _tdro_json,
    "csv": _csv,
}


def import_(store: Store, file: Name, name: str) -> SavedMixture:
    """Save the mixture of a file (any of `FORMATS`, told by its content) under `name`.

    Our own JSON and a CSV with digests keep the mixture's id. A format without digests means the store's content of
    today; collections that the store lacks stay without a digest, and can be weighed and compared but not trained.
    Weights that do not sum to 1 are scaled.

    Raises `UsageError` for a file that cannot be read as one of the formats.
    """
    file = Path(file).expanduser()
    try:
        text = file.read_bytes().decode("utf-8-sig")  # as bytes: a line end inside a quoted name stays what it is
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8; give what `mixture export` writes, JSON or CSV") from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    try:
        found = _read_json(text) if text.lstrip().startswith("{") else _read_csv(text)
    except (UsageError, csv.Error) as error:
        raise UsageError(f"{file}: {error}") from error
    pins = None
    if found.loose:
        held = read.names(store)
        found = _with_names_of_the_store(found, held)
        pins = registry.pin_all(store, sorted(found.loose & held), known_slices=found.loose - held)
    spec, scaled = _spec(found, pins.components if pins else {})
    if found.slices:
        slices.keep(store, found.slices)
    notes = [found.note, f"its weights summed to {scaled!r}" if scaled is not None else None]
    facts = found.facts | (pins.facts if pins else {})
    return registry.save(
        store, spec, name, parents=found.parents, run_id=found.run_id, note="; ".join(filter(None, notes)) or None,
        origin=Origin(file.name, facts), pins=pins,
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
        known = {str(name): dict(one) for name, one in (about.get("collections") or {}).items()}
        facts = {
            name: PinnedFacts(one.get("num_examples"),
                              None if one.get("prompts") is None else tuple(one["prompts"]), one.get("rule"))
            for name, one in known.items()
        }  # fmt: skip
        listed = tuple(
            Slice(c.collection, c.slice, known[c.name]["rule"], pa.array(known[c.name]["example_ids"].split()))
            for c in spec.components
            if c.slice is not None and "example_ids" in known.get(c.name, {})
        )
        parents = tuple(map(str, about.get("parents") or ()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the file's `about` section is damaged: {error}") from error
    _check_listed(spec, listed)
    return _Read({c.name: c for c in spec.components}, facts, slices=listed, parents=parents,
                 run_id=about.get("run_id"), note=about.get("note"))  # fmt: skip


def _check_listed(spec: MixtureSpec, listed: Sequence[Slice]) -> None:
    selections = {c.name: c.selection for c in spec.components}
    odd = [part.name for part in listed if selections.get(part.name) != part.selection]
    if odd:
        raise UsageError(f"the examples listed for {odd[0]!r} are not those of its selection: the file was edited")


def _read_tdro(body: Mapping[str, Any]) -> _Read:
    try:
        weights = {str(name): float(weight) for name, weight in body["domain_weights"].items()}
        sizes = {str(name): int(size) for name, size in (body.get("size") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"domain_weights and size must be objects of numbers: {error}") from error
    odd = sorted(set(body.get("domain_ids") or weights) ^ set(weights))
    if odd or not weights:
        raise UsageError(f"domain_ids and domain_weights differ in: {', '.join(odd) or 'both are empty'}")
    facts = {name: PinnedFacts(size, None) for name, size in sizes.items() if name in weights}
    return _Read({name: Component(name, "", weight) for name, weight in weights.items()}, facts, frozenset(weights))


def _read_csv(text: str) -> _Read:
    """A header line; collection and weight are needed, the others of `COLUMNS`, `SLICE_COLUMNS` and `MINERS` may follow
    in any order."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    header, allowed = rows.fieldnames or [], (*COLUMNS, *SLICE_COLUMNS, MINERS)
    if not {"collection", "weight"} <= set(header) or not set(header) <= set(allowed):
        raise UsageError(f"the first line must name the columns, of these: {', '.join(allowed)}; found: {header}")
    components: dict[str, Component] = {}
    facts, loose = {}, set()
    for row in rows:
        try:
            weight, loss_weight = float(row["weight"]), float(row.get("loss_weight") or 1.0)
            size = int(row["num_examples"]) if row.get("num_examples") else None
            miners = tuple(map(str, json.loads(row[MINERS]))) if row.get(MINERS) else None
        except (TypeError, ValueError) as error:
            raise UsageError(f"line {rows.line_num}: {error}") from error
        part = Component(row["collection"], row.get("digest") or "", weight, loss_weight, row.get("slice") or None,
                         row.get("selection") or None, miners)  # fmt: skip
        if miners is not None and not part.digest:
            raise UsageError(
                f"line {rows.line_num}: miners of {part.name!r} without a digest; export it anew, or leave them away"
            )
        if not part.collection or part.name in components or None in row:
            raise UsageError(
                f"line {rows.line_num}: collection {part.name!r} is empty, named twice, or has too many values"
            )
        components[part.name] = part
        loose |= set() if part.digest else {part.name}
        if size is not None:
            facts[part.name] = PinnedFacts(size, None)
    return _Read(components, facts, frozenset(loose))


def _with_names_of_the_store(found: _Read, held: Container[str]) -> _Read:
    """Collections under the names that the store has for them, where a datacard knows their name in the release."""
    from mixture.cards import load_cards

    ours = {card.name_in_release: card.name for card in load_cards().values()}
    new = {
        name: ours[name] if c.slice is None and name not in held and ours.get(name) in held else name
        for name, c in found.components.items()
    }
    if len(set(new.values())) < len(new):
        return found
    return replace(
        found,
        components={n: replace(found.components[old], collection=n) if n != old else found.components[old]
                    for old, n in new.items()},
        facts={new[name]: known for name, known in found.facts.items()},
        loose=frozenset(new[name] for name in found.loose),
    )  # fmt: skip


def _spec(found: _Read, pins: Mapping[str, Component]) -> tuple[MixtureSpec, float | None]:
    """The mixture that a file means, and what its weights summed to where they had to be scaled."""
    weights = {name: c.weight for name, c in found.components.items()}
    total = math.fsum(weights.values())
    scaled = None if abs(total - 1.0) <= SUM_TOLERANCE else total
    if scaled is not None:
        weights = normalise(weights)
    parts = [
        replace(pins.get(name, c) if name in found.loose else c, weight=weights[name], loss_weight=c.loss_weight)
        for name, c in found.components.items()
    ]
    return MixtureSpec(tuple(parts)), scaled

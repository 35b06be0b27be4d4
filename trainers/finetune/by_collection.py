"""Settings of single collections, which stand in place of the run's for their batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mixture.errors import UsageError, unknown_name
from mixture.materialised import MaterialisedMixture

if TYPE_CHECKING:
    from trainers.finetune.config import FinetuneSettings

# Settings that a mixed batch, which is one loss over all collections, takes from each too.
OF_TEXTS = ("max_query_tokens", "max_passage_tokens", "hard_only", "prompts")
OF_BATCHES = (
    "temperature", "negatives", "batch_size", "loss", "in_batch", "symmetric_loss", "margin", "margin_strategy",
    "margin_by", "hardness", "distil_by", "distil_weight", "teacher_temperature", "directions", "ndcg_cut",
    "ndcg_positives", "ndcg_samples",
)  # fmt: skip
# What examples that see their own passages alone cannot have.
ALONE = {"in_batch": False, "symmetric_loss": False, "directions": ("qd",), "ndcg_positives": "one"}
# Those that are no settings of a run.
OWN = {"hard_only": bool, "prompts": tuple[str, ...]}


def check(given: Any, hints: Mapping[str, Any], typed: Any) -> dict[str, dict[str, Any]]:
    """Tables of settings by collection, with their types made right by `typed(name, value, type)`."""
    if not isinstance(given, Mapping) or not all(isinstance(table, Mapping) for table in given.values()):
        raise UsageError("collection holds tables of settings: [collection.NAME], or collection.NAME.SETTING=VALUE")
    known = (*OF_TEXTS, *OF_BATCHES)
    for table in given.values():
        for name in table:
            if name not in known:
                raise unknown_name("setting of a collection", name, known)
    return {
        collection: {name: typed(name, value, OWN.get(name) or hints[name])
                     for name, value in table.items()}
        for collection, table in given.items()
    }  # fmt: skip


def faults(settings: FinetuneSettings) -> list[tuple[str, str]]:
    """What collections cannot have, as (name, what is allowed)."""
    found = []
    alone = {*settings.hard_only, *(name for name, table in settings.collection.items() if table.get("hard_only"))}
    if settings.batching == "mixed" and alone:
        found += [(name, f"{value} with mixed batches and hard_only, whose examples see their own passages alone")
                  for name, value in ALONE.items()
                  if name != "in_batch" and getattr(settings, name) != value]  # fmt: skip
    for collection, table in settings.collection.items():
        if settings.batching == "mixed":
            found += [(f"collection.{collection}.{name}", "only with batching=homogeneous")
                      for name in OF_BATCHES if name in table]  # fmt: skip
        try:
            settings.of(collection)
        except UsageError as error:
            found.append((f"collection.{collection}", f"what suits it ({error})"))
    return found


def value_of(settings: FinetuneSettings, name: str) -> Any:
    """What stands at collection.NAME, or at collection.NAME.SETTING."""
    entry = name.removeprefix("collection.")
    if entry in settings.collection:
        return dict(settings.collection[entry])
    collection, _, setting = entry.rpartition(".")
    return settings.collection[collection][setting]


def own(settings: FinetuneSettings, collection: str) -> FinetuneSettings:
    """The settings of a collection's batches; `in_batch` is false where it is one of `hard_only`."""
    table = dict(settings.collection.get(collection, {}))
    table.pop("prompts", None)
    if table.pop("hard_only", collection in settings.hard_only):
        table |= ALONE
    changed = table or collection in settings.collection
    return replace(settings, collection={}, **table) if changed else settings


def check_names(settings: FinetuneSettings, names: Collection[str]) -> None:
    """Raise `UsageError` where the settings name a collection that is none of these."""
    for name in (*settings.hard_only, *settings.collection):
        if name not in names:
            raise unknown_name("collection", name, names)


def within(settings: FinetuneSettings, names: Collection[str]) -> FinetuneSettings:
    """The settings without what they say of other collections than these."""
    return replace(
        settings, hard_only=tuple(name for name in settings.hard_only if name in names),
        collection={name: table for name, table in settings.collection.items() if name in names},
    )  # fmt: skip


def with_prompts(mixture: MaterialisedMixture, settings: FinetuneSettings) -> MaterialisedMixture:
    """The mixture with the prompts that the settings give its collections."""
    given = {name: table["prompts"] for name, table in settings.collection.items() if "prompts" in table}
    parts = {name: part.with_prompts(given[name]) if name in given else part
             for name, part in mixture.components.items()}  # fmt: skip
    return replace(mixture, components=parts) if given else mixture

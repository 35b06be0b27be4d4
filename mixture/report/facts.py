"""What a report says of a mixture, read from the store: weights, composition, epochs, what was taken out.

Weights and shares are between 0 and 1. None stands for what the store does not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mixture import registry
from mixture.errors import UsageError
from mixture.registry import SavedMixture
from mixture.registry.diff import Difference, diff
from mixture.registry.lineage import Ancestor, log
from mixture.report.ablation import Ablation, ablation
from mixture.report.held_out import HeldOut, held_out
from mixture.report.learning import Learning, learning
from mixture.report.scores import Evaluation, Verdict, evaluation, verdict
from mixture.store import Store, forgotten


@dataclass(frozen=True)
class Component:
    """A collection or slice of the mixture, or one that only the other mixture has (`weight` None).

    against:      its weight in the other mixture
    num_examples: when the mixture was made; num_today: in the store now, None where the store lacks it
    spread:       standard deviation of the learned weight over seeds
    """

    collection: str
    weight: float | None
    against: float | None
    loss_weight: float | None
    num_examples: int | None
    num_today: int | None
    category: str | None
    license: str | None
    languages: tuple[str, ...]
    prompts: tuple[str, ...]
    spread: float | None


@dataclass(frozen=True)
class Part:
    """A language, category or license: its share of the draws, its examples, its collections."""

    dimension: str
    value: str
    weight: float
    num_examples: int | None
    num_collections: int


@dataclass(frozen=True)
class Epochs:
    """How often training is expected to draw a collection; `epochs` is None where its size is not known."""

    collection: str
    weight: float
    num_examples: int | None
    expected_examples: float
    epochs: float | None


@dataclass(frozen=True)
class TakenOut:
    """Rows that ingest read for a collection, and those of them that training does not see."""

    collection: str
    rows_read: int
    repeated: int
    rejected: int
    duplicates: int
    tests: int

    @property
    def total(self) -> int:
        return self.repeated + self.rejected + self.duplicates + self.tests


@dataclass(frozen=True)
class Reason:
    """Why rows were taken out, over all collections of the mixture. `suite` is that of the test query or passage."""

    what: str
    reason: str
    suite: str | None
    num_rows: int
    num_collections: int


@dataclass(frozen=True)
class Facts:
    """Everything that a report shows. `against` is the mixture that this one is held against, None without one."""

    mixture: SavedMixture
    tags: tuple[str, ...]
    against: SavedMixture | None
    distance: float | None
    components: tuple[Component, ...]
    composition: tuple[Part, ...]
    steps: int
    batch_size: int
    epochs: tuple[Epochs, ...]
    learning: Learning | None
    taken_out: tuple[TakenOut, ...]
    reasons: tuple[Reason, ...]
    evaluation: Evaluation | None
    verdict: Verdict | None
    ablation: Ablation | None
    held_out: HeldOut | None
    lineage: Ancestor
    snapshot: int
    forgotten: dict[str, int] = field(default_factory=dict)

    @property
    def present(self) -> list[Component]:
        """The mixture's own components, the heaviest first."""
        return [c for c in self.components if c.weight is not None]

    @property
    def missing(self) -> list[str]:
        """Collections of the mixture that the store does not hold."""
        return [c.collection for c in self.present if c.num_today is None]

    @property
    def effective(self) -> float:
        """exp of the weights' entropy: so many equally weighted collections are as spread out as this mixture."""
        return math.exp(-math.fsum(w * math.log(w) for c in self.present if (w := c.weight)))

    @property
    def num_examples(self) -> int | None:
        """Examples of all components; None where the size of one is not known."""
        sizes = [c.num_examples for c in self.present]
        return None if None in sizes else sum(size or 0 for size in sizes)


def gather(
    store: Store, mixture: SavedMixture, against: SavedMixture | None = None, *, steps: int = 1000, batch_size: int = 64
) -> Facts:
    """Read everything about a mixture, held against another one or, without one, against its first parent.

    `steps` and `batch_size` are those of the training whose epochs are asked for. Raises `UsageError` below 1.
    """
    for name, value in (("`steps`", steps), ("`batch_size`", batch_size)):
        if value < 1:
            raise UsageError(f"{name} is {value}; allowed: 1 or more")
    tree = log(store, mixture)
    other = against or _first_parent(store, tree)
    learned = learning(store, tree, mixture.spec.weights)
    compared = None if other is None else diff(store, other, mixture)
    # What was left out of a collection is counted for all of it, also where the mixture has slices of it.
    wholes = sorted({c.collection for c in mixture.spec.components})
    return Facts(
        mixture=mixture,
        tags=tuple(registry.tags(store).get(mixture.spec.id, ())),
        against=other,
        distance=None if compared is None else compared.distance,
        components=_components(store, mixture, compared, learned),
        composition=tuple(
            Part(**row)
            for row in store.sql("FROM composition($ref)", {"ref": mixture.spec.id}).to_pylist()
        ),
        steps=steps,
        batch_size=batch_size,
        epochs=_epochs(store, mixture.spec.id, steps, batch_size),
        learning=learned,
        taken_out=_taken_out(store, wholes),
        reasons=_reasons(store, wholes),
        evaluation=evaluation(store, mixture.spec.id, None if other is None else other.spec.id),
        verdict=None if other is None else verdict(store, mixture.spec.id, other.spec.id),
        ablation=ablation(store, mixture.spec.id),
        held_out=held_out(store, mixture.spec.id),
        lineage=tree,
        snapshot=store.snapshot(),
        forgotten=forgotten.held_by(store, mixture.spec.components),
    )  # fmt: skip


def _first_parent(store: Store, tree: Ancestor) -> SavedMixture | None:
    held = [parent.id for parent in tree.parents if parent.reference is not None]
    return registry.resolve(store, held[0]) if held else None


def _components(
    store: Store, mixture: SavedMixture, compared: Difference | None, learned: Learning | None
) -> tuple[Component, ...]:
    today = registry.facts_today(store, mixture.spec.components)
    declared = {row["collection"]: row for row in store.sql("FROM mixture($ref)", {"ref": mixture.spec.id}).to_pylist()}
    pinned = registry.pinned_facts(store, mixture.spec)
    sides = {} if compared is None else {row["collection"]: row for row in compared.rows}
    own = {c.name: c for c in mixture.spec.components}
    spread = learned.spread if learned is not None and learned.own else {}
    found = []
    for name in own | sides:
        row, part = declared.get(name, {}), own.get(name)
        found.append(Component(
            collection=name,
            weight=part.weight if part else None,
            against=sides[name]["weight_a"] if name in sides else None,
            loss_weight=part.loss_weight if part else None,
            num_examples=pinned[name].num_examples if part else sides[name]["examples_a"],
            num_today=today[name].num_examples if name in today else None,
            category=row.get("category") or None,
            license=row.get("license") or None,
            languages=tuple(row.get("languages") or ()),
            prompts=(pinned[name].prompts or ()) if part else (),
            spread=spread.get(name),
        ))  # fmt: skip
    return tuple(sorted(found, key=lambda c: (c.weight is None, -(c.weight or 0.0), c.collection)))


def _epochs(store: Store, mixture: str, steps: int, batch_size: int) -> tuple[Epochs, ...]:
    rows = store.sql(
        """SELECT collection, weight, num_examples, expected_examples, epochs
           FROM epochs($ref, $steps, $batch_size) ORDER BY epochs DESC NULLS LAST, collection""",
        {"ref": mixture, "steps": steps, "batch_size": batch_size},
    )
    return tuple(Epochs(**row) for row in rows.to_pylist())


def _taken_out(store: Store, names: Sequence[str]) -> tuple[TakenOut, ...]:
    """A row for each of the named collections that the store holds."""
    rows = store.sql(
        """SELECT c.collection, coalesce(s.rows_read, 0)::BIGINT AS rows_read,
                  coalesce(s.repeated, 0)::BIGINT AS repeated, coalesce(j.n, 0) AS rejected,
                  coalesce(r.duplicates, 0) AS duplicates, coalesce(r.tests, 0) AS tests
           FROM collections c
           LEFT JOIN (SELECT collection, sum(rows_read) AS rows_read, sum(repeated) AS repeated
                      FROM sources GROUP BY ALL) s USING (collection)
           LEFT JOIN (SELECT collection, count(*) AS n FROM rejects GROUP BY ALL) j USING (collection)
           LEFT JOIN (SELECT collection, count(*) FILTER (suite IS NULL AND reason <> 'forgotten') AS duplicates,
                             count(*) FILTER (suite IS NOT NULL) AS tests
                      FROM removals GROUP BY ALL) r USING (collection)
           WHERE list_contains($names, c.collection) ORDER BY c.collection""",
        {"names": list(names)},
    )
    return tuple(TakenOut(**row) for row in rows.to_pylist())


def _reasons(store: Store, names: Sequence[str]) -> tuple[Reason, ...]:
    rows = store.sql(
        """SELECT * FROM (
               SELECT 'removed' AS what, reason, suite, count(*) AS num_rows,
                      count(DISTINCT collection) AS num_collections
               FROM removals WHERE list_contains($names, collection) GROUP BY ALL
               UNION ALL
               SELECT 'rejected', reason, NULL, count(*), count(DISTINCT collection)
               FROM rejects WHERE list_contains($names, collection) GROUP BY ALL)
           ORDER BY num_rows DESC, what, reason, suite""",
        {"names": list(names)},
    )
    return tuple(Reason(**row) for row in rows.to_pylist())

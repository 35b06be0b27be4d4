"""What a coreset is chosen from, and what it is to be near: pairs of a query and a passage, as embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture import registry
from mixture.coreset import score_gradients
from mixture.embeddings import Kind, Source
from mixture.errors import StoreError, UsageError
from mixture.progress import Progress
from mixture.registry import SavedMixture
from mixture.specs import Component
from mixture.store import Store, read
from mixture.suites.given import is_named, suites_of
from mixture.suites.halves import LEARN, REPORT, halved
from mixture.suites.suite import Suite
from mixture.text.strings import Strings

# What is shorter has no direction.
SHORTEST = 1e-12
PAIRS = pa.schema([("of", pa.string()), ("id", pa.string()), ("query", pa.string()), ("positive", pa.string())])


@dataclass(frozen=True)
class Asked:
    """What a target names: suites, of their half `learn`, and mixtures."""

    suites: list[Suite]
    mixtures: list[SavedMixture]

    @property
    def titles(self) -> tuple[str, ...]:
        return (*(suite.title for suite in self.suites), *(mixture.reference for mixture in self.mixtures))

    @property
    def digests(self) -> list[str]:
        """Of all that decides the target's rows."""
        return [*(suite.digest for suite in self.suites), *(mixture.spec.id for mixture in self.mixtures)]


@dataclass(frozen=True)
class Candidates:
    """The rows of a mixture's components, one after the other.

    ids:       of each component, by name
    starts:    where its rows begin
    vectors:   (T, 2 d); gradients: (T,), or None
    """

    ids: dict[str, pa.Array]
    starts: dict[str, int]
    vectors: NDArray[np.float32]
    gradients: NDArray[np.float64] | None

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(ids) for name, ids in self.ids.items()}

    def of(self, name: str) -> slice:
        return slice(self.starts[name], self.starts[name] + len(self.ids[name]))


@dataclass(frozen=True)
class Goal:
    """Target rows. of: the suite's title or the component's name of each; ids: of its query, or its example;
    vectors: (V, 2 d)"""

    of: list[str]
    ids: list[str]
    vectors: NDArray[np.float32]


def asked_for(store: Store, given: Sequence[str]) -> Asked:
    """Folders and names of suites are such; what is left names mixtures. Raises `UsageError` for what is neither, and
    for the half of a suite that is reported on."""
    if not given:
        raise UsageError("`target` is missing: a suite, a folder of such, or a mixture")
    suites, mixtures = [], []
    for text in given:
        there = Path(text).expanduser().is_dir()
        whole, _, half = text.rpartition("/")
        if half == REPORT and not there and (is_named(whole) or Path(whole).expanduser().is_dir()):
            raise UsageError(
                f"`target` is {text}: models are reported on that half, so it must not choose what they learn; name"
                f" {whole}, of which the half `{LEARN}` is taken"
            )
        if half == LEARN and not there:  # as results and notes call it
            suites.append(whole)
        elif there or "/" in text or is_named(text):
            suites.append(text)
        else:
            mixtures.append(registry.resolve(store, text))
    return Asked([halved(one.load(), LEARN) for one in suites_of(suites)] if suites else [], mixtures)


def unchanged(store: Store, mixture: SavedMixture) -> list[Component]:
    """The components of a mixture that have a weight. `UsageError` where one is not as it was when it was made."""
    drawn = [c for c in mixture.spec.components if c.weight > 0]
    for c in drawn:
        if read.digest(store, c.part) != c.digest:
            raise UsageError(f"{c.name} has changed since {mixture.reference} was made; create the mixture anew")
    return drawn


def candidates(
    store: Store, parts: Sequence[Component], sizes: Mapping[str, int], source: Source, say: Progress, *,
    gradients: bool, seed: int,
) -> Candidates:  # fmt: skip
    """The rows of components, as many as `sizes` says; gradients: with those of `score_gradients`, within a component.

    Raises `StoreError` where another process changed how many there are.
    """
    total = sum(sizes.values())
    ids: dict[str, pa.Array] = {}
    starts: dict[str, int] = {}
    vectors: NDArray[np.float32] | None = None
    norms = np.empty(total) if gradients else None
    done = 0
    for c in parts:
        say(done, total, c.name)
        table = read.first_pairs(store, c.part)
        if table.num_rows != sizes[c.name]:
            raise StoreError(
                f"{c.name} had {sizes[c.name]:,} rows and has {table.num_rows:,} now; run the command again"
            )
        found = embedded(source, table)
        vectors = np.empty((total, found.shape[1]), np.float32) if vectors is None else vectors
        starts[c.name], ids[c.name] = done, table["example_id"].combine_chunks()
        vectors[done : done + len(found)] = found
        if norms is not None:
            norms[done : done + len(found)] = score_gradients(*np.split(found, 2, axis=1), seed=seed)
        done += len(found)
    say(total, total, "done")
    assert vectors is not None
    return Candidates(ids, starts, vectors, norms)


def goal(store: Store, asked: Asked, source: Source, most: int, seed: int) -> Goal:
    """The rows of a target; of more than `most` so many, drawn by seed."""
    tables = [_judged(suite) for suite in asked.suites]
    for mixture in asked.mixtures:
        for c in unchanged(store, mixture):
            rows = read.first_pairs(store, c.part)
            of = pa.array([c.name] * rows.num_rows, pa.string())
            tables.append(pa.table([of, *rows.columns], schema=PAIRS))
    table = pa.concat_tables(tables)
    if table.num_rows > most:
        order = np.random.default_rng([seed, table.num_rows]).permutation(table.num_rows)
        table = table.take(np.sort(order[:most]))
    return Goal(table["of"].to_pylist(), table["id"].to_pylist(), embedded(source, table))


def _judged(suite: Suite) -> pa.Table:
    """Each query that has a relevant document in the corpus, with the one judged best."""
    place = {key: number for number, key in enumerate(suite.corpus_ids)}
    rows = []
    for key, query in zip(suite.query_ids, suite.queries, strict=True):
        grades = {place[d]: grade for d, grade in suite.qrels[key].items() if grade > 0 and d in place}
        if grades:
            best = max(grades, key=lambda d: (grades[d], -d))
            rows.append({"of": suite.title, "id": key, "query": query, "positive": suite.documents[best]})
    if not rows:
        raise UsageError(f"{suite.title}: no query has a relevant document in the corpus; leave it out of `target`")
    return pa.Table.from_pylist(rows, schema=PAIRS)


def embedded(source: Source, pairs: pa.Table) -> NDArray[np.float32]:
    """(n, 2 d): of each pair the embeddings of `query` and of `positive` side by side, each of unit length."""
    found: NDArray[np.float32] | None = None
    sides: tuple[tuple[str, Kind], ...] = (("query", "query"), ("positive", "passage"))
    for side, (column, kind) in enumerate(sides):
        for numbers, block in source.vectors(Strings(pairs[column]), kind).blocks():
            d = block.shape[1]
            block = block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), SHORTEST)
            found = np.empty((pairs.num_rows, 2 * d), np.float32) if found is None else found
            found[numbers, side * d : (side + 1) * d] = block
    return np.empty((0, 0), np.float32) if found is None else found

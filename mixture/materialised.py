"""Reads a materialised mixture: memory-mapped Arrow, rows by index. Needs neither the store nor duckdb.

Layout: `<folder>/<mixture id>.json` (the spec), `<folder>/components/<digest>/{examples,passages}.arrow` and
`component.json`. Examples name their passages by row number in `passages.arrow`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixture.errors import UsageError
from mixture.orders import Lists, Positives
from mixture.rows import joined
from mixture.specs import MixtureSpec
from mixture.store import layout

# Beside a component's dataset for sentence-transformers, since its columns are texts alone.
POSITIVES = "positives.arrow"
# Beside a component's examples: what a teacher scores their passages (`mixture.store.teachers`).
SCORES = "scores.arrow"


@dataclass(frozen=True)
class Example:
    """One example with its passages by row number of the component."""

    example_id: str
    query: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...]


class ComponentData:
    """The rows of one component of a mixture, in order of example id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        facts: dict[str, Any] = json.loads((folder / "component.json").read_text("utf-8"))
        self.collection: str = facts["collection"]
        self.prompts: tuple[str, ...] = tuple(facts["prompts"])
        self.symmetric: bool = facts.get("symmetric", False)  # folders of older versions do not say
        self._examples = _map(folder / "examples.arrow")
        self._passages = _map(folder / "passages.arrow")
        self.num_examples: int = self._examples.num_rows
        self.num_passages: int = self._passages.num_rows
        self._chosen: NDArray[np.bool_] | None = None
        self._places: NDArray[np.int64] | None = None
        self._scores = _map(folder / SCORES) if (folder / SCORES).is_file() else None

    def only(self, chosen: NDArray[np.bool_]) -> ComponentData:
        """The same with some of its examples, those where `chosen` (num_examples,) is true; it keeps all passages."""
        places = np.flatnonzero(chosen) if self._places is None else self._places[chosen]
        part = copy.copy(self)
        part._places, part._chosen = places, np.zeros(self._examples.num_rows, dtype=np.bool_)
        part._chosen[places] = True
        part.num_examples = len(places)
        return part

    def with_prompts(self, prompts: Sequence[str]) -> ComponentData:
        """The same with other prompts."""
        part = copy.copy(self)
        part.prompts = tuple(prompts)
        return part

    def _column(self, name: str) -> pa.ChunkedArray:
        """A column of the examples."""
        column = self._examples[name]
        return column if self._chosen is None else column.filter(pa.array(self._chosen))

    def example(self, row: int) -> Example:
        columns = self._examples
        if self._places is not None:
            row = int(self._places[row])
        return Example(
            columns["example_id"][row].as_py(),
            columns["query"][row].as_py(),
            tuple(columns["positives"][row].as_py()),
            tuple(columns["negatives"][row].as_py()),
        )

    def scores(self, row: int) -> dict[int, float]:
        """Of an example, by passage's row number: what a teacher scores it. Passages without a score are not there."""
        if self._scores is None:
            return {}
        place = row if self._places is None else int(self._places[row])
        sides = ("positives", "negatives")
        numbers = [n for side in sides for n in self._examples[side][place].as_py()]
        found = [score for side in sides for score in self._scores[side][place].as_py()]
        return {n: score for n, score in zip(numbers, found, strict=True) if score is not None}

    def num_scored(self) -> int:
        """How many examples have a score of a positive, and one of a negative."""
        if self._scores is None:
            return 0
        both = np.ones(self._scores.num_rows, dtype=np.bool_) if self._chosen is None else self._chosen.copy()
        for side in ("positives", "negatives"):
            column = self._scores[side]
            valid = pc.is_valid(pc.list_flatten(column)).to_numpy(zero_copy_only=False)
            some = np.zeros(len(both), dtype=np.bool_)
            some[pc.list_parent_indices(column).to_numpy()[valid]] = True
            both &= some
        return int(both.sum())

    def scores_digest(self) -> str:
        """SHA-256 of all scores, empty where there are none."""
        if self._scores is None:
            return ""
        found = hashlib.sha256()  # of the values: the bytes of an Arrow file hold more than them
        for side in ("positives", "negatives"):
            column = self._scores[side]
            found.update(pc.list_value_length(column).to_numpy().astype(np.int64).tobytes())
            found.update(pc.fill_null(pc.list_flatten(column), np.nan).to_numpy().astype(np.float32).tobytes())
        return found.hexdigest()

    def queries(self) -> pa.ChunkedArray:
        """The query of every example: num_examples texts."""
        return self._column("query")

    def example_ids(self) -> pa.ChunkedArray:
        """The id of every example: num_examples texts."""
        return self._column("example_id")

    def passage_ids(self, rows: Sequence[int]) -> list[str]:
        """Ids of passages by row number: equal for equal title and text, in whatever component."""
        return [str(self._passages["passage_id"][row]) for row in rows]

    def passage(self, row: int) -> str:
        """Title and text joined by a space, as the tDRO release does."""
        return joined(self._passages["title"][row].as_py(), self._passages["text"][row].as_py())

    def positives(self) -> Lists:
        """For every example the row numbers of its positives: num_examples lists."""
        return _lists(self._column("positives"))

    def write_positives(self, folder: Path) -> None:
        """`positives()` as a file in `folder`, where `positives_beside` reads them."""
        table = pa.table({"positives": self._column("positives")})
        with pa.OSFile(str(folder / POSITIVES), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def without_candidates(self) -> int:
        """How many examples have no negative, and no passage in the collection that could serve as one."""
        lists = self._column("positives"), self._column("negatives")
        own, negatives = (pc.list_value_length(column) for column in lists)
        stuck = pc.and_(pc.equal(negatives, 0), pc.greater_equal(own, self.num_passages))
        return int(pc.sum(stuck).as_py() or 0)

    def num_with_negatives(self) -> int:
        return int(pc.sum(pc.greater(pc.list_value_length(self._column("negatives")), 0)).as_py() or 0)

    def texts(self) -> Iterator[str]:
        """Every query, then every passage."""
        for chunk in self.queries().chunks:
            yield from chunk.to_pylist()
        for row in range(self.num_passages):
            yield self.passage(row)


@dataclass(frozen=True)
class MaterialisedMixture:
    """A mixture and the data of its components, by name, in the order of the spec."""

    folder: Path
    spec: MixtureSpec
    components: dict[str, ComponentData]

    @classmethod
    def open(cls, folder: Path, mixture: str) -> MaterialisedMixture:
        file = layout.spec(folder, mixture)
        if not file.is_file():
            raise UsageError(f"no materialised mixture {mixture!r} in {folder}")
        spec = MixtureSpec.from_json(file.read_text("utf-8"))
        parts = {c.name: ComponentData(layout.component(folder, c.digest)) for c in spec.components}
        return cls(folder, spec, parts)

    @property
    def sizes(self) -> dict[str, int]:
        return {name: part.num_examples for name, part in self.components.items()}

    def positives(self) -> Positives:
        return {name: part.positives() for name, part in self.components.items()}


def _map(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def positives_beside(folder: Path) -> Lists:
    """What `ComponentData.write_positives` wrote there. Raises `UsageError` where nothing is."""
    if not (folder / POSITIVES).is_file():
        raise UsageError(f"{folder} has no {POSITIVES}: an older version exported it; export the mixture anew")
    return _lists(_map(folder / POSITIVES)["positives"])


def _lists(column: pa.ChunkedArray) -> Lists:
    offsets = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(pc.list_value_length(column).to_numpy(), out=offsets[1:])
    return Lists(pc.list_flatten(column).to_numpy(), offsets)

"""What a suite of a benchmark is, and which there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from mixture.errors import UsageError
from mixture.suites.documents import Documents, not_there, rows_of
from mixture.suites.hub import Held, Source, fetched
from mixture.suites.suite import Suite
from mixture.text.strings import Strings


class Named(ABC):
    """A suite that is read in whole where its queries or passages are asked for.

    key:  what it was asked for by: `beir/nfcorpus`
    name: what its results are kept under: `nfcorpus`
    """

    key: str
    name: str

    @abstractmethod
    def load(self) -> Suite:
        """Read it, and fetch it first where it is not here. Raises `UsageError` where that cannot be done."""

    def fetch(self) -> None:
        """Have its data here, where that can be done without reading it. Raises `UsageError` as `load` does."""
        return

    def queries(self) -> Iterator[tuple[str, str]]:
        """Id and text of its queries."""
        suite = _last(self)
        return ((key, text) for key, text in zip(suite.query_ids, suite.queries, strict=True) if text.strip())

    def passages(self, *, judged_only: bool = True) -> Iterator[tuple[str, str]]:
        """Id and text of its documents; judged_only: those that its judgements call relevant. A document without text
        is its title."""
        suite = _last(self)
        ids, documents = suite.corpus_ids, suite.corpus
        if judged_only:
            relevant = [d for grades in suite.qrels.values() for d, grade in grades.items() if grade > 0]
            ids, documents = rows_of(ids, documents, relevant)
        for document_id, (title, text) in zip(ids, documents, strict=True):
            if text.strip() or title.strip():
                yield document_id, text if text.strip() else title


@lru_cache(maxsize=1)  # queries and passages are asked for one after the other
def _last(named: Named) -> Suite:
    return named.load()


@dataclass(frozen=True)
class Part(Named):
    """One suite of a benchmark.

    key, name:   as `Named` says
    sources:     the repositories that it is read from
    read:        makes the suite of what was fetched of each source
    metrics, language: as in `Suite`
    instruction: what its queries ask for, in words; it becomes the suite's prompt
    """

    key: str
    name: str
    sources: tuple[Source, ...]
    read: Callable[[Part, Sequence[Held]], Suite]
    metrics: tuple[str, ...] = ()
    language: str | None = None
    instruction: str | None = None

    def load(self) -> Suite:
        return self.read(self, self._held())

    def fetch(self) -> None:
        self._held()

    def _held(self) -> list[Held]:
        return [fetched(source, self.key) for source in self.sources]


SUITES: dict[str, Part] = {}
"""By `benchmark/part`; a benchmark's name alone stands for all of its parts. Filled by the modules of this package."""

Expand: TypeAlias = Callable[[str], list[Named]]
PREFIXES: dict[str, Expand] = {}
"""What reads a name that begins so: from what follows to the suites. For benchmarks with too many parts to list."""


def register(part: Part) -> None:
    """Put a suite into `SUITES`."""
    SUITES[part.key] = part


def prompt(instruction: str | None) -> str | None:
    """The prompt of an instruction, in the form that models are trained with; None for none.

    >>> prompt("Find it")
    'Instruct: Find it\\nQuery: '
    """
    return None if instruction is None else f"Instruct: {instruction}\nQuery: "


def judged_suite(
    part: Part, held: Sequence[Held], ids: Strings, documents: Documents, queries: Mapping[str, str],
    qrels: Mapping[str, dict[str, int]], **more: Any,
) -> Suite:  # fmt: skip
    """The suite of a part, with the queries that are judged; more: other fields of `Suite`.

    Raises `UsageError` where a judged query has no text, and where no judged document is there.
    """
    where = held[0].files[0][0].parent
    if unknown := [key for key in qrels if key not in queries]:
        raise UsageError(f"{where}: query {unknown[0]!r} is judged and has no text ({len(unknown)} are so)")
    judged = [document for grades in qrels.values() for document in grades]
    missing = not_there(judged, ids)
    if missing == len(judged):
        raise UsageError(f"{where}: none of the {len(judged)} judged documents is in the corpus of {part.key}")
    kept = [key for key in queries if key in qrels]
    return suite_of(part, held, ids, documents, {key: queries[key] for key in kept},
                    {key: qrels[key] for key in kept}, missing_documents=missing, **more)  # fmt: skip


def suite_of(
    part: Part, held: Sequence[Held], ids: Strings, documents: Documents, queries: Mapping[str, str],
    qrels: dict[str, dict[str, int]], **more: Any,
) -> Suite:  # fmt: skip
    """The suite of a part as it says of itself, with all these queries. Its revision names those of all sources."""
    revisions = [source.revision for source in held]
    revision = None if None in revisions else " ".join(map(str, revisions))
    return Suite(part.name, ids, documents, list(queries), list(queries.values()), qrels, metrics=part.metrics,
                 language=part.language, prompt=prompt(part.instruction), revision=revision,
                 benchmark=part.key.partition("/")[0], **more)  # fmt: skip

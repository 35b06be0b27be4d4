"""What a dedup method is, and which there are.

Groups of n rows are an array (n,): for each row the first row of its group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixture.dedup.links import Links
from mixture.dedup.neighbours import checked_distance
from mixture.dedup.second_look import checked_threshold, is_share
from mixture.embeddings.search import Vectors
from mixture.errors import UsageError
from mixture.text.columns import normalise_texts
from mixture.text.form import Texts
from mixture.text.strings import Strings, arrow_texts

PART_ROWS = 200_000  # texts in memory at a time
DEFAULT_VERIFY = 0.8
DEFAULT_SIMILARITY = 0.95

Groups: TypeAlias = NDArray[np.int64]
OfTexts: TypeAlias = Callable[[pa.Array], NDArray[Any]]
"""From p texts to p rows, (p, …), each of which depends on its own text alone."""


@dataclass(frozen=True)
class Settings:
    """A method ignores what it does not read. A wrong value is a UsageError, whether the method reads it or not.

    distance: bits in which two fingerprints may differ, 0 to 7
    verify: least Jaccard similarity of the n-grams of two texts, above 0 to 1; None: the method's own choice
    similarity: least cosine of the embeddings of two texts, above 0 to 1
    vectors: from texts to their embeddings, which can be gone over again; for a method that needs an encoder
    progress: called with texts compared and their number
    """

    distance: int = 3
    verify: float | None = DEFAULT_VERIFY
    similarity: float = DEFAULT_SIMILARITY
    vectors: Callable[[Strings], Vectors] | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        checked_distance(self.distance)
        checked_threshold(self.verify)
        if not is_share(self.similarity):
            raise UsageError(f"`similarity` is {self.similarity!r}; allowed: above 0 to 1")


@dataclass(frozen=True)
class StoredTexts:
    """n texts that stay where they are until they are asked for.

    num: n
    prints: their SimHash fingerprints, (n,) uint64
    texts_of: from row numbers, (p,), to the texts of these rows, in this order
    each: from a function of texts to what it makes of all n, part by part, each with the numbers of its rows; the
        function can be pickled, and may run elsewhere. By default it runs here, on parts of `PART_ROWS`
    """

    num: int
    prints: Callable[[], NDArray[np.uint64]]
    texts_of: Callable[[NDArray[np.int64]], pa.Array]
    each: Callable[[OfTexts], Iterator[tuple[NDArray[np.int64], NDArray[Any]]]] | None = None

    def all_of(self, work: OfTexts) -> NDArray[Any]:
        """What `work` makes of all texts, (n, …)."""
        found = work(pa.array([], pa.string()))
        found = np.empty((self.num, *found.shape[1:]), found.dtype)
        for rows, values in (self.each or self._each_here)(work):
            found[rows] = values
        return found

    def _each_here(self, work: OfTexts) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        for start in range(0, self.num, PART_ROWS):
            rows = np.arange(start, min(start + PART_ROWS, self.num))
            yield rows, work(self.texts_of(rows))


def anything(settings: Settings) -> None:
    """The check of a method that allows all of them."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to find near-equal texts. Texts of equal normal form (`normalise_text`) are near-equal in all of them.

    link: from u distinct normal forms to their groups, (u,)
    check: raises a UsageError for settings that are right in themselves and that the method does not allow
    lazily: groups of texts that stay in the store, for a method that need not read them all; it must find what `link`
        finds. Without it all texts of a collection are read at once.
    needs_encoder: `link` gets the distinct texts as they are written, as a model must see them, and
        `settings.vectors`; equal normal forms are linked beside what it finds
    model: the model where none is named
    """

    link: Callable[[pa.Array, Settings], Groups]
    check: Callable[[Settings], None] = anything
    lazily: Callable[[StoredTexts, Settings], Groups] | None = None
    needs_encoder: bool = False
    model: str | None = None

    def groups_of(self, texts: Texts, settings: Settings) -> Groups:
        """The groups of n texts, (n,). Equal ones count once: a million of them cost no more than reading them."""
        forms = normalise_texts(texts)
        if not self.needs_encoder:
            return _of_distinct(forms, lambda distinct: self.link(distinct, settings))
        links = Links(_of_distinct(forms, lambda distinct: np.arange(len(distinct))))
        near = _of_distinct(arrow_texts(texts), lambda distinct: self.link(distinct, settings))
        links.join(near, np.arange(len(near)))
        return links.groups()

    def groups(self, stored: StoredTexts, settings: Settings) -> Groups:
        """The groups of n texts of a store, (n,)."""
        if self.lazily is not None:
            return self.lazily(stored, settings)
        return self.groups_of(stored.texts_of(np.arange(stored.num)), settings)

    def within(self, coarse: Groups, stored: StoredTexts, settings: Settings) -> Groups:
        """The groups of n texts of a store, (n,), where no link leaves a coarse group, (n,).

        Only the texts of coarse groups of two and more are read, whole groups together, about `PART_ROWS` at a time.
        """
        groups = np.arange(len(coarse))
        for part in _parts(coarse):
            groups[part] = part[self.groups_of(stored.texts_of(part), settings)]
        return groups


METHODS: dict[str, Method] = {}
"""Filled by the modules of this package."""


def _of_distinct(texts: pa.ChunkedArray, link: Callable[[pa.Array], Groups]) -> Groups:
    """The groups of n texts, (n,), from those of the distinct ones among them."""
    # Numbers texts as they first appear, so a smaller number stands for an earlier row.
    encoded = texts.combine_chunks().dictionary_encode()
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.full(len(encoded.dictionary), -1, np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    groups: Groups = first[link(encoded.dictionary)[code]]
    return groups


def _parts(group: Groups) -> Iterator[NDArray[np.int64]]:
    """The rows of groups of two and more, whole groups together, in ascending order, about PART_ROWS at a time."""
    sizes = np.bincount(group, minlength=len(group))
    rows = np.flatnonzero(sizes[group] > 1)
    rows = rows[np.argsort(group[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(group[rows], append=-1)) + 1
    start = 0
    while start < len(rows):
        later = ends[np.searchsorted(ends, min(start + PART_ROWS, len(rows)))]
        yield np.sort(rows[start:later])
        start = int(later)

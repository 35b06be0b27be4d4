"""Passages of elsewhere in which a miner looks too: of other collections, and of folders in BEIR layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixture.dedup import simhash_fingerprints
from mixture.errors import UsageError, unknown_name
from mixture.rows import PASSAGES, whole_texts
from mixture.store import Store, read
from mixture.suites.corpus import corpus_passages
from mixture.suites.layout import CORPUS, packed_file

COLUMNS = ("passage_id", "title", "text")


def passages_of(store: Store, pool: Sequence[str]) -> pa.Table | None:
    """passage_id, title, text of collections and folders, each id once; None where none is named."""
    if not pool:
        return None
    held = read.names(store)
    return _once(pa.concat_tables([_texts(_part(store, name, held)) for name in pool]))


def _part(store: Store, name: str, held: set[str]) -> pa.Table:
    if name in held:
        return read.passages(store, name)
    folder = Path(name).expanduser()
    if packed_file(folder, CORPUS):
        return corpus_passages(folder)
    if folder.exists():
        raise UsageError(f"`pool` is {name!r}; allowed: a collection, or a folder that holds {CORPUS}")
    raise unknown_name("collection or folder", name, held)


def with_those(own: pa.Table, others: pa.Table | None) -> pa.Table:
    """The passages of a collection and the others, each id once."""
    return own if others is None else _once(pa.concat_tables([_texts(own), others]))


def brought_in(others: pa.Table | None, *used: pa.Table) -> pa.Table | None:
    """Those of the others that the tables name as `passage_id`, as the store has passages."""
    if others is None:
        return None
    named = pa.chunked_array([chunk for table in used for chunk in table["passage_id"].chunks], pa.string())
    found = others.filter(pc.is_in(others["passage_id"], pc.unique(named))).combine_chunks()
    whole = whole_texts(found["title"], found["text"])
    prints = pa.array(simhash_fingerprints(whole) if len(whole) else np.empty(0, np.uint64))
    return found.append_column("simhash", prints).cast(PASSAGES)


def _texts(passages: pa.Table) -> pa.Table:
    return pa.table({name: passages[name].cast(pa.string()) for name in COLUMNS})


def _once(passages: pa.Table) -> pa.Table:
    encoded = passages["passage_id"].combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    if len(first) == len(codes):
        return passages
    kept = np.zeros(len(codes), np.bool_)
    kept[first] = True
    return passages.filter(pa.array(kept))  # `take` joins chunks, which more than 2 GB of text cannot be

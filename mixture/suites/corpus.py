"""The documents of a folder in BEIR layout as a store has passages: in Arrow, block by block."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mixture.errors import UsageError
from mixture.rows import content_ids, passage_messages
from mixture.suites.layout import CORPUS, required_file
from mixture.suites.suite import documents
from mixture.text.clean import cleaned

_AT_ONCE = 20_000  # documents


def corpus_passages(folder: Path) -> pa.Table:
    """passage_id, title, text of the documents that have a text or a title, cleaned as ingested ones are.

    Equal ones stay. A file that cannot be read is a `UsageError` with its line.
    """
    file = required_file(folder, CORPUS)
    rows, parts = documents(file), []
    while some := list(islice(rows, _AT_ONCE)):
        titles, texts = (cleaned(pa.array(column, pa.string())) for column in zip(*some, strict=True))
        # A document of a title alone has it as its text, as passages do.
        bare = pc.equal(texts, "")
        texts, titles = pc.if_else(bare, titles, texts), pc.if_else(bare, "", titles)
        there = pc.not_equal(texts, "")
        titles, texts = titles.filter(there), texts.filter(there)
        ids = content_ids(passage_messages(titles, texts))
        parts.append(pa.table({"passage_id": ids, "title": titles, "text": texts}))
    if not any(part.num_rows for part in parts):
        raise UsageError(f"{file}: no documents in it")
    return pa.concat_tables(parts)

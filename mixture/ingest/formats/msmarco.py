"""MS MARCO: triples of texts in one file, and folders of collection.tsv, queries*.tsv and qrels or triples of ids.

None of these files has a header or quotes; columns stand between tabs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from mixture.errors import UsageError
from mixture.ingest.damage import EMPTY_LINE, BadRow, StreamDamaged, check_utf8, start_of, survive_in
from mixture.ingest.format import Folder, Format, Head, Seen, Sure
from mixture.ingest.formats.judged import judged_examples, text_of
from mixture.ingest.lines import byte_lines
from mixture.ingest.lookup import Lookup
from mixture.ingest.reading import Reading
from mixture.ingest.shapes import HEADER_MAX_CHARS, HEADER_MAX_WORDS
from mixture.ingest.splits import SPLITS, choose_split
from mixture.rows import RawExample, RawPassage, Reject
from mixture.suites.layout import PACKED

LAYOUT = "collection.tsv, queries.train.tsv and qrels.train.tsv or id triples"
HEAD_LINES = 20
NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*")


def read_triples(path: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of (query, positive, negative) texts, plain or packed.

    Raises StreamDamaged when the packed data is cut or damaged, UsageError for a column mapping.
    """
    reading = reading or Reading()
    reading.no_columns(path, "triples, which have no column names")
    reading.note("query ← column 1, positive ← column 2, negative ← column 3")
    for number, line in byte_lines(path):
        try:
            query, positive, negative = _three(line)
            yield RawExample(number, query, (RawPassage(positive),), (RawPassage(negative),))
        except BadRow as bad:
            yield Reject(number, str(bad), start_of(line))


def is_msmarco(folder: Path) -> bool:
    """Whether a folder holds collection.tsv and queries*.tsv."""
    return bool(_named(folder, "collection") and _named(folder, "queries"))


def data_files(folder: Path, split: str | None = None) -> list[Path]:
    """The collection, then the triples of ids or else the qrels of the split (`choose_split`), then all queries files.

    Raises UsageError when one of them is missing, and when no split can be chosen.
    """
    collection, queries = _named(folder, "collection"), _named(folder, "queries")
    others = [file for file in _tables(folder) if file not in {*collection, *queries}]
    triples = [file for file in others if "triples" in file.name and is_id_triples(file)]
    judged = triples or _named(folder, "qrels")
    if not (collection and queries and judged):
        raise UsageError(f"{folder}: expected {LAYOUT} (MS MARCO layout)")
    return [collection[0], choose_split(_splits(judged), folder, split), *queries]


def read_folder(folder: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """One example for each triple of ids; without triples one for each query of the qrels (`judged_examples`).

    Memory: 24 bytes for each line of the collection and the queries, and with qrels some 250 for each judgement; texts
    stay in the files (`Lookup`). Raises UsageError for a column mapping.
    """
    reading = reading or Reading()
    reading.no_columns(folder, "MS MARCO folders, which have no column names")
    collection, judged, *query_files = data_files(folder, reading.split)
    reading.note(
        f"query ← {', '.join(file.name for file in query_files)}, positive ← {collection.name} by {judged.name}"
    )
    with ExitStack() as stack:
        documents = stack.enter_context(Lookup(collection, collection.name, _identified))
        queries = [stack.enter_context(Lookup(file, file.name, _identified)) for file in query_files]
        for lookup in (documents, *queries):
            yield from lookup.build()
        if is_id_triples(judged):
            yield from survive_in(judged, folder, lambda path: _id_triples(path, queries, documents))
        else:
            yield from judged_examples(judged, judged.name, queries, documents)


def _id_triples(path: Path, queries: list[Lookup], documents: Lookup) -> Iterator[RawExample | Reject]:
    for number, line in byte_lines(path):
        try:
            query, positive, negative = _three(line)
            yield RawExample(
                number,
                text_of(queries, query, "query")[1],
                (RawPassage(text_of([documents], positive, "document")[1]),),
                (RawPassage(text_of([documents], negative, "document")[1]),),
            )
        except BadRow as bad:
            yield Reject(number, str(bad), start_of(line))


def is_id_triples(path: Path) -> bool:
    """Whether most of the first lines are three numbers each."""
    try:
        lines = [line.decode("utf-8", "replace").split("\t") for _, line in islice(byte_lines(path), HEAD_LINES)]
    except (StreamDamaged, OSError):
        return False
    return 2 * sum(len(fields) == 3 and all(map(str.isdecimal, fields)) for fields in lines) > len(lines)


def _three(line: bytes) -> list[str]:
    text = check_utf8(line)
    if not text.strip():
        raise BadRow(EMPTY_LINE)
    fields = text.split("\t")
    if len(fields) != 3:
        raise BadRow(f"line has {len(fields)} columns; expected query, positive and negative")
    return fields


def _identified(line: bytes) -> tuple[str, tuple[str, str]]:
    text = check_utf8(line)
    if not text.strip():
        raise BadRow(EMPTY_LINE)
    identifier, tab, body = text.partition("\t")
    if not tab or not identifier.strip():
        raise BadRow("line has no tab; expected an id and a text")
    return identifier.strip(), ("", body)


def _tables(folder: Path) -> list[Path]:
    endings = tuple(ending + packed for ending in (".tsv", ".txt") for packed in PACKED)
    return sorted(file for file in folder.iterdir() if file.name.endswith(endings) and not file.name.startswith("."))


def _named(folder: Path, start: str) -> list[Path]:
    return [file for file in _tables(folder) if file.name.split(".")[0] == start]


def _splits(files: list[Path]) -> dict[str, Path]:
    named = [
        (next((SPLITS[word] for word in file.name.split(".") if word in SPLITS), file.name), file) for file in files
    ]
    names = [name for name, _ in named]
    # Of two files for training (the small and the full triples) none is taken by chance.
    return {name if names.count(name) == 1 else file.name: file for name, file in named}


def sniff_triples(head: Head) -> Seen | None:
    """Whether each line is three texts between tabs, and the first one no header. Triples of ids are refused."""
    rows = [line.split("\t") for line in head.lines]
    whole = rows[:-1] or rows  # the last line may be cut off
    if "\t" not in head.first or any(len(fields) != 3 for fields in whole):
        return None
    if all(field.isdecimal() for fields in whole for field in fields):
        layout = "collection.tsv and queries*.tsv"
        words = f"the file is triples of ids; give the folder that holds it together with {layout}"
        return Seen(Sure.LAYOUT, words, refused=True)
    # A label or an id beside two texts is no negative, and a header is no row.
    texts = not any(NUMBER.fullmatch(field) for fields in whole for field in fields)
    passages = [[fields[side] for fields in whole] for side in (1, 2)]
    if texts and any(map(_is_long, rows[0])) and all(any(map(_is_long, side)) for side in passages):
        return Seen(Sure.LAYOUT, "three texts a line without a header")
    return None


def _is_long(text: str) -> bool:
    """Longer than the name of a column."""
    return len(text) > HEADER_MAX_CHARS or len(text.split()) > HEADER_MAX_WORDS


FORMATS = (
    Format("triples", read_triples, sniff=sniff_triples),
    Format("msmarco", folder=Folder(is_msmarco, data_files, read_folder)),
)

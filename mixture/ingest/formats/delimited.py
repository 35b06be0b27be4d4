"""CSV (quoted, fields may hold line breaks) and TSV (no quoting at all), both with a header line.

CSV may also have semicolons or bars for commas, when its header then reads as columns that are known.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mixture.ingest.damage import EMPTY_LINE, BadRow, check_utf8, start_of
from mixture.ingest.format import Format, Head, Seen, Sure
from mixture.ingest.lines import byte_lines
from mixture.ingest.mapping import ColumnMap, head_of
from mixture.ingest.reading import Reading
from mixture.ingest.shapes import Shape, UnknownNames, shape_of
from mixture.rows import RawExample, Reject

CSV_DELIMITERS = (",", ";", "|")
# The csv module stops at 128 KiB a field, less than real passages have. The limit is the module's one global; it is
# kept finite so that a quote that is never closed cannot draw a whole large file into memory.
MAX_FIELD_CHARS = 64 * 2**20
csv.field_size_limit(max(MAX_FIELD_CHARS, csv.field_size_limit()))


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the line where it starts, its bytes, and its fields or the reason why it has none."""

    line: int
    data: bytes
    fields: list[str]
    problem: str | None = None


def read_csv(path: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of a CSV file, plain or packed. Raises StreamDamaged when the packed data is cut or damaged."""
    lines = byte_lines(path)
    # Lines before the header are blank.
    head = list(_through_first_line(lines))
    reading = reading or Reading()
    delimiter = delimiter_of(_with_surrogates(head[-1][1]), reading.columns) if head else CSV_DELIMITERS[0]
    return _rows(_csv_records(itertools.chain(head, lines), delimiter), reading)


def read_tsv(path: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of a TSV file, plain or packed. Raises StreamDamaged when the packed data is cut or damaged."""
    return _rows(_tsv_records(byte_lines(path)), reading or Reading())


def known_delimiter(line: str, columns: ColumnMap | None = None) -> str | None:
    """The delimiter of CSV under which a header line has known columns; None when there is none."""
    return next((delimiter for delimiter in CSV_DELIMITERS if _is_known(line, delimiter, columns)), None)


def delimiter_of(line: str, columns: ColumnMap | None = None) -> str:
    """The delimiter under which a header line has known columns, else the one that it has most of."""
    return known_delimiter(line, columns) or max(CSV_DELIMITERS, key=line.count)


def _is_known(line: str, delimiter: str, columns: ColumnMap | None) -> bool:
    """Whether a header has names that say what they hold; they may still be too many to tell, and are refused then."""
    names: list[str] = []
    try:
        names = header_columns(line.strip("\r\n"), delimiter)
        if columns:
            return all(head_of(path, names) is not None for paths in columns.values() for path in paths)
        shape_of(tuple(names), "column")
    except UnknownNames:
        return False
    except BadRow:
        return len(names) > 1
    return True


def _through_first_line(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for number, line in lines:
        yield number, line
        if line.strip():
            return


def header_columns(line: str, delimiter: str) -> list[str]:
    """Column names of a header line as they are compared: lower case, without white space around them.

    Raises BadRow when the line cannot be split.
    """
    try:
        fields = (
            line.split("\t") if delimiter == "\t" else next(csv.reader([line], delimiter=delimiter, strict=True), [])
        )
    except csv.Error as error:
        raise BadRow(f"header is not valid CSV: {error}") from None
    return _compared(fields)


def _compared(fields: list[str]) -> list[str]:
    return [field.strip().lower() for field in fields]


def _rows(records: Iterator[Record], reading: Reading) -> Iterator[RawExample | Reject]:
    first = next((record for record in records if record.data.strip()), None)
    if first is None:
        return
    try:
        header, shape = _header(first, reading)
    except BadRow as bad:
        rows = sum(1 for record in records if record.data.strip())
        yield Reject(first.line, str(bad), start_of(first.data), rows=max(rows, 1))
        return
    for record in records:
        try:
            yield shape.build(_named(record, header), record.line)
        except BadRow as bad:
            yield Reject(record.line, str(bad), start_of(record.data))


def _header(record: Record, reading: Reading) -> tuple[list[str], Shape]:
    """The header as names, and their shape."""
    if record.problem:
        raise BadRow(f"header cannot be read: {record.problem}")
    header = _compared(record.fields)
    return header, reading.table(header)


def _named(record: Record, header: list[str]) -> dict[str, str]:
    if record.problem:
        raise BadRow(record.problem)
    found, expected = len(record.fields), len(header)
    if found != expected:
        raise BadRow(f"record has {found} field{'s' * (found != 1)}; the header has {expected}")
    return dict(zip(header, record.fields, strict=True))


def _tsv_records(lines: Iterator[tuple[int, bytes]]) -> Iterator[Record]:
    for number, line in lines:
        try:
            text = check_utf8(line)
            if not text.strip():
                raise BadRow(EMPTY_LINE)
            yield Record(number, line, text.split("\t"))
        except BadRow as bad:
            yield Record(number, line, [], str(bad))


class _Feed:
    """Hands lines to the csv reader and keeps those of the record in progress.

    Bytes that are not UTF-8 pass as surrogates, so that the reader still sees where the record ends.
    """

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines = lines
        self.taken: list[tuple[int, bytes]] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.taken.append((number, line))
        return _with_surrogates(line)

    def give_back(self, lines: list[tuple[int, bytes]]) -> None:
        self._lines = itertools.chain(lines, self._lines)


def _with_surrogates(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape") + "\n"


def _csv_records(lines: Iterator[tuple[int, bytes]], delimiter: str) -> Iterator[Record]:
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    width = 0  # fields of the first record, which is the header
    while True:
        feed.taken = []
        fields: list[str] = []
        problem = None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rest = feed.taken[1:]
            if _are_records(rest, width, delimiter):
                # One stray quote must not cost the rows after it.
                feed.give_back(rest)
                del feed.taken[1:]
            problem = _csv_problem(error, feed.taken)
        width = width or len(fields)
        data = b"\n".join(line for _, line in feed.taken)
        if not fields and problem is None:
            problem = EMPTY_LINE
        try:
            check_utf8(data)
        except BadRow as bad:
            problem = str(bad)
        yield Record(feed.taken[0][0], data, fields, problem)


def _are_records(lines: list[tuple[int, bytes]], width: int, delimiter: str) -> bool:
    """Whether lines drawn into a broken record read as records of their own, rather than as the rest of a long text."""
    try:
        texts = (_with_surrogates(line) for _, line in lines)
        counts = [len(fields) for fields in csv.reader(texts, delimiter=delimiter) if fields]
    except csv.Error:
        return False
    return 2 * counts.count(width) > len(counts)


def _csv_problem(error: csv.Error, taken: list[tuple[int, bytes]]) -> str:
    first, last = taken[0][0], taken[-1][0]
    skipped = "" if first == last else f"; lines {first} to {last} were skipped"
    if "unexpected end of data" in str(error):
        return f"a quote opened in this record is never closed{skipped}"
    return f"record is not valid CSV: {error}{skipped}"


def sniff_tsv(head: Head) -> Seen | None:
    """Whether the first line has a tab, and columns that are known."""
    if "\t" not in head.first:
        return None
    if _is_known(head.lines[0], "\t", head.columns):
        return Seen(Sure.HEADER, "a header line of TSV")
    return Seen(Sure.DELIMITER, "text with the delimiter of TSV")


def sniff_csv(head: Head) -> Seen | None:
    """Whether the first line has columns that are known between one of the delimiters, or a comma."""
    if known_delimiter(head.lines[0], head.columns):
        return Seen(Sure.HEADER, "a header line of CSV")
    delimiter = delimiter_of(head.lines[0])
    often = delimiter == "," or all(delimiter in line for line in head.lines[:3])
    return Seen(Sure.DELIMITER, "text with the delimiter of CSV") if delimiter in head.first and often else None


FORMATS = (
    Format("tsv", read_tsv, (".tsv", ".tab", ".txt"), sniff=sniff_tsv),
    Format("csv", read_csv, (".csv",), sniff=sniff_csv),
)

"""Excel workbooks (.xlsx): the one sheet that has rows, under a header line. Needs the extra `excel`."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixture.errors import UsageError
from mixture.ingest.damage import EMPTY_LINE, BadRow, StreamDamaged, start_of
from mixture.ingest.format import Format
from mixture.ingest.reading import Reading
from mixture.rows import RawExample, Reject


def read(path: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of a workbook, each with its number in the sheet. Numbers and dates become text, as CSV would have them.

    Raises StreamDamaged for a workbook that cannot be opened or has several sheets with rows, UsageError without
    openpyxl.
    """
    try:
        import openpyxl
    except ImportError:
        raise UsageError(
            f"{path}: to read Excel install openpyxl (pip install 'retrieval-mixture[excel]'), or save the sheet as CSV"
        ) from None
    with path.open("rb") as file:  # by its name openpyxl would go by the extension
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        except Exception as error:  # damaged parts raise whatever their parser does
            raise StreamDamaged(f"the workbook is damaged: {error}") from None
        yield from _rows(book, reading or Reading())


def _rows(book: Any, reading: Reading) -> Iterator[RawExample | Reject]:
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # what a workbook says about its size may be wrong or missing
    filled = [sheet for sheet in book.worksheets if any(map(any, sheet.iter_rows(max_row=20, values_only=True)))]
    if len(filled) > 1:
        names = ", ".join(sheet.title for sheet in filled)
        raise StreamDamaged(f"the workbook has several sheets with rows ({names}); save the one to read by itself")
    if not filled:
        return
    rows = ((number, list(map(_text, row))) for number, row in enumerate(filled[0].iter_rows(values_only=True), 1))
    first = next(((number, row) for number, row in rows if any(row)), None)
    if first is None:
        return
    while first[1] and first[1][-1] is None:
        first[1].pop()
    header = [(name or "").strip().lower() for name in first[1]]
    try:
        shape = reading.table(header)
    except BadRow as bad:
        yield Reject(first[0], str(bad), start_of(", ".join(header)), rows=max(sum(any(row) for _, row in rows), 1))
        return
    for number, row in rows:
        try:
            if not any(row):
                raise BadRow(EMPTY_LINE)
            yield shape.build(dict(itertools.zip_longest(header, row[: len(header)])), number)
        except BadRow as bad:
            yield Reject(number, str(bad), start_of(", ".join(filter(None, row))))


def _text(cell: Any) -> str | None:
    """A cell as text; an empty one is None. A whole number has no `.0`."""
    if cell is None or cell == "":
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def is_workbook(path: Path) -> bool:
    """Whether a zip archive is a workbook."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


FORMATS = (Format("excel", read, (".xlsx", ".xlsm"), {b"PK\x03\x04": "an Excel workbook"}, is_one=is_workbook),)

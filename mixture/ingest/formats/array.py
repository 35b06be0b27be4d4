"""One JSON array over the whole file, on one line or many: its elements one by one, each with the line it starts in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mixture.ingest.damage import BadRow, StreamDamaged, start_of
from mixture.ingest.format import Format, Head, Seen, Sure
from mixture.ingest.formats import jsonl
from mixture.ingest.lines import BYTE_ORDER_MARK, blocks
from mixture.ingest.reading import Reading
from mixture.rows import RawExample, Reject

# A whole string (JSON has no raw line break in one), a bracket or comma, or the quote of a string that does not end.
TOKEN = re.compile(rb'"(?:[^"\\\n]++|\\.)*+"|[\[\]{},]|"')
MAX_ELEMENT_BYTES = 256 * 2**20  # so that a bracket that is never closed cannot draw a whole large file into memory

Element = tuple[int, bytes]


def read(path: Path, reading: Reading | None = None) -> Iterator[RawExample | Reject]:
    """Rows of a JSON array, plain or packed; no more than one element and one block are in memory.

    An element that is no row is one Reject. Where the array itself breaks (a string or a bracket is not closed) nobody
    can say where the next element starts: raises StreamDamaged after the elements before it.
    """
    reading = reading or Reading()
    for line, element in _Elements(path):
        try:
            if not element:
                raise BadRow("element is empty: two commas in a row")
            yield jsonl.example(element, line, reading)
        except BadRow as bad:
            yield Reject(line, str(bad).replace("line is", "element is", 1), start_of(element))


class _Elements:
    """Cuts the array at its top-level commas. What stands between them is left to the JSON parser."""

    def __init__(self, path: Path) -> None:
        self._blocks = blocks(path)
        self._data = b""
        self._at = 0  # up to here the data is scanned
        self._start = 0  # here the element in progress starts
        self._line = 1  # of the byte at `_start`

    def __iter__(self) -> Iterator[Element]:
        depth = 0
        while (token := self._next_token()) is not None:
            sign = self._data[token.start() : token.end()]
            self._at = token.end()
            if sign == b'"':
                raise self._damaged("a string is not closed in its line")
            if sign in (b"[", b"{"):
                if depth == 0:
                    self._take(token.end())  # all that stands before the array is its bracket
                depth += 1
            elif sign in (b"]", b"}"):
                depth -= 1
            if depth == 0:
                if last := self._element(token.start()):
                    yield last
                self._take(token.end())
                self._check_end()
                return
            if sign == b"," and depth == 1:
                yield self._element(token.start()) or (self._line, b"")
                self._take(token.end())
        raise self._damaged("the JSON array ends early: the file is cut off in this element")

    def _next_token(self) -> re.Match[bytes] | None:
        while True:
            token = TOKEN.search(self._data, self._at)
            open_string = token is not None and token.end() - token.start() == 1 and token[0] == b'"'
            if token is not None and not (open_string and b"\n" not in self._data[token.end() :]):
                return token
            # Nothing of interest in here, or a string that may go on in the next block.
            self._at = token.start() if token else len(self._data)
            if not self._more():
                return token

    def _more(self) -> bool:
        if len(self._data) - self._start > MAX_ELEMENT_BYTES:
            raise self._damaged(f"an element is longer than {MAX_ELEMENT_BYTES >> 20} MiB")
        # An element of many blocks would be copied and scanned again for each of them: ask for as much again.
        wanted = len(self._data) - self._start
        parts = [self._data[self._start :]]
        try:
            while block := next(self._blocks, b""):
                parts.append(block)
                wanted -= len(block)
                if wanted <= 0:
                    break
        except StreamDamaged as damage:
            if len(parts) == 1:
                raise self._damaged(damage.reason.replace("in this line", "in this element")) from None
            # What was read before the damage comes first; then the same reason is raised again.
            self._blocks = _raising(damage)
        self._data = b"".join(parts)
        self._at, self._start = self._at - self._start, 0
        return len(parts) > 1

    def _element(self, end: int) -> Element | None:
        text = self._data[self._start : end]
        blank = len(text) - len(text.lstrip())
        return (self._line + text.count(b"\n", 0, blank), text.strip()) if text.strip() else None

    def _take(self, end: int) -> None:
        self._line += self._data.count(b"\n", self._start, end)
        self._start = end

    def _check_end(self) -> None:
        while not self._data[self._start :].strip():
            self._start = len(self._data)
            self._at = self._start
            if not self._more():
                return
        raise self._damaged("there is text after the end of the JSON array")

    def _damaged(self, reason: str) -> StreamDamaged:
        rest = self._data[self._start :].removeprefix(BYTE_ORDER_MARK)
        blank = rest[: len(rest) - len(rest.lstrip())]
        return StreamDamaged(reason, self._line + blank.count(b"\n"), start_of(rest.strip()))


def _raising(damage: StreamDamaged) -> Iterator[bytes]:
    raise damage
    yield b""


def sniff(head: Head) -> Seen | None:
    """Whether the text starts as an array of lists or objects does, or as one over many lines."""
    return Seen(Sure.START, "a JSON array") if re.match(r"\[\s*([\[{\]]|$)", head.first) else None


FORMATS = (Format("json", read, (".json",), sniff=sniff),)

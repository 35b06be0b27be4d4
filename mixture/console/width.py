"""Tables that fit a terminal: long texts are shortened, headers stand on several lines, and what is left over goes.

Short cells are never cut or broken, so that an id, a number or a mixture's name can be copied.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

# What a column must not be made narrower than, and the widest one that is never shortened.
LEAST, SHORT = 12, 16


@dataclass(frozen=True)
class Fit:
    """widths: of the columns that are shown, by name. left_out: the others."""

    widths: dict[str, int]
    left_out: tuple[str, ...] = ()


def terminal_width() -> int | None:
    """Columns of the terminal on standard output; None off a terminal, where nothing is shortened."""
    return Console().width if sys.stdout.isatty() else None


def fit(
    names: Sequence[str], cells: Sequence[Sequence[str]], width: int | None, *, drop: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> Fit:  # fmt: skip
    """How wide each column may be so that the table takes no more than `width`.

    cells: one sequence a row, in the order of the names
    drop:  columns that go first, in this order, where not all can stay, after the empty ones; then the last one
    whole: columns that are never shortened
    """
    columns = list(zip(*cells, strict=True)) if cells else [()] * len(names)
    natural = {name: max(map(cell_len, column), default=0) for name, column in zip(names, columns, strict=True)}
    wanted = {name: max(natural[name], cell_len(name)) for name in names}
    if width is None:
        return Fit(wanted)
    rigid = {name for name in names if natural[name] <= SHORT or name in whole}
    least = {name: max(_header(name), natural[name] if name in rigid else LEAST) for name in names}
    kept = list(names)
    going = [*(name for name in names if not natural[name]), *drop]
    while sum(least[name] for name in kept) > (room := _room(kept, width)) and len(kept) > 1:
        kept.remove(next((name for name in going if name in kept), kept[-1]))
    widths = {name: wanted[name] for name in kept}
    if sum(widths.values()) > room:  # headers stand on several lines
        widths = {name: max(natural[name], _header(name)) for name in kept}
    while (over := sum(widths.values()) - room) > 0 and (wide := [n for n in kept if widths[n] > least[n]]):
        widest, second = sorted({0, *(widths[name] for name in wide)}, reverse=True)[:2]
        largest = [name for name in wide if widths[name] == widest]
        step = max(1, min(widest - second, -(-over // len(largest))))
        for name in largest:
            widths[name] = max(least[name], widths[name] - step)
    if len(kept) == 1:
        widths[kept[0]] = min(widths[kept[0]], max(1, room))
    return Fit(widths, tuple(name for name in names if name not in kept))


def drawn(fitted: Fit, names: Sequence[str], cells: Sequence[Sequence[str]], *, numbers: set[str], lines: int,
          title: str | None = None) -> Table:  # fmt: skip
    """The table. A text with blanks takes up to so many lines; one without is shortened in its middle."""
    table = Table(title=title, title_justify="left")
    for name, width in fitted.widths.items():
        table.add_column(Text(_folded(name, width)), justify="right" if name in numbers else "left", width=width,
                         overflow="fold")  # fmt: skip
    for row in cells:
        by_name = dict(zip(names, row, strict=True))
        # Text, not str: a collection called [red] is a name, not a colour.
        table.add_row(*(Text(shortened(by_name[name], width, lines)) for name, width in fitted.widths.items()))
    return table


def shortened(text: str, width: int, lines: int = 1) -> str:
    """A cell's text for so many lines of this width; 0 lines for as many as it takes.

    >>> shortened("stackexchange_title_body", 15), shortened("a long note about it", 12)
    ('stackex…le_body', 'a long note…')
    """
    if lines == 0 or (cell_len(text) <= width and "\n" not in text):
        return text
    text = " ".join(text.split())
    if " " in text:
        if lines > 1 and max(map(cell_len, text.split())) > width:  # no word is broken
            text = " ".join(shortened(word, width) for word in text.split())
        # Words leave a rest at the end of each line.
        room = width if lines == 1 else width * lines * 3 // 4
        return text if cell_len(text) <= room else set_cell_size(text, room - 1).rstrip() + "…"
    if cell_len(text) <= width:
        return text
    head = (width - 1) // 2
    tail = text[::-1]
    return set_cell_size(text, head).rstrip() + "…" + set_cell_size(tail, width - 1 - head).rstrip()[::-1]


def _room(names: Sequence[str], width: int) -> int:
    """What the cells may take beside lines and blanks."""
    return width - 3 * len(names) - 1


def _header(name: str) -> int:
    return max(map(cell_len, _parts(name)), default=1) or 1


def _parts(name: str) -> list[str]:
    """Where a header may go on in the next line: after an underscore or a blank."""
    return re.findall(r"[^_ ]*[_ ]|[^_ ]+", name) or [name]


def _folded(name: str, width: int) -> str:
    lines = [""]
    for part in _parts(name):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)

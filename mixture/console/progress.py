"""How a command shows how far it is, on standard error: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from mixture.console.terminal import in_options
from mixture.progress import Lines, Progress, Stage

LOGGERS = ("mixture", "trainers")


class Count(ProgressColumn):
    """How much of how much; nothing where the total is not known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{int(task.completed):,}/{int(task.total):,}")


class Rate(ProgressColumn):
    """Units a second over the last 30 s."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g} {self.unit}/s" if self.unit and task.speed else "")


@contextmanager
def bar(title: str, unit: str = "") -> Iterator[Progress]:
    """The progress of a job of one stage."""
    with stages(unit) as stage:
        yield stage(title)


@contextmanager
def stages(unit: str = "", console: Console | None = None) -> Iterator[Stage]:
    """The progress of a job of several stages; `unit` is what they count. What the library logs is a line above."""
    console = console or Console(stderr=True)
    with notes(console):
        if not console.is_terminal:
            yield lines(console, unit)
            return
        with bars(console, unit) as shown:
            yield stage_of(shown)


def lines(console: Console, unit: str = "") -> Stage:
    """Stages whose progress is a line now and then."""
    return lambda title: Lines(title, lambda line: plain(console, line), unit=unit)


def bars(console: Console, unit: str = "") -> Bars:
    """Bars of stages, not shown yet."""
    return Bars(
        TextColumn("{task.description}"), BarColumn(bar_width=20), Count(), Rate(unit), TimeRemainingColumn(),
        TextColumn("{task.fields[line]}"), console=console,
    )  # fmt: skip


def stage_of(shown: Bars) -> Stage:
    """Stages whose progress is a bar each; one whose total says nothing yet, as 1 file of which none is done, moves."""

    def stage(title: str) -> Progress:
        task = shown.add_task(title, total=None, line="")

        def show(done: int, total: int, what: str) -> None:
            known = None if total < 1 or (total == 1 and not done) else total
            shown.update(task, completed=done, line=what)
            if shown.tasks[shown.task_ids.index(task)].total != known:
                shown.reset(task, total=known, completed=done, line=what)  # the rate begins with the counting

        return show

    return stage


@contextmanager
def notes(console: Console) -> Iterator[None]:
    """What the library logs as lines of the command, in its own words for options; equal ones once."""
    handler, before = _Notes(console), {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(level)


class _Notes(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = in_options(record.getMessage())
        if line not in self._said:
            self._said.add(line)
            plain(self._console, line)


def plain(console: Console, line: str) -> None:
    """A line above the bars, or to the stream; no markup, and off a terminal not wrapped."""
    console.print(Text(line), soft_wrap=not console.is_terminal)

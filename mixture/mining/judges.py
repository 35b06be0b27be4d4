"""Who says whether a passage answers a query: a function, or any program that reads and writes lines.

A program's command line is split as a shell splits it, and run without a shell. It reads JSON lines of `query` and
`passage` to their end, and writes one line for each, in their order: a label, or a JSON object that has one. What it
says is kept in a file, so that it is not asked twice, and a killed call loses one start of it at most.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from mixture.errors import UsageError

KEEP, DROP, POSITIVE = "keep", "drop", "positive"
LABELS = (KEEP, DROP, POSITIVE)
_KEPT_AT_ONCE = 16_384  # pairs that a program is asked of in one start, and that a kill may lose

Pairs: TypeAlias = list[tuple[str, str]]
Judge: TypeAlias = Callable[[Pairs], Sequence[str]]
"""Pairs of query and passage to one of `LABELS` each: a negative it may stay, it may not, or it answers the query."""


def judged(judge: Judge, pairs: Pairs) -> list[str]:
    """The labels of the pairs; another number of them, or another label, is a UsageError."""
    labels = list(judge(pairs))
    if len(labels) != len(pairs):
        raise UsageError(f"`judge`: {len(pairs)} pairs gave {len(labels)} labels; expected one for each")
    for label in labels:
        if label not in LABELS:
            raise UsageError(f"`judge` says {str(label)[:60]!r}; allowed: {', '.join(LABELS)}")
    return labels


def program(command: str) -> Judge:
    """A program as a judge; it is started once for each list of pairs. What it writes to standard error is shown."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"`judge` is {command!r}: {error}") from error
    if not words:
        raise UsageError("`judge` is empty; give a command that reads JSON lines of query and passage")

    def judge(pairs: Pairs) -> list[str]:
        asked = "".join(json.dumps({"query": q, "passage": p}, ensure_ascii=False) + "\n" for q, p in pairs)
        try:
            ended = subprocess.run(words, input=asked.encode(), stdout=subprocess.PIPE, check=False)
        except OSError as error:
            raise UsageError(f"`judge` {command!r} cannot be started: {error.strerror}") from error
        if ended.returncode:
            raise UsageError(f"`judge` {command!r} ended with exit code {ended.returncode}")
        # Not splitlines: a text inside a line may hold other separators.
        lines = ended.stdout.decode("utf-8-sig", "replace").split("\n")
        return [_label(line) for line in lines if line.strip()]

    return judge


def _label(line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return line.strip()
    return str(value.get("label")) if isinstance(value, dict) else str(value)


class Remembering:
    """A judge whose answers are kept in a file, a line each: a digest of query and passage, and the label."""

    def __init__(self, judge: Judge, file: Path) -> None:
        self._judge, self._file = judge, file
        self._known: dict[str, str] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            for line in file.read_text("utf-8").splitlines():
                key, _, label = line.partition(" ")
                if label in LABELS:  # a line that a kill cut off counts as not there
                    self._known[key] = label

    def __call__(self, pairs: Pairs) -> list[str]:
        keys = [_key(*pair) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        unknown = list(new)
        for start in range(0, len(unknown), _KEPT_AT_ONCE):
            some = unknown[start : start + _KEPT_AT_ONCE]
            labels = judged(self._judge, [new[key] for key in some])
            with self._file.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{key} {label}\n" for key, label in zip(some, labels, strict=True))
            self._known.update(zip(some, labels, strict=True))
        return [self._known[key] for key in keys]


def _key(query: str, passage: str) -> str:
    digest = hashlib.sha256(f"{len(query)}:{query}{passage}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]

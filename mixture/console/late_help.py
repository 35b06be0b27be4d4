"""Help texts with the names in a dictionary that takes long to load: it is loaded when the help is asked for."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import typer.core

DICTIONARY = re.compile(r"\{([\w.]+)\.([A-Z]+)\}")


class LateHelp(typer.core.TyperCommand):
    """A command whose options' help may hold {trainers.losses.LOSSES}: the keys of that dictionary stand there."""

    def format_help(self, *arguments: Any) -> None:
        for parameter in self.params:
            help_text = getattr(parameter, "help", None) or ""
            parameter.help = DICTIONARY.sub(_names, help_text)  # type: ignore[attr-defined]
        super().format_help(*arguments)


def _names(found: re.Match[str]) -> str:
    return ", ".join(getattr(import_module(found[1]), found[2]))

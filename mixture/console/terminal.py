"""How the command speaks: mistakes as plain lines, progress bars on standard error."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer.core

from mixture.errors import MixtureError

_running: list[Any] = []  # the command that runs now


class _Plain:
    """Mistakes as one or two plain lines: exit code 2 for the caller's, 1 for a failure of data or machine."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            run = super().main  # type: ignore[misc]  # of the class that this one is mixed into
            code = run(arguments, prog_name, complete_var, False, windows_expand_args, **extra)
            if code == 130:  # what typer makes of Ctrl-C
                _fail("stopped; the same command goes on from its last checkpoint or file", 130)
        except Exception as error:
            if not standalone_mode or "--debug" in arguments:
                raise
            code = _plain(error, arguments, self.command_of(arguments))
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code

    def command_of(self, arguments: list[str]) -> Any:
        """The command that these arguments mean; None for none."""
        return self


class PlainCommand(_Plain, typer.core.TyperCommand):
    """A command that stands alone, with plain mistakes."""

    def invoke(self, ctx: Any) -> Any:
        _running[:] = [self]
        return super().invoke(ctx)


class WithSettings(typer.core.TyperCommand):
    """A command with `--settings`, which shows its settings and does nothing else: nothing is required then."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        required = [parameter for parameter in self.params if parameter.required and "--settings" in args]
        for parameter in required:
            parameter.required = False
        try:
            return super().parse_args(ctx, args)
        finally:
            for parameter in required:
                parameter.required = True


class PlainErrors(_Plain, typer.core.TyperGroup):
    """A group of commands with plain mistakes, and with the names of dictionaries in its helps."""

    def command_of(self, arguments: list[str]) -> Any:
        return next((self.commands[word] for word in arguments if word in self.commands), None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if "--help" in rest:
            list_choices(command)
        _running[:] = [command]
        return name, command, rest


def _plain(error: Exception, arguments: list[str], command: Any) -> int:
    if isinstance(error, MixtureError):
        return _fail(as_options(str(error), command), error.exit_code)
    if hasattr(error, "format_message"):  # typer's own: an unknown command or option, a missing argument
        message = error.format_message()
        if not message:  # called without a command: the help was printed
            return 2
        names = getattr(getattr(error, "param", None), "opts", [])
        given = [value for name, value in itertools.pairwise(arguments) if name in names]
        return _fail(message + "".join(f" (given: {value})" for value in given[-1:]), getattr(error, "exit_code", 2))
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, OSError) and error.filename:
        return _fail(f"{error.filename}: {error.strerror}", 1)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    return _fail(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} ({where}); "
                 "this is a fault of the toolkit: run again with --debug for all of it", 1)  # fmt: skip


def list_choices(command: Any) -> None:
    """In the help of the options, {module:NAME} becomes the names in that dictionary. Only --help loads it."""
    for option in command.params:
        if getattr(option, "help", None):
            option.help = re.sub(r"\{([\w.]+):(\w+)\}", lambda m: _names(m[1], m[2]), option.help)


def _names(module: str, dictionary: str) -> str:
    return ", ".join(getattr(importlib.import_module(module), dictionary))


def as_options(message: str, command: Any) -> str:
    """A message of the library in the words of a command: `` `top` `` becomes --top, and `` `fsdp=true` ``, a setting
    that is no option of its own, --set fsdp=true. What is neither stays as it is."""
    names: dict[str, str] = {}
    for parameter in getattr(command, "params", ()):
        long = [option for option in parameter.opts if option.startswith("--")]
        shown = long[0] if long else (parameter.metavar or parameter.name).upper()
        names |= dict.fromkeys((parameter.name, *(option[2:].replace("-", "_") for option in long)), shown)

    def option(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if name in names:
            return names[name] + (f" {value}" if value else "")
        return f"--set {name}={value}" if value and "set" in names else found[0]

    return re.sub(r"`(?P<name>[a-z][a-z_0-9]*)(=(?P<value>[^`]+))?`", option, message)


def current_command() -> Any:
    """The command that runs now; None for none."""
    return _running[-1] if _running else None


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"mixture: {message}\n")
    return code

"""How the command speaks: mistakes as plain lines, progress bars on standard error."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer.core

from mixture.console.examples import EXAMPLES, examples
from mixture.console.sentences import refused
from mixture.console.space import no_room
from mixture.console.stopping import Request, is_ctrl_c, requests_end
from mixture.errors import ForgottenRows, MixtureError, UsageError

_running: list[Any] = []  # the command that runs now

HELP = frozenset({"-h", "--help"})
# Options of the whole command line that may stand before the command's name and after it.
SHARED = {"store": "--store", "as_json": "--json"}
AT_ONCE = "the store is changed in one step at the end, or not at all; the same command starts over"
ANEW = "nothing half done is left; the same command starts over"
AFTERWARDS = {
    "ingest": "files that were done are stored; the same command goes on with the next one",
    "dedup": AT_ONCE,
    "decontaminate": AT_ONCE,
    "forget": AT_ONCE,
    "create": AT_ONCE,
    "export": ANEW,
    "report": ANEW,
    "mine": "collections that were done are stored; the same command goes on with the rest, but with COLLECTIONS or "
    "--replace it starts over",
    "store": "a part of a copy is no store; the same command goes on with it",
    "learn-weights": "the same command goes on from its last checkpoint",
    "train": "the same command goes on from its last checkpoint",
    "prompts": "scores that were done are kept; the same command goes on with the rest",
}
"""What a command that was stopped leaves, and what it does when it is called again."""


def stopped(command: str | None) -> str:
    """What is said when a command was stopped, by Ctrl-C or another signal."""
    return f"stopped; {AFTERWARDS[command]}" if command in AFTERWARDS else "stopped"


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
        message = stopped(getattr(self.command_of(arguments), "name", None))
        request = Request()
        try:
            run = super().main  # type: ignore[misc]  # of the class that this one is mixed into
            with requests_end(message) if standalone_mode else nullcontext(request) as request:
                code = run(arguments, prog_name, complete_var, False, windows_expand_args, **extra)
            if code == 130:  # what typer makes of KeyboardInterrupt
                code = _fail(message, request.exit_code)
        except Exception as error:
            if not standalone_mode or "--debug" in arguments:
                raise
            asked = request.number or is_ctrl_c(error)  # whatever the libraries made of it
            code = _fail(message, request.exit_code) if asked else _plain(error, arguments, self.command_of(arguments))
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
    """A group of commands with plain mistakes. Without arguments it shows its help. Helps have examples, and names of
    dictionaries; `--store` and `--json` may stand before the command or after it."""

    def command_of(self, arguments: list[str]) -> Any:
        valued = {name for one in self.params if not getattr(one, "is_flag", True) for name in one.opts}
        words = (word for before, word in itertools.pairwise(["", *arguments]) if before not in valued)
        return next((self.commands[word] for word in words if word in self.commands), None)

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of `EXAMPLES`, which is that of a job's steps."""
        order = {name: place for place, name in enumerate(EXAMPLES)}
        return sorted(super().list_commands(ctx), key=lambda name: order.get(name, len(order)))

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] == "help":
            if len(args) == 1:
                typer.echo(ctx.get_help())
                ctx.exit()
            args = [args[1], "--help"]
        name, command, rest = super().resolve_command(ctx, args)
        if command is None:  # an unknown name, while the shell completes
            return name, command, rest
        if HELP & set(rest):
            list_choices(command)
            command.epilog = examples(str(name))
        if "--debug" in rest:
            rest.remove("--debug")
        ctx.default_map = {name: _given_before(ctx, command)}
        _running[:] = [command]
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Their first sentences, whole: typer's own cuts them."""
        shown = {name: self.commands[name] for name in self.list_commands(ctx) if not self.commands[name].hidden}
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in shown.items()])


def _given_before(ctx: Any, command: Any) -> dict[str, Any]:
    """The shared options that stood before the command's name, as defaults of the command."""
    given = {name: ctx.params[name] for name in SHARED if ctx.params.get(name)}
    for name in given.keys() - {parameter.name for parameter in command.params}:
        raise UsageError(f"{command.name} takes no {SHARED[name]}")
    return given


def _plain(error: Exception, arguments: list[str], command: Any) -> int:
    if (folder := no_room(error, arguments)) is not None:
        after = AFTERWARDS.get(getattr(command, "name", None) or "", "the same command starts over")
        return _fail(f"no space is left in {folder}; make room: {after}", 1)
    if isinstance(error, ForgottenRows):
        return _fail(refused(error), error.exit_code)
    if isinstance(error, MixtureError):
        return _fail(as_options(str(error), command), error.exit_code)
    if hasattr(error, "format_message"):  # typer's own: an unknown command or option, a missing argument
        message = error.format_message()
        names = getattr(getattr(error, "param", None), "opts", [])
        given = [value for name, value in itertools.pairwise(arguments) if name in names]
        return _fail(message + "".join(f" (given: {value})" for value in given[-1:]), getattr(error, "exit_code", 2))
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, OSError) and error.filename:
        return _fail(f"{error.filename}: {error.strerror}", 1)
    from mixture.store.query import unreachable

    if (gone := unreachable(error)) is not None:
        return _fail(str(gone), gone.exit_code)
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


def in_options(message: object) -> str:
    """`as_options` of the command that runs now."""
    return as_options(str(message), current_command())


def as_options(message: str, command: Any) -> str:
    """A message of the library in the words of a command: `` `top` `` becomes --top, and `` `fsdp=true` ``, a setting
    that is no option of its own, --set fsdp=true. What is neither stays as it is."""
    names: dict[str, str] = {}
    for parameter in getattr(command, "params", ()):
        long = [option for option in parameter.opts if option.startswith("--")]
        shown = long[0] if long else (parameter.metavar or parameter.name).upper().rstrip(".")
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

"""Settings that are shipped: TOML files beside this one, by name."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from mixture.errors import UsageError

ENDING = ".toml"


def shipped() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(file.name.removesuffix(ENDING) for file in files(__name__).iterdir() if file.name.endswith(ENDING))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The settings of a shipped recipe by name, or of a TOML file. `extends` in one names another that it is laid over.

    Raises `UsageError` for a name that is not shipped (listing those that are), a file that cannot be read or parsed,
    and recipes that extend each other in a circle.
    """
    values: dict[str, Any] = {}
    seen: list[str] = []
    following: str | Path | None = recipe
    while following is not None:
        if str(following) in seen:
            raise UsageError(f"recipe {recipe} extends itself: {' → '.join([*seen, str(following)])}")
        seen.append(str(following))
        own = _read(following)
        following = own.pop("extends", None)
        values = own | values
        if not isinstance(following, str | None):
            raise UsageError(f"recipe {recipe}: extends is {following!r}; it must name one recipe")
    return values


def _read(recipe: str | Path) -> dict[str, Any]:
    name = str(recipe)
    try:
        if name in shipped():
            text = (files(__name__) / f"{name}{ENDING}").read_text("utf-8")
        elif Path(recipe).suffix or Path(recipe).exists() or len(Path(recipe).parts) > 1:
            text = Path(recipe).read_text("utf-8")
        else:
            raise UsageError(f"no recipe {name!r}; shipped: {', '.join(shipped())}; or name a TOML file")
        return tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"recipe {name}: {error}") from error

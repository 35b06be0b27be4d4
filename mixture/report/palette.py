"""Colours of a report, by role, for light and dark. Charts name a role as a CSS variable; a picture gets its value."""

from __future__ import annotations

from typing import Any

# Text has a contrast of 4.5 and more against the page, marks 3 and more. There are few colours, so that all are told
# apart in each kind of colour blindness.
LIGHT = {
    "page": "#ffffff",
    "panel": "#f5f6f8",
    "ink": "#16202c",
    "muted": "#566272",
    "line": "#d9dee5",
    "grid": "#e8ebf0",
    "context": "#8a94a3",
    "accent": "#2166ac",
    "warn": "#b4460f",
    "series-1": "#2166ac",
    "series-2": "#b4460f",
    "series-3": "#5d1049",
    "series-4": "#ab2cff",
    "series-5": "#000071",
    "series-6": "#4c4025",
}
DARK = {
    "page": "#12161c",
    "panel": "#1b212a",
    "ink": "#e7ebf0",
    "muted": "#a3aebb",
    "line": "#333c48",
    "grid": "#262e38",
    "context": "#66727f",
    "accent": "#6cb0ee",
    "warn": "#f0965e",
    "series-1": "#6cb0ee",
    "series-2": "#f0965e",
    "series-3": "#e5c634",
    "series-4": "#b74bff",
    "series-5": "#e1def7",
    "series-6": "#3bffb1",
}
# What a picture's legend, which is a line of text, calls them.
WORDS = {"accent": "blue", "context": "grey", "ink": "dark", "muted": "grey", "warn": "orange", "series-3": "plum"}
SERIES = tuple(name for name in LIGHT if name.startswith("series-"))


def role(name: str) -> str:
    """A role as the charts write it."""
    if name not in LIGHT:
        raise KeyError(name)
    return f"var(--{name})"


def resolved(value: Any, colours: dict[str, str]) -> Any:
    """A chart's specification with colours in place of roles, for a picture outside of a page."""
    if isinstance(value, dict):
        return {key: resolved(part, colours) for key, part in value.items()}
    if isinstance(value, list):
        return [resolved(part, colours) for part in value]
    roles = {role(name): colour for name, colour in colours.items()}
    return roles.get(value, value) if isinstance(value, str) else value

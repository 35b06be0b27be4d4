"""The pictures of docs/architecture.md name every module, each in its room, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PICTURE = re.compile(r"^## (?P<side>The data side|The model side)\n\n```\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
WINGS = {"The data side": "mixture", "The model side": "trainers"}


def _drawn(text: str) -> dict[str, set[str]]:
    """Room -> modules. A line names modules up to the first two blanks after them; a line without a room goes on."""
    rooms: dict[str, set[str]] = {}
    room, top = "", ""
    for line in text.splitlines():
        if line.startswith("├"):
            room = top = ""
        if not (found := re.match(r"│ (?P<indent> *)((?P<room>\w+)/ *)?(?P<names>[a-z_0-9]+( [a-z_0-9]+)*)", line)):
            continue
        if found["room"]:
            nested = len(found["indent"]) == 2
            top = top if nested else found["room"]
            room = f"{top}/{found['room']}" if nested else top
        elif not found["indent"]:
            room = top = ""
        rooms.setdefault(room, set()).update(found["names"].split())
    return rooms


def _there(wing: str) -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for file in (ROOT / wing).rglob("*.py"):
        place = file.relative_to(ROOT / wing)
        if file.stem != "__init__" and place.parts[0] != "fixtures":
            rooms.setdefault(place.parent.as_posix().removeprefix("."), set()).add(file.stem)
    return rooms


@pytest.mark.parametrize("side", WINGS)
def test_the_picture_names_every_module(side: str) -> None:
    pictures = {
        found["side"]: found["text"] for found in PICTURE.finditer((ROOT / "docs/architecture.md").read_text("utf-8"))
    }
    assert _drawn(pictures[side]) == _there(WINGS[side])

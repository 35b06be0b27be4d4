"""A study's recipe: which data, which students, which mixtures; read from TOML, and checked before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from mixture.errors import UsageError, unknown_name
from trainers.evaluation.compare import FEWEST_SEEDS

# How a mixture is made, or what is trained in place of one: a mixture has one of these.
KINDS = ("create", "learn", "select", "coreset", "longer", "phases", "soup", "train")
# Of these, what trains on other mixtures and has no weights of its own.
WITHOUT_WEIGHTS = ("longer", "phases", "soup", "train")
# Suites that a learner looks at: all, or every other one, from the first and from the second on.
TARGETS = ("all", "A", "B")


@dataclass(frozen=True)
class Data:
    """collections: those of `raw/` that are mixed; slices: those of them that are mixed by a column, `name:column`."""

    collections: tuple[str, ...]
    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Student:
    """A model, how it is trained, with how many seeds, and on which mixtures (all of the recipe, if none is named).

    recipe:   of the toolkit's training recipes, or none
    settings: of the training; a proxy that learns weights has those of them that learning knows
    """

    name: str
    model: str
    seeds: int
    steps: int
    recipe: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    mixtures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mixture:
    """What models are trained on, and how.

    kind:    one of `KINDS`; options: its own
    of:      names of mixtures that it is made from
    towards: the suites that it looks at, of `TARGETS`; None for none
    trained: whether students train on it that name no mixtures; otherwise only its weights are of interest
    """

    name: str
    kind: str
    options: dict[str, Any]
    of: tuple[str, ...] = ()
    towards: str | None = None
    trained: bool = True


@dataclass(frozen=True)
class Recipe:
    name: str
    data: Data
    students: dict[str, Student]
    mixtures: dict[str, Mixture]

    def trained(self, student: Student) -> list[Mixture]:
        """What a student is trained on."""
        chosen = [self.mixtures[name] for name in student.mixtures]
        return chosen or [one for one in self.mixtures.values() if one.trained]


def read(file: Path) -> Recipe:
    """Raises `UsageError` where a name is not known, or a mixture is made from one that comes later."""
    try:
        text = tomllib.loads(file.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error
    known("part of a recipe", text, ("data", "students", "mixtures"))
    data = _of(Data, text.get("data", {}), "data")
    mixtures: dict[str, Mixture] = {}
    for name, options in text.get("mixtures", {}).items():
        for one in _mixtures(name, options):
            for other in one.of:
                if other not in mixtures:
                    raise unknown_name(f"mixture before {one.name}", other, mixtures)
            mixtures[one.name] = one
    students = {}
    for name, options in text.get("students", {}).items():
        student = _of(Student, {"name": name} | options, f"students.{name}")
        if not isinstance(student.seeds, int) or student.seeds < FEWEST_SEEDS:
            raise UsageError(f"students.{name}: seeds is {student.seeds!r}; one model does not tell what its seed did: "
                             f"at least {FEWEST_SEEDS}")  # fmt: skip
        chosen = []
        for mixture in student.mixtures:
            names = [mixture] if mixture in mixtures else [f"{mixture}-{one}" for one in TARGETS]
            if not any(one in mixtures for one in names):
                raise unknown_name("mixture", mixture, mixtures)
            chosen += [one for one in names if one in mixtures]
        students[name] = Student(**student.__dict__ | {"mixtures": tuple(chosen)})
    for one in mixtures.values():
        if one.kind == "learn" and one.options.get("proxy") not in students:
            raise unknown_name(f"student, the proxy of {one.name},", str(one.options.get("proxy")), students)
    return Recipe(file.stem, data, students, mixtures)


def _mixtures(name: str, options: dict[str, Any]) -> list[Mixture]:
    """One, or one for each target, with the target at the end of its name."""
    known(f"option of mixtures.{name}", options, (*KINDS, "towards", "trained"))
    kinds = [kind for kind in KINDS if kind in options]
    if len(kinds) != 1:
        raise UsageError(f"mixtures.{name} needs one of: {', '.join(KINDS)}")
    kind = kinds[0]
    own = options[kind] if isinstance(options[kind], dict) else {"of": options[kind]}
    of = {"create": (), "coreset": (), "learn": own.get("base", own.get("members", ()))}.get(kind, own.get("of", ()))
    of = (of,) if isinstance(of, str) else tuple(of)
    if kind in ("coreset", "learn"):
        of = ("uniform", *of)
    towards = options.get("towards", [])
    for one in towards:
        if one not in TARGETS:
            raise unknown_name(f"target of mixtures.{name}", one, TARGETS)
    if not towards:
        return [Mixture(name, kind, own, of, trained=options.get("trained", True))]
    return [Mixture(f"{name}-{one}", kind, own, of, one) for one in towards]


def known(what: str, given: Iterable[str], names: Iterable[str]) -> None:
    for name in given:
        if name not in (names := list(names)):
            raise unknown_name(what, name, names)


def _of(kind: type, given: dict[str, Any], where: str) -> Any:
    names = [one.name for one in fields(kind)]
    known(f"option of {where}", given, names)
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise UsageError(f"{where} needs: {', '.join(missing)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})

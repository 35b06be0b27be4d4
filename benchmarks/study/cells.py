"""The pieces of a study: each is done once, in a process of its own, and leaves one JSON file."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import trainers
from mixture import Store, jobs, registry
from mixture.suites.layout import find_suites
from study import scores
from study.recipe import WITHOUT_WEIGHTS, Mixture, Recipe, Student
from trainers.evaluation.evaluate import SuiteResult
from trainers.settings import resolve

CARDS = Path(__file__).resolve().parent.parent / "cards"


@dataclass(frozen=True)
class Cell:
    """name:   also that of its file
    needs:  names of cells that must be done before
    recipe: all that decides its result, but for what it needs
    work:   does it; returns what goes into the file
    """

    name: str
    needs: tuple[str, ...]
    recipe: dict[str, Any]
    work: Callable[[], dict[str, Any]]


class Study:
    """A recipe on a folder of data, with its results so far in `work`.

    data:   has `raw/`, `eval/` with suites in BEIR layout, and perhaps `decontaminate/` with lists of test queries
    store:  its name; a folder in `work`, if none is given
    models: where models are trained; in `work`, if none is given
    """

    def __init__(
        self, recipe: Recipe, data: Path, work: Path, store: str | None = None, models: Path | None = None
    ) -> None:
        self.recipe, self.data, self.work = recipe, data, work
        self.store_name = store or str(work / "store")
        self.models = models or work / "models"
        self._keys: dict[str, str] = {}
        self._done: set[str] = set()

    @cached_property
    def store(self) -> Store:
        return Store.open(self.store_name, create=True)

    @cached_property
    def suites(self) -> list[Path]:
        return sorted(find_suites([self.data / "eval"]), key=lambda folder: folder.name)

    def target(self, towards: str | None) -> list[Path]:
        """all; A, every other suite in order of name; B, the others"""
        return {None: [], "all": self.suites, "A": self.suites[::2], "B": self.suites[1::2]}[towards]

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """By name, each after what it needs; those of the first student, and of the first mixtures, first."""
        made = {"prepare": Cell("prepare", (), {"data": self.recipe.data.__dict__}, self.prepare)}

        def add(cell: Cell) -> None:
            made.setdefault(cell.name, cell)

        for student in self.recipe.students.values():
            if student.model != "tiny-qwen2":  # made from a mixture, with random weights
                work = partial(self._start, student)
                add(Cell(f"start {student.name}", ("prepare",), {"model": student.model}, work))
            for mixture in self.recipe.trained(student):
                self._mixture(mixture, add)
                for seed in range(student.seeds):
                    add(self._training(student, mixture, seed))
        for mixture in self.recipe.mixtures.values():
            self._mixture(mixture, add)
        return made

    def result(self, name: str) -> dict[str, Any] | None:
        """What a cell left; None where it is not done, or was done by another recipe."""
        file = self.file(name)
        if not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return found if found["key"] == self.key(name) else None

    def is_done(self, name: str) -> bool:
        """What is done stays so: its file, which holds the score of every query, is read for this once."""
        if name not in self._done and self.result(name) is not None:
            self._done.add(name)
        return name in self._done

    def key(self, name: str) -> str:
        """A hash of the cell's recipe and of those of all that it needs."""
        if name not in self._keys:
            cell = self.cells[name]
            self._keys[name] = _hash([cell.recipe, [self.key(one) for one in cell.needs]])
        return self._keys[name]

    def file(self, name: str) -> Path:
        return self.work / "cells" / f"{name.replace(' ', '/')}.json"

    def done(self, name: str) -> dict[str, Any]:
        found = self.result(name)
        assert found is not None, name
        return found

    def run(self, cell: Cell) -> dict[str, Any]:
        """Does the cell, and leaves its file."""
        started, processor = time.perf_counter(), time.process_time()
        found = cell.work() | {
            "cell": cell.name, "key": self.key(cell.name), "recipe": cell.recipe,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "seconds": round(time.perf_counter() - started, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
        }  # fmt: skip
        file = self.file(cell.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(found, ensure_ascii=False), "utf-8")
        scratch.replace(file)
        gc.collect()
        return found

    def prepare(self) -> dict[str, Any]:
        """The collections without near-duplicates and test queries, with BM25 negatives where there are none."""
        parts = (*self.recipe.data.collections, *(one.split(":")[0] for one in self.recipe.data.slices))
        jobs.ingest(self.store, [self.data / "raw" / name for name in parts], cards=CARDS)
        twins = jobs.dedup(self.store)
        lists = sorted((self.data / "decontaminate").glob("*.jsonl.gz"))
        leaks = jobs.decontaminate(self.store, [*lists, self.data / "eval"])
        jobs.mine(self.store)
        rows = self.store.sql("SELECT collection, count(*) AS rows FROM examples GROUP BY ALL ORDER BY ALL")
        return {"rows": {row["collection"]: row["rows"] for row in rows.to_pylist()},
                "near_duplicates": sum(one.removed for one in twins),
                "test_queries": sum(one.removed for one in leaks)}  # fmt: skip

    # Mixtures

    def _mixture(self, mixture: Mixture, add: Callable[[Cell], None]) -> None:
        """The cells that a mixture needs, and its own, where it has one."""
        for name in mixture.of:
            self._mixture(self.recipe.mixtures[name], add)
        if mixture.kind in WITHOUT_WEIGHTS:
            return
        recipe: dict[str, Any] = {"kind": mixture.kind, "options": mixture.options, "towards": mixture.towards}
        if mixture.kind == "learn":
            recipe["proxy"] = _training_recipe(self.recipe.students[mixture.options["proxy"]])
        ways = {"create": self._create, "learn": self._learn, "select": self._select, "coreset": self._coreset}
        work = ways[mixture.kind]
        needs = ("prepare", *(f"mixture {name}" for name in mixture.of))
        add(Cell(f"mixture {mixture.name}", needs, recipe, lambda: self._made(mixture, work)))

    def _made(self, mixture: Mixture, work: Callable[[Mixture], dict[str, Any]]) -> dict[str, Any]:
        found = work(mixture)
        spec = registry.resolve(self.store, found["reference"]).spec
        return found | {"weights": spec.weights}

    def reference(self, name: str) -> str:
        return str(self.done(f"mixture {name}")["reference"])

    def _create(self, mixture: Mixture) -> dict[str, Any]:
        rule = mixture.options["of"]
        made = jobs.create(
            self.store, mixture.name, collections=self.recipe.data.collections, slices=self.recipe.data.slices,
            weights=rule if isinstance(rule, str) else jobs.Temperature(rule),
        )  # fmt: skip
        return {"reference": made.reference}

    def _learn(self, mixture: Mixture) -> dict[str, Any]:
        options = {key: value for key, value in mixture.options.items() if key not in ("proxy", "base", "members")}
        student = self.recipe.students[mixture.options["proxy"]]
        known = {one.name for one in fields(trainers.LearningSettings)}
        own = {key: value for key, value in student.settings.items() if key in known}
        if members := mixture.options.get("members"):
            options["members"] = tuple(self.reference(one) for one in members)
        settings = resolve(trainers.LearningSettings, student.recipe, {"steps": student.steps} | own | options)
        base = mixture.options.get("base")
        made = trainers.learn_weights(
            self.store, self.reference("uniform"), proxy=student.model, name=mixture.name, settings=settings,
            target=self.target(mixture.towards), base=self.reference(base) if base else None,
        )  # fmt: skip
        return {"reference": made.first.reference, "said": made.lines()}

    def _select(self, mixture: Mixture) -> dict[str, Any]:
        options = {key: value for key, value in mixture.options.items() if key != "of"}
        return {"reference": jobs.select(self.store, self.reference(mixture.of[0]), mixture.name, **options).reference}

    def _coreset(self, mixture: Mixture) -> dict[str, Any]:
        made = jobs.coreset(self.store, self.reference("uniform"), mixture.name, target=self.target(mixture.towards),
                            encode=trainers.encode_with("static"), **mixture.options)  # fmt: skip
        return {"reference": made.mixture.reference, "distance": made.distance, "random_distance": made.random}

    # Trainings

    def _start(self, student: Student) -> dict[str, Any]:
        """The student before any training."""
        return {"scores": _scores(trainers.evaluate(self.store, student.model, self.suites, half="report"))}

    def _training(self, student: Student, mixture: Mixture, seed: int) -> Cell:
        name = training(student.name, mixture.name, seed)
        recipe = _training_recipe(student) | {"kind": mixture.kind, "seed": seed}
        if mixture.kind == "soup":
            # The same mixture several times is several seeds of it.
            models = [(one, (seed + mixture.of[:place].count(one)) % student.seeds)
                      for place, one in enumerate(mixture.of)]  # fmt: skip
            needs = tuple(training(student.name, one, other) for one, other in models)
            return Cell(name, needs, recipe, lambda: self._soup(student, name, models))
        of, options = (mixture.name,), {}
        if mixture.kind in ("longer", "phases", "train"):
            of = mixture.of
            options = {key: value for key, value in mixture.options.items() if key not in ("of", "times")}
            options["steps"] = student.steps * mixture.options.get("times", 1)
        recipe |= {"options": options}
        needs = tuple(f"mixture {one}" for one in of)
        return Cell(name, needs, recipe, lambda: self._train(student, name, of, seed, options))

    def _train(
        self, student: Student, name: str, of: tuple[str, ...], seed: int, options: dict[str, Any]
    ) -> dict[str, Any]:
        """On a mixture, or on several in phases of equal length."""
        out = self.model(name)
        settings = resolve(
            trainers.FinetuneSettings, student.recipe,
            {"steps": student.steps, "seed": seed, "tracker": "none"} | student.settings | options,
        )  # fmt: skip
        phases = [(self.reference(one), settings.steps // len(of)) for one in of]
        trainers.train(self.store, phases if len(of) > 1 else phases[0][0], student.model, out=out, settings=settings,
                       suites=self.suites, half="report")  # fmt: skip
        found = {"scores": scores.read(out)}
        if not self._for_soup(student, name):
            shutil.rmtree(out)
        return found

    def _for_soup(self, student: Student, name: str) -> bool:
        """Whether a soup that is to come takes this model."""
        return any(name in cell.needs and not self.is_done(cell.name)
                   for cell in self.cells.values() if cell.name.startswith(f"train {student.name} "))  # fmt: skip

    def _soup(self, student: Student, name: str, models: list[tuple[str, int]]) -> dict[str, Any]:
        folders = [self.model(training(student.name, one, seed)) for one, seed in models]
        for folder, (one, seed) in zip(folders, models, strict=True):
            if not folder.is_dir():  # trained when no soup was asked for
                self.cells[training(student.name, one, seed)].work()
        out = self.model(name)
        trainers.soup(folders, out=out)
        found = {"scores": _scores(trainers.evaluate(self.store, out, self.suites, half="report"))}
        shutil.rmtree(out)
        return found

    def model(self, name: str) -> Path:
        return self.models / name.replace(" ", "-")


def _scores(results: list[SuiteResult]) -> scores.Scores:
    return {one.suite: {query: values["ndcg@10"] for query, values in one.per_query.items()} for one in results}


def training(student: str, mixture: str, seed: int) -> str:
    return f"train {student} {mixture} {seed}"


def _training_recipe(student: Student) -> dict[str, Any]:
    return {key: value for key, value in student.__dict__.items() if key not in ("name", "seeds", "mixtures")}


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def digest(found: dict[str, Any]) -> str:
    """Of a cell's numbers, without its seconds."""
    return _hash({key: found[key] for key in ("scores", "weights") if key in found})

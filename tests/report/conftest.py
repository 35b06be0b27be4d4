"""A small hand-made store whose reports are read: names that try to break out, a learned mixture, evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mixture import Store, registry
from mixture.report.build import write_report
from mixture.specs import Component, MixtureSpec
from mixture.store.write import insert_rows
from mixture.weights import normalise

START = datetime(2026, 1, 1, tzinfo=UTC)
MARK = "document.documentElement.dataset.broken=1"
SCRIPT = f"</script><script>{MARK}</script>"
IMAGE = f'<img src=x onerror="{MARK}">'
FORMULA = '=HYPERLINK("http://example.org","x")'
SLICE = "xquad[language=zh]"
# collection -> (category, license, languages, examples)
COLLECTIONS: dict[str, tuple[str | None, str | None, list[str] | None, int]] = {
    "forum": ("Forum", "cc-by-4.0", ["en"], 40),
    "wiki": ("<i>Wikipedia</i>", "cc-by-nc-4.0", ["sw", "zh"], 60),
    SCRIPT: ("Web", None, ["en"], 20),
    IMAGE: ("Web", "other", ["zh"], 10),
    FORMULA: (None, "mit", None, 5),
    SLICE: ("QA", "mit", ["zh"], 30),
}
WEIGHTS = {"forum": 0.4, "wiki": 0.3, SCRIPT: 0.15, IMAGE: 0.1, FORMULA: 0.05}
STEPS = 40
SUITES = ("arguana", "fiqa", "nq", "quora", "scifact", "<b>trec</b>")
GAINS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)


def spec_of(weights: dict[str, float]) -> MixtureSpec:
    return MixtureSpec(tuple(Component(name, "d" * 64, w) for name, w in normalise(weights).items()))


def _collections() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "collections", [
        {"collection": name, "category": category, "license": license, "languages": languages, "added_at": START,
         "prompts": [f"<b>find</b> {name}"]}
        for name, (category, license, languages, _) in COLLECTIONS.items()
    ]  # fmt: skip
    yield "examples", [
        {"collection": name, "example_id": f"{place}-{i}", "query": f"query {i}",
         "language": ("sw" if i < 15 else "zh") if name == "wiki" else None, "positives": []}
        for place, (name, (*_, count)) in enumerate(COLLECTIONS.items()) for i in range(count)
    ]  # fmt: skip
    yield "sources", [
        {"collection": name, "file": f"{name}.jsonl", "sha256": str(place), "rows_read": count + 8, "stored": count + 3,
         "repeated": 4, "rejected": 1, "ingested_at": START}
        for place, (name, (*_, count)) in enumerate(COLLECTIONS.items())
    ]  # fmt: skip
    yield "rejects", [{"collection": name, "file": "f", "line": 1, "reason": "<u>not JSON</u>"} for name in COLLECTIONS]
    yield "removals", [
        {"collection": "wiki", "example_id": f"x{i}", "query": "q", "reason": "test query" if suite else "duplicate",
         "suite": suite, "removed_at": START}
        for i, suite in enumerate([None, None, "nq"])
    ]  # fmt: skip


def _history(run: str, last: dict[str, float]) -> list[dict[str, Any]]:
    """From equal weights straight to the last; every other step has no example of any collection but the first."""
    rows = []
    for step in range(1, STEPS + 1):
        for place, (name, weight) in enumerate(last.items()):
            drawn = place == 0 or step % 2 == 0
            now = (1 - step / STEPS) / len(last) + step / STEPS * weight
            rows.append({
                "run_id": run, "step": step, "collection": name, "weight": now, "mean_weight": (0.2 + now) / 2,
                "ema_weight": 0.2, "proxy_loss": 1.0 + place if drawn else None,
                "reference_loss": 0.5 if drawn else None, "measurement": 2.0 * (5 - place) if drawn else None,
                "num_examples": 4 if drawn else 0,
            })  # fmt: skip
    return rows


def _evaluations(model: str, mixture: str, run: str, gains: tuple[float, ...]) -> list[dict[str, Any]]:
    return [
        {"model": model, "mixture": mixture, "run_id": run, "suite": suite, "metric": metric,
         "value": 0.9 if step else 0.4 + gain, "num_queries": 50, "num_documents": 500,
         "corpus": "full corpus of the suite", "step": step, "evaluated_at": START + timedelta(hours=step or 0)}
        for suite, gain in zip(SUITES, gains, strict=True)
        for metric in ("ndcg@10", "recall@100")
        for step in (None, 7)  # the second was taken while it trained
    ]  # fmt: skip


def _queries(model: str, mixture: str, gains: tuple[float, ...]) -> list[dict[str, Any]]:
    """Of 50 queries, around the means of `_evaluations`, and of an older evaluation."""
    draw = Random(model)
    return [
        {"model": model, "mixture": mixture, "suite": suite, "corpus": "full corpus of the suite", "metric": metric,
         "query_id": f"q{n}", "value": 0.1 if older else 0.4 + gain + draw.gauss(0, 0.05),
         "evaluated_at": START - timedelta(days=older)}
        for suite, gain in zip(SUITES, gains, strict=True)
        for metric in ("ndcg@10", "recall@100")
        for older in (1, 0)
        for n in range(50)
    ]  # fmt: skip


def _run(run: str, kind: str, mixture: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"run_id": run, "kind": kind, "status": "finished", "mixture": mixture, "config": json.dumps(config),
            "started_at": START}  # fmt: skip


def _ablation(
    ablation: str, mixture: str, day: int, found: list[tuple[str, str, float, str | None]]
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of `ablations`; intervals are ± 0.01, of what is not told apart ± 0.015."""
    rows = []
    for name, kind, effect, says in found:
        reach = None if says is None else 0.015 if says == "not told apart" else 0.01
        between = {} if reach is None else {"low": effect - reach, "high": effect + reach}
        rows.append({"ablation": ablation, "mixture": mixture, "model": "static", "steps": 10, "seeds": [1, 2],
                     "collection": name, "kind": kind, "effect": effect, "says": says,
                     "decided_at": START + timedelta(days=day), **between})  # fmt: skip
    return rows


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Mixtures: base (equal), learned (a run, a model better than base's), seeds (the mean of two runs), top (made of
    learned), alone (one collection), elsewhere (nothing of it is here), plain (equal, no parent). Only read."""
    with Store.open(tmp_path_factory.mktemp("report") / "store", create=True) as store:
        for table, rows in _collections():
            insert_rows(store, table, rows)
        base = registry.save(store, spec_of(dict.fromkeys(WEIGHTS, 1.0)), "base")
        learned_config = {"algorithm": "tdro", "measurement": "relative", "steps": STEPS, "drift": [0.03, 0.04],
                          "at_floor": {FORMULA: 3}, "at_cap": {}, "proxy": "/home/somebody/models/qwen",
                          "hard_for_both": {"wiki": 1.1}, "repeated": {FORMULA: 19.4}}  # fmt: skip
        swapped = dict(zip(WEIGHTS, reversed(WEIGHTS.values()), strict=True))
        spread = {name: {"std": 0.01, "mean": 0.2, "min": 0.1, "max": 0.3} for name in WEIGHTS}
        train = {"steps": 10, "learning_rate": 1e-3, "out": "/home/somebody/out"}
        insert_rows(store, "runs", [
            _run("aaaa00000001", "tdro", base.spec.id, learned_config),
            _run("aaaa00000002", "tdro", base.spec.id, learned_config),
            _run("bbbb00000001", "tdro-seeds", base.spec.id,
                 {"runs": ["aaaa00000001", "aaaa00000002"], "spread": spread}),
            _run("cccc00000001", "finetune", base.spec.id, train | {"seed": 2}),
            _run("cccc00000002", "finetune", base.spec.id, train | {"seed": 1}),
            _run("dddd00000001", "finetune", "?", train | {"seed": 1}),
        ])  # fmt: skip
        insert_rows(store, "weight_history", _history("aaaa00000001", WEIGHTS) + _history("aaaa00000002", swapped))
        learned = registry.save(store, spec_of(WEIGHTS), "learned", parents=[base.spec.id], run_id="aaaa00000001",
                                note=f"{IMAGE} {SCRIPT}")  # fmt: skip
        registry.tag(store, "learned", "production")
        mean = {name: (WEIGHTS[name] + swapped[name]) / 2 for name in WEIGHTS}
        registry.save(store, spec_of(mean), "seeds", parents=[base.spec.id], run_id="bbbb00000001")
        registry.save(store, spec_of({"forum": 1.0, "wiki": 1.0}), "top", parents=[learned.spec.id])
        registry.save(store, spec_of({"forum": 1.0}), "alone")
        origin = registry.Origin("/home/somebody/file.json", {"far": registry.PinnedFacts(1000, None)})
        registry.save(store, MixtureSpec((Component("far", "", 0.25), Component("farther", "", 0.75))), "elsewhere",
                      origin=origin)  # fmt: skip
        registry.save(store, spec_of({SLICE: 1.0, "forum": 1.0}), "plain")
        flat = tuple(0.0 for _ in SUITES)
        insert_rows(store, "evaluations", [
            *_evaluations("/home/somebody/base-2", base.spec.id, "cccc00000001", tuple(0.3 for _ in SUITES)),
            *_evaluations("/home/somebody/base", base.spec.id, "cccc00000002", flat),
            *_evaluations("/home/somebody/learned", learned.spec.id, "dddd00000001", GAINS),
        ])  # fmt: skip
        insert_rows(store, "evaluation_queries", [
            *_queries("/home/somebody/base", base.spec.id, flat),
            *_queries("/home/somebody/learned", learned.spec.id, GAINS),
            *_queries("/home/somebody/learned", base.spec.id, tuple(0.9 for _ in SUITES)),  # of an earlier model there
        ])  # fmt: skip
        insert_rows(store, "ablations", [
            *_ablation("eeee00000001", learned.spec.id, 1, [("wiki", "trained", -0.5, "harmful")]),
            *_ablation("eeee00000002", learned.spec.id, 2, [
                (FORMULA, "held out", 0.51, "at chance"), ("wiki", "held out", 0.95, "teaches"),
                (IMAGE, "merged", 0.01, None), (FORMULA, "merged", -0.02, None),
                (FORMULA, "trained", -0.02, "harmful"), ("wiki", "trained", 0.04, "useful"),
                ("forum", "trained", 0.005, "not told apart")]),
        ])  # fmt: skip
        yield store


@pytest.fixture(scope="session")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A mixture `hundred` of 100 collections, learned in 300 steps."""
    with Store.open(tmp_path_factory.mktemp("hundred") / "store", create=True) as store:
        names = [f"collection {i:03}" for i in range(100)]
        insert_rows(store, "collections", [{"collection": n, "added_at": START, "prompts": [n]} for n in names])
        spec = spec_of({name: 1.0 + place for place, name in enumerate(names)})
        insert_rows(store, "runs", [_run("aaaa00000003", "tdro", "?", {"steps": 300})])
        weight = {"weight": 0.01, "mean_weight": 0.01, "ema_weight": 0.01, "num_examples": 0}
        insert_rows(store, "weight_history", [
            {"run_id": "aaaa00000003", "step": step, "collection": name, **weight}
            for step in range(1, 301) for name in names
        ])  # fmt: skip
        registry.save(store, spec, "hundred", run_id="aaaa00000003")
        yield store


@dataclass
class Element:
    """An element of a page: its text, and those around it from the outermost."""

    tag: str
    attributes: dict[str, str]
    above: tuple[str, ...]
    text: str = ""


VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Every element of a page, in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs}, tuple(e.tag for e in self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1].tag == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        return [e for e in self.elements if e.tag == tag and attributes.items() <= e.attributes.items()]

    def table(self, name: str) -> list[list[Element]]:
        """The rows of a table's body: its cells, and the `data` in them."""
        start = next(i for i, e in enumerate(self.elements) if e.attributes.get("id") == f"table-{name}")
        rows: list[list[Element]] = []
        for e in self.elements[start + 1 :]:
            if "table" not in e.above:
                break
            if e.tag == "tr" and "tbody" in e.above:
                rows.append([])
            elif e.tag in ("td", "th", "data") and "tbody" in e.above:
                rows[-1].append(e)
        return rows


@pytest.fixture(scope="session")
def report(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`report(name)`: the file of a mixture's report, made once."""
    folder: Path = tmp_path_factory.mktemp("pages")

    def made(name: str) -> Path:
        file = folder / f"{name}.html"
        if not file.exists():
            write_report(store, registry.resolve(store, name), file)
        return file

    return made

"""What a study found: `study.json`, the marked parts of docs/study.md, and its plots."""

from __future__ import annotations

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from study.cells import Study, training
from study.recipe import WITHOUT_WEIGHTS, Mixture, Student
from study.scores import Scores, compared, mean, mean_over_families, stitched
from trainers.jobs.verdict import ALIKE

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGES = ROOT / "benchmarks" / "results", (ROOT / "docs" / "study.md", ROOT / "README.md")
ENGLISH = {"agnews", "disflqa", "pubmedqa", "xquad-en"}
BASELINES = ("uniform", "proportional", "tdro-relative")
# A mark in the page, and what stands up to its end.
MARKED = re.compile(r"(<!-- study: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def found(study: Study) -> dict[str, Any]:
    """All numbers of the cells that are done."""
    students = {name: _student(study, one) for name, one in study.recipe.students.items()}
    made = {name: study.result(f"mixture {name}") for name in study.recipe.mixtures if f"mixture {name}" in study.cells}
    data = study.result("prepare") or dict.fromkeys(("rows", "near_duplicates", "test_queries"))
    return {
        "recipe": study.recipe.name, "data": {key: data[key] for key in ("rows", "near_duplicates", "test_queries")},
        "targets": {which: [suite.name for suite in study.target(which)] for which in ("A", "B")},
        "students": {name: rows for name, rows in students.items() if rows["rows"]},
        "weights": {name: _by_component(one["weights"]) for name, one in made.items() if one},
        "learning": {name: {key: one.get(key) for key in ("seconds", "processor_seconds", "said")}
                     for name, one in made.items() if one and study.recipe.mixtures[name].kind == "learn"},
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("torch", "sentence-transformers", "transformers", "duckdb")},
    }  # fmt: skip


def _by_component(weights: dict[str, float]) -> dict[str, float]:
    """Without the marks of what is left when rows are held out: `agnews[train]`, `xquad[language=ar, train]`."""
    return {name.replace("[train]", "").replace(", train]", "]"): weight for name, weight in weights.items()}


def _student(study: Study, student: Student) -> dict[str, Any]:
    """steps, model, seconds of a training, and a row for each mixture of which all seeds are there."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for mixture in study.recipe.trained(student):
        cells = [study.result(training(student.name, mixture.name, seed)) for seed in range(student.seeds)]
        if all(cells):
            runs[mixture.name] = [cell for cell in cells if cell is not None]
    scores: dict[str, list[Scores]] = {name: [one["scores"] for one in cells] for name, cells in runs.items()}
    rows = {name: _row(study, study.recipe.mixtures[name], scores) for name in scores}
    for name in [one[:-2] for one in scores if one.endswith("-A") and f"{one[:-2]}-B" in scores]:
        target = {f"{suite.name}/report" for suite in study.target("A")}
        one, other = scores[f"{name}-A"], scores[f"{name}-B"]
        sides = {"left out": stitched(other, one, target), "on its target": stitched(one, other, target)}
        for what, models in sides.items():
            rows[f"{name}, {what}"] = _against(models, scores, lambda other: False)
    seconds = [one["processor_seconds"] for one in runs.get("uniform", [])]
    start = study.result(f"start {student.name}") if f"start {student.name}" in study.cells else None
    return {"model": student.model, "steps": student.steps, "seeds": student.seeds,
            "untrained": round(100 * mean(start["scores"]), 2) if start else None,
            "seconds": round(sum(seconds) / len(seconds), 1) if seconds else None, "rows": rows}  # fmt: skip


def _row(study: Study, mixture: Mixture, scores: dict[str, list[Scores]]) -> dict[str, Any]:
    weights = {name: found["weights"] for name in {mixture.name, *BASELINES}
               if f"mixture {name}" in study.cells and (found := study.result(f"mixture {name}"))}  # fmt: skip

    def alike(other: str) -> bool:
        """Whether models of one seed see much the same batches: they are then pairs, as in a verdict."""
        if mixture.kind in (*WITHOUT_WEIGHTS, "coreset"):
            return False
        ours, theirs = weights[mixture.name], weights[other]
        return ours.keys() == theirs.keys() and sum(abs(ours[c] - theirs[c]) for c in ours) / 2 <= ALIKE

    row = _against(scores[mixture.name], scores, alike)
    if mixture.name in weights and mixture.kind != "coreset":
        rows, own = study.done("prepare")["rows"], _by_component(weights[mixture.name])
        parts = Counter(name.split("[")[0] for name in weights["uniform"])  # collection -> its slices
        whole = sum(rows[name] for name in parts)
        gone = sum(rows[name.split("[")[0]] / parts[name.split("[")[0]] for name in weights["uniform"]
                   if not own.get(name))  # fmt: skip
        row["dropped"] = round(gone / whole, 3)
    return row


def _against(models: list[Scores], scores: dict[str, list[Scores]], alike: Callable[[str], bool]) -> dict[str, Any]:
    row: dict[str, Any] = {"families": mean_over_families(models)}
    for other in BASELINES:
        if other in scores:
            row[other] = compared(models, scores[other], paired=alike(other))
    if "uniform" in scores:
        row["not English"] = compared(models, scores["uniform"], lambda s: s.split("/")[0] not in ENGLISH,
                                      paired=alike("uniform"))  # fmt: skip
        row["suites"] = {suite.split("/")[0]: compared(models, scores["uniform"], lambda s, own=suite: s == own,
                                                       paired=alike("uniform"))["difference"]
                         for suite in models[0]}  # fmt: skip
    return row


# The page


def write(study: Study, *, record: bool = False) -> None:
    """`study.json` in the work folder, and a table for each student; `record`: into the toolkit's own page, too."""
    result = found(study)
    text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
    (study.work / "study.json").write_text(text, "utf-8")
    for student in result["students"]:
        print(f"\n{student}\n{main_table(result, student)}")
    if record:
        (RESULTS / f"{'study' if study.recipe.name == 'full' else 'study_quick'}.json").write_text(text, "utf-8")
        for page in PAGES:
            page.write_text(filled(page.read_text("utf-8")), "utf-8")
        if study.recipe.name == "full":
            from study import pictures  # needs matplotlib

            pictures.draw(result)


def recorded() -> dict[str, dict[str, Any]]:
    """What was measured: the whole study and the quick one."""
    return {name: json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in ("study", "study_quick")}


def filled(page: str) -> str:
    """The page, with what stands between its marks as the results have it."""
    results = recorded()

    def fill(match: re.Match[str]) -> str:
        of, part = SECTIONS[match["name"]]
        return f"{match[1]}{PARTS[part](results[of])}\n{match[3]}"

    return MARKED.sub(fill, page)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, aligned, *rows))


def cell(one: dict[str, Any] | None) -> str:
    """A difference with its error and p."""
    if not one or (one["difference"] == 0 and one["error"] == 0):
        return ""
    p = "<0.001" if one["p"] < 0.001 else f"{one['p']:.2g}"
    text = f"{one['difference']:+.2f} ± {one['error']:.2f} ({p})"
    return f"**{text}**" if one["p"] <= 0.05 else text


def main_table(result: dict[str, Any], student: str) -> str:
    """Every mixture against uniform, by size and tDRO."""
    seconds = result["students"][student]["seconds"] or 1
    lines = []
    for name, row in result["students"][student]["rows"].items():
        learned = result["learning"].get(name, {}).get("processor_seconds")
        cost = "" if learned is None else f"{learned / seconds:.1f}" if student == "static" else ""
        own = row.get("uniform") or {"mean": 0.0, "sd": 0.0}
        lines.append([name, f"{own['mean']:.2f} ± {own['sd']:.2f}", cell(row.get("uniform")),
                      cell(row.get("proportional")), cell(row.get("tdro-relative")), cell(row.get("not English")),
                      f"{row['families']:.2f}", cost])  # fmt: skip
    return table(("mixture", "mean", "against uniform", "against by size", "against tDRO", "not English",
                  "mean over families", "cost"), lines)  # fmt: skip


SHORT = {
    "uniform": "equal weights", "proportional": "by size", "temperature2": "by the square root of the size",
    "tdro-relative": "tDRO", "tdro-top70": "the heaviest 70 % of tDRO's, equally", "chi2": "χ²",
    "swarm-holdouts": "search towards rows held out of each collection", "swarm-holdout-all": "the same and suites",
    "coreset-free10-all": "a tenth of the rows, nearest to the suites", "uniform-x2": "equal weights, twice the steps",
}  # fmt: skip


def short(result: dict[str, Any]) -> str:
    """The rows that most people ask for, with each student."""
    students = {name: one["rows"] for name, one in result["students"].items() if len(one["rows"]) > 1}
    lines = [[text, f"{students['static'][name]['uniform']['mean']:.1f}",
              *(cell(rows[name]["uniform"]) if name in rows else "" for rows in students.values())]
             for name, text in SHORT.items() if name in students["static"]]  # fmt: skip
    return table(("mixture", "`static`", *(f"`{name}` against equal weights" for name in students)), lines)


def ablation(result: dict[str, Any]) -> str:
    """tDRO's measurements."""
    rows = result["students"]["static"]["rows"]
    names = {"tdro-relative": "relative (the paper's)", "tdro-excess": "excess", "tdro-loss": "loss",
             "tdro-group": "relative, by group"}  # fmt: skip
    return table(("measurement", "mean", "against uniform", "against relative"),
                 [[text, f"{rows[n]['uniform']['mean']:.2f}", cell(rows[n]["uniform"]), cell(rows[n]["tdro-relative"])]
                  for n, text in names.items() if n in rows])  # fmt: skip


def dropped(result: dict[str, Any]) -> str:
    """How much data top-P leaves out."""
    rows = result["students"]["static"]["rows"]
    names = {"tdro-relative": "all, by weight"} | {f"tdro-top{p}": f"top {p} %" for p in (90, 80, 70, 60, 50)}
    return table(("mixture", "rows left out", "against uniform", "against tDRO"),
                 [[text, f"{rows[n]['dropped']:.0%}", cell(rows[n]["uniform"]), cell(rows[n]["tdro-relative"])]
                  for n, text in names.items() if n in rows])  # fmt: skip


def agreement(result: dict[str, Any]) -> str:
    """Of tDRO's weights by other proxies, seeds and settings, and of other learners, with tDRO's: rank and draws."""
    weights = result["weights"]
    own = weights["tdro-relative"]
    lines = []
    for name, other in weights.items():
        if name in ("tdro-relative", "uniform", "proportional") or other.keys() != own.keys():
            continue
        if name.startswith(("tdro-top", "tdro-calmer", "tdro-losses", "temperature")):
            continue
        rank = spearmanr([own[c] for c in own], [other[c] for c in own]).statistic
        moved = sum(abs(own[c] - other[c]) for c in own) / 2
        heavy = sorted(other, key=other.__getitem__, reverse=True)[:3]
        lines.append([name, f"{rank:.2f}", f"{moved:.1%}", ", ".join(f"{c} {other[c]:.3f}" for c in heavy)])
    return table(("weights", "rank correlation with tDRO's", "draws that differ", "heaviest"), lines)


def suites(result: dict[str, Any]) -> str:
    """Which suites pay."""
    rows = result["students"]["static"]["rows"]
    names = [name for name in ("tdro-relative", "tdro-top70", "chi2", "swarm-all", "swarm-holdouts", "proportional",
                               "uniform-x2") if name in rows]  # fmt: skip
    lines = [[suite, *(f"{rows[name]['suites'][suite]:+.1f}" for name in names)] for suite in rows["uniform"]["suites"]]
    return table(("suite", *names), lines)


def students(result: dict[str, Any]) -> str:
    """What weights that `static` learned bring other students."""
    lines = []
    for name, one in result["students"].items():
        for mixture, row in one["rows"].items():
            if name == "static" or mixture == "uniform":
                continue
            lines.append(
                [
                    f"{name} ({one['model']}, {one['seeds']} seeds, {one['steps']} steps)",
                    mixture,
                    f"{row['uniform']['mean']:.2f}",
                    cell(row["uniform"]),
                    cell(row.get("tdro-relative")),
                ]
            )
    return table(("student", "mixture", "mean", "against uniform", "against tDRO"), lines)


PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "main": lambda result: main_table(result, "static"), "ablation": ablation, "dropped": dropped,
    "agreement": agreement, "suites": suites, "students": students, "short": short,
}  # fmt: skip
SECTIONS = {name: ("study", name) for name in PARTS} | {"quick": ("study_quick", "main")}

"""A comparison as files: CSV, a Markdown table, and results in the layout of mteb (2.26), which it reads back."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mixture.errors import UsageError
from trainers.evaluation.summary import Row, Summary

ALLOWED = "a file that ends in .csv or .md, or a folder for mteb's JSON"
# What mteb calls a revision that nobody knows.
NO_REVISION = "no_revision_available"
# ISO 639's word for a language that nobody named: mteb has no score where there is none.
UNKNOWN = "und"
# Languages of MIRACL, MKQA and XQuAD as mteb calls them; others go as they are.
_LANGUAGES = """
ar:ara-Arab bn:ben-Beng da:dan-Latn de:deu-Latn el:ell-Grek en:eng-Latn es:spa-Latn fa:fas-Arab fi:fin-Latn
fr:fra-Latn he:heb-Hebr hi:hin-Deva hu:hun-Latn id:ind-Latn it:ita-Latn ja:jpn-Jpan km:khm-Khmr ko:kor-Hang
ms:msa-Latn nl:nld-Latn no:nor-Latn pl:pol-Latn pt:por-Latn ro:ron-Latn ru:rus-Cyrl sv:swe-Latn sw:swa-Latn
te:tel-Telu th:tha-Thai tr:tur-Latn vi:vie-Latn yo:yor-Latn zh:zho-Hans
"""
LANGUAGES = dict(pair.split(":") for pair in _LANGUAGES.split())


def export(place: str | Path, summary: Summary, results: Sequence[Any]) -> list[Path]:
    """Write a comparison to a .csv or .md file, or its results (`evaluate.SuiteResult`) to a folder of mteb's JSON;
    return the files.

    Raises UsageError for another ending.
    """
    kind, path = checked_export(place), Path(place).expanduser()
    if kind == "mteb":
        revisions = {result.suite: result.revision for result in results if getattr(result, "revision", None)}
        return write_mteb(path, results, revisions)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            names = [field.name for field in fields(Row)]
            rows.writerow([*names, "sure"])
            rows.writerows([*(getattr(row, name) for name in names), row.sure] for row in summary.rows)
    else:
        path.write_text(markdown(summary), "utf-8")
    return [path]


def checked_export(place: str | Path) -> str:
    """`csv`, `md` or `mteb`, by the ending; a folder is what exists as one, ends in a slash or has no ending. Raises
    UsageError for another ending, so that a wrong one is refused before the work."""
    path = Path(place).expanduser()
    if path.is_dir() or str(place).endswith("/") or not path.suffix:
        if path.is_file():
            raise UsageError(f"{place} is a file; allowed: {ALLOWED}")
        return "mteb"
    if path.suffix in (".csv", ".md"):
        return path.suffix[1:]
    raise UsageError(f"{place} ends in {path.suffix}; allowed: {ALLOWED}")


def markdown(summary: Summary) -> str:
    """A table for each metric: suites, then groups, by models; the worst case last. Scores times 100, with a star and
    the difference to the baseline as the tDRO paper prints them: `48.9* (+1.4)`."""
    parts = []
    for metric, lines in tables(summary).items():
        shown = [["suites", *summary.models], ["---", *["---:"] * len(summary.models)], *lines]
        escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in shown]
        parts.append(f"**{metric}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in escaped))
    return "\n".join([*parts, *[f"{note(summary)}\n"] * (len(summary.models) > 1)])


def tables(summary: Summary) -> dict[str, list[list[str]]]:
    """Of each metric the lines of its table: what a line is of, and a cell for each model."""
    found: dict[str, list[list[str]]] = {metric: [] for metric in summary.metrics}
    several = len(summary.models)
    for first in range(0, len(summary.rows), several):
        rows = summary.rows[first : first + several]
        found[rows[0].metric].append([_title(rows[0]), *map(_cell, rows)])
    for metric, lines in found.items():
        worst = [one for one in summary.worst if one.metric == metric]
        if len(worst[0].weights) > 1:
            radius = f"ε = {worst[0].radius:g}"
            lines.append([f"worst case, {radius}", *(_plain(one.score) for one in worst)])
            if several > 1:
                gains = ("" if one.difference is None else f"{100 * one.difference:+.2f}" for one in worst)
                lines.append([f"worst difference, {radius}", *gains])
    return found


def _title(row: Row) -> str:
    if row.kind == "suite":
        return row.name
    return f"mean of {row.num_suites} suites" if row.kind == "all" else f"{row.kind} {row.name} ({row.num_suites})"


def _cell(row: Row) -> str:
    """`48.90* (+1.40)`: score and difference times 100, a star where it is sure."""
    gain = "" if row.difference is None else f" ({100 * row.difference:+.2f})"
    return _plain(row.score) + "*" * row.sure + gain


def note(summary: Summary) -> str:
    """What a reader must know of the stars; empty where one model has nothing to differ from."""
    if len(summary.models) == 1:
        return ""
    return (f"* differs from {summary.baseline}: p ≤ 0.05 in a randomisation test over queries, corrected by Holm; "
            "another seed of a training is another model")  # fmt: skip


def _plain(score: float) -> str:
    return f"{100 * score:.2f}"


def write_mteb(folder: Path, results: Sequence[Any], revisions: Mapping[str, str] | None = None) -> list[Path]:
    """MODEL/no_revision_available/SUITE.json and model_meta.json below the folder, as mteb's results lie.

    A suite is a task with the split `test` and the subset `default`; its first metric is the main one. `mteb_version`
    is null, as mteb measured nothing. A slash in a name becomes two underscores, as mteb has it.

    revisions: suite -> revision of its data
    """
    files = []
    for result in results:
        place = folder / _file_name(result.model) / NO_REVISION
        place.mkdir(parents=True, exist_ok=True)
        meta = {"name": result.model, "revision": NO_REVISION, "framework": ["Sentence Transformers", "PyTorch"]}
        language = result.language or UNKNOWN
        scores = {name.replace("@", "_at_"): value for name, value in result.metrics.items()}
        task = {
            "dataset_revision": (revisions or {}).get(result.suite, NO_REVISION),
            "task_name": result.suite,
            "mteb_version": None,
            "scores": {"test": [{
                **scores, "main_score": next(iter(scores.values())), "hf_subset": "default",
                "languages": [LANGUAGES.get(language, language)],
            }]},
            "evaluation_time": getattr(result, "seconds", None),
        }  # fmt: skip
        for name, value in ((f"{_file_name(result.suite)}.json", task), ("model_meta.json", meta)):
            (place / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
            if place / name not in files:
                files.append(place / name)
    return files


def _file_name(name: str) -> str:
    return name.replace("/", "__").replace(" ", "_")

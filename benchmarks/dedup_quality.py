"""How well and how fast planted near-duplicates are found: exact, SimHash, SimHash + verify, MinHash, text-dedup.

    python benchmarks/dedup_quality.py [--data DIR] [--text-dedup PYTHON] [--seed 42]

The labelled set is `planted_copies.py`: real texts in eight languages and Java code, each with one copy of 0 to 20 %
edits. Each method puts the texts into groups; two texts in one group are a pair that it calls equal. PYTHON is an
interpreter that has text-dedup installed (https://github.com/ChenghaoMou/text-dedup); without it the peer is left out.
Writes benchmarks/results/dedup_quality.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from planted_copies import EDITS, LENGTHS, Planted, changed_numbers, planted

from mixture.dedup.duplicates import duplicate_groups

HERE = Path(__file__).resolve().parent
OURS: dict[str, dict[str, Any]] = {
    "exact": {"method": "exact"},
    "simhash": {"method": "simhash", "verify": None},
    "simhash + verify": {"method": "simhash"},
    "minhash": {"method": "minhash"},
}
THRESHOLDS = (0.9, 0.8, 0.7, 0.6)
PEERS: dict[str, tuple[str, dict[str, object]]] = {
    "text-dedup simhash": ("simhash", {"f": 64, "bit_diff": 7, "num_bucket": 8, "ngram_size": 1}),
    "text-dedup minhash": ("minhash", {"num_perm": 200, "bands": 50, "rows": 4, "ngram_size": 2, "threshold": 0.5}),
    "text-dedup minhash 0.7 + check": ("minhash", {"num_perm": 240, "ngram_size": 2, "threshold": 0.7,
                                                   "check_false_positive": True}),
}  # fmt: skip
"""The first two as in the benchmark that it publishes (configs/benchmark_core_*.toml), the third as in
configs/minhash.toml but with pairs of words instead of five, which suits short texts better. Its check of SimHash's
pairs is left out: it looks only at texts that would be removed, so none is checked with the one that stays."""
WHAT_COUNTS = [
    "True pairs: a text and its copy, whatever the edit rate; `limits` also says what comes out when copies with more "
    "edits than 2, 5 or 10 % count neither as found nor as wrong. All other pairs are wrong.",
    "Edits: a character left out, put in, replaced, or swapped with the next, at random places but digits.",
    "In `cells` ([precision, recall, F1] of 100) a wrong pair counts for each cell that one of its texts belongs to.",
    "Times of ours: from Arrow to groups in one process, code loaded, median of 3. Of text-dedup: the process less "
    "that of a run on 64 texts, once; 2 processes.",
    "text-dedup 0.4.1 at commit 7538f3e, its type aliases respelled for Python 3.11; min_length 0, so that no text is "
    "left out. It compares words, so a typo costs it a whole word, and a Chinese clause is one word.",
]
Groups = NDArray[np.int64]
Method = Callable[[pa.Array], tuple[Groups, float, float]]


def percent(found: int, total: int, wrong: int) -> list[float]:
    """Precision, recall and F1 in percent."""
    precision, recall = found / max(1, found + wrong), found / total
    return [round(100 * x, 2) for x in (precision, recall, 2 * precision * recall / max(1e-9, precision + recall))]


@dataclass(frozen=True, slots=True)
class Outcome:
    """found: (p,), which true pairs are in one group. wrong: (w, 2), the rows of pairs that should not be."""

    found: NDArray[np.bool_]
    wrong: NDArray[np.int64]

    def scores(self, chosen: NDArray[np.bool_], pair_of: NDArray[np.int64]) -> list[float]:
        """Precision, recall and F1 in percent over the chosen true pairs, (p,), and wrong pairs that touch them."""
        return percent(
            int(self.found[chosen].sum()), int(chosen.sum()), int(chosen[pair_of[self.wrong]].any(axis=1).sum())
        )


def pairs_of(groups: Groups) -> NDArray[np.int64]:
    """All pairs of rows that are in one group, (p, 2)."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    parts = np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)
    pairs = [np.stack([part[a] for a in np.triu_indices(len(part), 1)], axis=1) for part in parts if len(part) > 1]
    return np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])


def judged(groups: Groups, labels: Planted) -> Outcome:
    pairs = pairs_of(groups)
    same = labels.pair_of[pairs[:, 0]] == labels.pair_of[pairs[:, 1]]
    found = np.zeros(len(labels.pairs), dtype=np.bool_)
    found[labels.pair_of[pairs[same, 0]]] = True
    return Outcome(found, pairs[~same])


def ours(settings: dict[str, Any], texts: pa.Array, *, times: int = 3) -> tuple[Groups, float, float]:
    """The groups, seconds, and processor seconds of all threads."""
    duplicate_groups(texts[:100], **settings)  # loads the compiled code
    wall, cpu = [], []
    for _ in range(times):
        started, started_cpu = time.perf_counter(), time.process_time()
        groups = duplicate_groups(texts, **settings)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return groups, statistics.median(wall), statistics.median(cpu)


def _text_dedup(python: str, tool: str, settings: dict[str, object], texts: pa.Array) -> tuple[Groups, float, float]:
    """One run of `python -m text_dedup.<tool>`, whole process."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"text": texts}), Path(folder) / "texts.parquet")
        sections: dict[str, dict[str, object]] = {
            "input": {"input_type": "local_files", "file_type": "parquet"},
            "input.read_arguments": {"path": "parquet", "data_files": "texts.parquet", "split": "train"},
            "algorithm": {"algorithm_name": tool, "text_column": "text", "num_proc": 2, "min_length": 0, **settings},
            "output": {"output_dir": "out", "skip_filtering": True, "keep_index_column": True,
                       "keep_cluster_column": True},
            "debug": {"enable_profiling": False},
        }  # fmt: skip
        lines = [f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in rows.items())
                 for name, rows in sections.items()]  # fmt: skip
        (Path(folder) / "config.toml").write_text("\n".join(lines), "utf-8")
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environment = {**os.environ, "HF_HOME": folder, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([python, "-m", f"text_dedup.{tool}"], cwd=folder, env=environment, capture_output=True,
                              text=True, check=False)  # fmt: skip
        if done.returncode:
            raise SystemExit(f"text-dedup {tool} failed:\n{done.stderr[-3000:]}")
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        files = sorted((Path(folder) / "out").glob("*.arrow"))
        rows = pa.concat_tables([pa.ipc.open_stream(file).read_all() for file in files])
    groups = np.arange(len(texts))
    groups[rows["__INDEX__"].to_numpy()] = rows["__CLUSTER__"].to_numpy()
    return groups, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peer(python: str, tool: str, settings: dict[str, object], texts: pa.Array) -> tuple[Groups, float, float]:
    _, few_seconds, few_cpu = _text_dedup(python, tool, settings, texts[:64])
    groups, seconds, cpu = _text_dedup(python, tool, settings, texts)
    return groups, seconds - few_seconds, cpu - few_cpu


def methods(python: str | None) -> dict[str, Method]:
    found: dict[str, Method] = {name: partial(ours, settings) for name, settings in OURS.items()}
    for name, (tool, settings) in PEERS.items() if python else ():
        found[name] = partial(peer, python, tool, settings)
    return found


def table(labels: Planted, outcome: Outcome, seconds: float, cpu: float) -> dict[str, object]:
    """All figures of one method."""
    everything = np.ones(len(labels.pairs), dtype=np.bool_)

    def score(chosen: NDArray[np.bool_]) -> list[float]:
        return outcome.scores(chosen, labels.pair_of)

    def upto(limit: int) -> list[float]:
        easy = np.array([edit == "form" or float(edit.split()[0]) <= limit for edit in labels.edit.tolist()])
        return percent(int(outcome.found[easy].sum()), int(easy.sum()), len(outcome.wrong))

    return {
        "precision_recall_f1": score(everything),
        "wrong_pairs": len(outcome.wrong),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "limits": {f"up to {limit} %": upto(limit) for limit in (2, 5, 10, 20)},
        "by_edit": {edit: score(labels.edit == edit) for edit in EDITS},
        "by_length": {length: score(labels.length == length) for length in LENGTHS},
        "by_language": {language: score(labels.language == language) for language in np.unique(labels.language)},
        "cells": {
            language: {edit: score((labels.language == language) & (labels.edit == edit)) for edit in EDITS}
            for language in np.unique(labels.language).tolist()
        },
    }


def thresholds(labels: Planted, texts: pa.Array) -> dict[str, dict[str, list[float]]]:
    """Precision, recall, F1 and seconds of the two that verify, at other thresholds."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in ("simhash + verify", "minhash"):
        for verify in THRESHOLDS:
            groups, seconds, _ = ours({**OURS[name], "verify": verify}, texts)
            scores = judged(groups, labels).scores(np.ones(len(labels.pairs), dtype=np.bool_), labels.pair_of)
            found.setdefault(name, {})[str(verify)] = [*scores, round(seconds, 3)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--text-dedup", help="a Python interpreter that has text-dedup")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    labels = planted(options.data, options.seed)
    texts = pa.array(labels.texts, pa.large_string())
    numbers = changed_numbers(options.data, options.seed)
    other_numbers = pa.array([text for pair in numbers for text in pair], pa.large_string())
    results = {}
    for name, method in methods(options.text_dedup).items():
        groups, seconds, cpu = method(texts)
        results[name] = table(labels, judged(groups, labels), seconds, cpu)
        joined, *_ = method(other_numbers)
        results[name]["changed_number_called_equal"] = round(100 * float((joined[::2] == joined[1::2]).mean()), 2)
        print(name, {key: results[name][key] for key in list(results[name])[:5]}, file=sys.stderr)
    touched = planted(options.data, options.seed, digits=True)
    digits = pa.array(touched.texts, pa.large_string())
    result = {
        "texts": len(labels.texts),
        "true_pairs": len(labels.pairs),
        "mean_characters": round(statistics.mean(map(len, labels.texts)), 1),
        "pairs_by_language": {key: int((labels.language == key).sum()) for key in np.unique(labels.language).tolist()},
        "pairs_by_length": {key: int((labels.length == key).sum()) for key in LENGTHS},
        "changed_number_pairs": len(numbers),
        "what_counts": WHAT_COUNTS,
        "methods": results,
        "thresholds": thresholds(labels, texts),
        "edits_hit_digits_too": {
            name: judged(ours(settings, digits, times=1)[0], touched).scores(
                np.ones(len(touched.pairs), dtype=np.bool_), touched.pair_of
            )
            for name, settings in OURS.items()
        },
        "settings": {"ours": OURS, "text-dedup": PEERS},
        "seed": options.seed,
        "command": "python benchmarks/dedup_quality.py" + " --text-dedup PYTHON" * bool(options.text_dedup),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("datasketch", "numba", "numpy", "pyarrow")},
        "python": platform.python_version(),
    }
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps(result, ensure_ascii=False, indent=1)
    text = re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"
    (HERE / "results" / "dedup_quality.json").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()

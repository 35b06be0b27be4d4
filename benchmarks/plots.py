"""Draws the recorded results as small SVG files.

    python benchmarks/plots.py

Needs `pip install matplotlib`. Reads benchmarks/results/*.json, writes docs/img/*.svg.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "docs" / "img"
STYLE = {"svg.hashsalt": "mixture", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "grid.alpha": 0.3, "font.size": 10}  # fmt: skip
METHODS = {
    "simhash + verify": ("o-", "#1b7837"),
    "minhash": ("s-", "#2166ac"),
    "simhash": ("^-", "#7fbf7b"),
    "exact": ("v-", "#999999"),
    "text-dedup minhash": ("s--", "#b2182b"),
    "text-dedup minhash 0.7 + check": ("D--", "#d6604d"),
    "text-dedup simhash": ("^--", "#ef8a62"),
}


def result(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((HERE / "results" / f"{name}.json").read_text("utf-8"))
    return loaded


def save(name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    plt.savefig(IMAGES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close()


def neighbours() -> None:
    """Seconds of both searches by the number of fingerprints, with lines for n and n squared."""
    found = result("neighbours")
    counts = [row["fingerprints"] for row in found["sizes"]]
    plt.figure(figsize=(6, 4))
    for name, style in (("near_duplicates", "o-"), ("near_duplicate_groups", "s-")):
        seconds = [row[name]["cpu_seconds"] for row in found["sizes"]]
        plt.loglog(counts, seconds, style, label=name)
        plt.annotate(f"{seconds[-1]:.1f} s", (counts[-1], seconds[-1]), xytext=(6, -3), textcoords="offset points")
    start = found["sizes"][0]["near_duplicates"]["cpu_seconds"]
    plt.loglog(counts, [start * n / counts[0] for n in counts], ":", color="#999999", label="n")
    square = [n for n in counts if n <= 10 * counts[0]]
    plt.loglog(square, [start * (n / counts[0]) ** 2 for n in square], "--", color="#999999", label="n²")
    plt.xlabel("fingerprints")
    plt.ylabel("processor seconds, 2 cores")
    plt.title(f"All pairs within {found['distance']} bits, skew of real texts ({found['date']})", fontsize=10)
    plt.legend()
    save("neighbours")


def dedup_quality() -> None:
    """F1 by edit rate, and overall F1 against time, of all methods."""
    found = result("dedup_quality")["methods"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), gridspec_kw={"width_ratios": [3, 2]})
    for name, (style, colour) in METHODS.items():
        if name not in found:
            continue
        rates = list(found[name]["by_edit"])
        left.plot(rates, [found[name]["by_edit"][rate][2] for rate in rates], style, color=colour, label=name)
        right.semilogx(found[name]["cpu_seconds"], found[name]["precision_recall_f1"][2], style[0], color=colour)
    left.set_xlabel("edits of the copy")
    left.set_ylabel("F1, %")
    left.legend(fontsize=8)
    right.set_xlabel("processor seconds, all texts")
    right.set_ylabel("F1 over all edit rates, %")
    figure.tight_layout()
    save("dedup_quality")


def memory() -> None:
    """Peak memory against the batch size, with the gradient cache and without."""
    points = result("memory")["points"]
    plt.figure(figsize=(6, 4))
    for kind, style, label in (("cached", "o-", "gradient cache"), ("plain", "s--", "all activations kept")):
        of_kind = [point for point in points if point["kind"] == kind]
        sizes, peaks = ([point[key] for point in of_kind] for key in ("batch_size", "peak_mb"))
        plt.loglog(sizes, peaks, style, label=label)
        for size, peak in zip(sizes, peaks, strict=True):
            plt.annotate(f"{peak:,}", (size, peak), xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
    plt.xlabel("batch size")
    plt.ylabel("peak memory of the process, MB")
    plt.legend()
    save("memory")


def gpu() -> None:
    """A step of ours and of sentence-transformers by batch, and where the time of ours goes."""
    steps = result("gpu")["steps"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), gridspec_kw={"width_ratios": [2, 3]})
    batches = [name for name in ("digests", "agnews") if name in steps["train"] and name in steps["peer"]]
    for shift, step, colour, label in (
        (-0.2, "train", "#1b7837", "ours"), (0.2, "peer", "#b2182b", "sentence-transformers"),
    ):  # fmt: skip
        seconds = [steps[step][name]["seconds"] for name in batches]
        bars = left.bar([place + shift for place in range(len(batches))], seconds, 0.38, color=colour, label=label)
        left.bar_label(bars, fmt="%.2f", fontsize=8)
    left.set_xticks(range(len(batches)), batches)
    left.set_ylabel("seconds a step")
    left.legend(fontsize=8)
    left.set_title(steps["device"]["name"], fontsize=9)
    parts = steps["profile"]["parts"]
    bars = right.barh(list(parts), [100 * share for share in parts.values()], color="#2166ac")
    right.bar_label(bars, fmt="%.0f %%", fontsize=8)
    right.invert_yaxis()
    right.set_xlabel(f"share of a step, {steps['profile']['of']}")
    figure.tight_layout()
    save("gpu")


def main() -> None:
    plt.rcParams.update(STYLE)
    neighbours()
    dedup_quality()
    memory()
    if (HERE / "results" / "gpu.json").is_file():  # nothing before somebody had one
        gpu()


if __name__ == "__main__":
    main()

"""The plots of docs/study.md, from its numbers.

python benchmarks/study --tables --record      needs `pip install matplotlib`
"""

from __future__ import annotations

from typing import Any

from plots import STYLE, plt, save


def draw(result: dict[str, Any]) -> None:
    with plt.rc_context(STYLE | {"font.size": 9}):
        gains(result)
        costs(result)
        dropped(result)
        weights(result)


def gains(result: dict[str, Any]) -> None:
    """Each mixture's difference from uniform with its 95 % interval, student by student."""
    students = {name: one for name, one in result["students"].items() if len(one["rows"]) > 1}
    heights = [len(one["rows"]) for one in students.values()]
    figure, parts = plt.subplots(len(students), 1, figsize=(6.5, 0.19 * sum(heights) + 0.8 * len(students)),
                                 gridspec_kw={"height_ratios": heights}, squeeze=False)  # fmt: skip
    for part, (name, one) in zip(parts[:, 0], students.items(), strict=True):
        rows = {mixture: row["uniform"] for mixture, row in one["rows"].items() if mixture != "uniform"}
        order = sorted(rows, key=lambda mixture: rows[mixture]["difference"])
        for place, mixture in enumerate(order):
            row = rows[mixture]
            colour = "#999999" if row["p"] > 0.05 else "#1b7837" if row["difference"] > 0 else "#b2182b"
            part.plot([row["low"], row["high"]], [place, place], color=colour)
            part.plot(row["difference"], place, "o", color=colour, markersize=4)
        part.axvline(0, color="black", linewidth=0.8)
        part.set_yticks(range(len(order)), order, fontsize=7)
        part.set_title(f"{name}: {one['model']}, {one['seeds']} seeds, {one['steps']} steps", fontsize=9, loc="left")
    parts[-1, 0].set_xlabel("nDCG@10 × 100 over uniform, 95 % interval")
    figure.tight_layout()
    save("study_gains")


def costs(result: dict[str, Any]) -> None:
    """Gain against the processor seconds that learning took, beside longer trainings."""
    one = result["students"]["static"]
    plt.figure(figsize=(6, 3.6))
    for name, row in one["rows"].items():
        learned = result["learning"].get(name, {}).get("processor_seconds")
        if name.startswith("uniform-x"):
            learned = one["seconds"] * (int(name[9:]) - 1)
        if learned is None or "uniform" not in row:
            continue
        longer = name.startswith("uniform-x")
        plt.errorbar(learned, row["uniform"]["difference"], row["uniform"]["error"], fmt="s" if longer else "o",
                     color="#2166ac" if longer else "#1b7837", markersize=4, linewidth=0.8)  # fmt: skip
        plt.annotate(name, (learned, row["uniform"]["difference"]), xytext=(4, 3), textcoords="offset points",
                     fontsize=6)  # fmt: skip
    plt.xscale("log")
    plt.axhline(0, color="black", linewidth=0.8)
    plt.xlabel("processor seconds for the weights, or for the steps beyond uniform's (squares)")
    plt.ylabel("nDCG@10 × 100 over uniform")
    save("study_costs")


def dropped(result: dict[str, Any]) -> None:
    """Quality against the rows that a top-P mixture of tDRO keeps."""
    rows = result["students"]["static"]["rows"]
    points = [rows[name] for name in (f"tdro-top{p}" for p in (50, 60, 70, 80, 90)) if name in rows]
    plt.figure(figsize=(5, 3.2))
    plt.errorbar([100 * (1 - row["dropped"]) for row in points], [row["uniform"]["difference"] for row in points],
                 [row["uniform"]["error"] for row in points], fmt="o-", color="#1b7837",
                 label="top P % of tDRO")  # fmt: skip
    plt.axhline(0, color="black", linewidth=0.8)
    plt.xlabel("rows kept, %")
    plt.ylabel("nDCG@10 × 100 over uniform")
    plt.legend()
    save("study_dropped")


def weights(result: dict[str, Any]) -> None:
    """The weights that proxies and learners give each component."""
    found = result["weights"]
    names = [name for name in ("tdro-relative", "tdro-minilm", "tdro-tiny-qwen2", "chi2", "swarm-holdouts", "swarm-all")
             if name in found and found[name].keys() == found["uniform"].keys()]  # fmt: skip
    components = sorted(found["uniform"], key=lambda one: -found["tdro-relative"][one])
    plt.figure(figsize=(7, 3.6))
    for name, mark in zip(names, "osD^vP", strict=False):
        plt.plot(range(len(components)), [found[name][one] for one in components], mark, markersize=4, label=name)
    plt.axhline(1 / len(components), color="black", linewidth=0.8)
    plt.xticks(range(len(components)), [one.replace("xquad[language=", "xquad[") for one in components], rotation=60,
               ha="right", fontsize=7)  # fmt: skip
    plt.ylabel("weight")
    plt.legend(fontsize=7)
    save("study_weights")

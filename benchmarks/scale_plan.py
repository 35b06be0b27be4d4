"""What 10⁹ passages would take, from what was measured: the tables of docs/scale.md.

    python benchmarks/scale_plan.py            writes the tables into docs/scale.md, between the marks

Each constant is read from a file of `benchmarks/results/`, named beside it, and multiplied. What no file has is an
assumption, and is listed as one; what a benchmark is there for and has not measured stands as "not measured yet".
Nothing of it was run at that size.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gpu_tables import NOTHING, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- scale_plan: begin -->", "<!-- scale_plan: end -->"

# The plan: what there is, and what is assumed.
PASSAGES, QUERIES, COLLECTIONS = 10**9, 10**8, 100
PASSAGE_BYTES, QUERY_BYTES, TOKEN_BYTES = 600, 60, 4
NEGATIVES, STEPS, BATCH = 15, 1_000, 1_024
PARAMETERS, DIMENSIONS = 0.36e9, 896  # Qwen2.5-0.5B without its embeddings
GPU_FLOPS, GPU_HOUR, CORE_HOUR = 4e14, 3.0, 0.045
ASSUMED = [
    ("a processor core for an hour", f"${CORE_HOUR}"),
    ("a GPU for an hour, at 40 % of an H100's 989 TFLOP/s in bf16", f"${GPU_HOUR:.2f}"),
    ("the encoder: 0.36e9 parameters beside its embeddings, 896 dimensions", "2 FLOP a parameter and token"),
    ("a token", f"{TOKEN_BYTES} bytes"),
]


@cache
def result(name: str) -> Any:
    """What a benchmark wrote; None where it was not run yet."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


@dataclass(frozen=True)
class Row:
    """A step: its constant in words, the result that has it, core-hours, GPU-hours, GB that move."""

    step: str
    measured: str
    source: str
    cores: float = 0.0
    gpus: float = 0.0
    moved: float = 0.0

    @property
    def dollars(self) -> float:
        return self.cores * CORE_HOUR + self.gpus * GPU_HOUR


TEXTS = PASSAGES * PASSAGE_BYTES + QUERIES * QUERY_BYTES
PAIRS = QUERIES * PASSAGES / COLLECTIONS  # a query meets the passages of its collection
COMPUTED = "computed, not measured"


def rows() -> list[Row]:
    return [*_texts(), *_of_the_cluster(), *_vectors(), _training()]


def _texts() -> list[Row]:
    least, *_, most = result("ingest")["results"]
    per_gb = (_cpu(most) - _cpu(least)) / (most["gigabytes"] - least["gigabytes"])
    prints = result("fingerprints")
    per_character = prints["cpu_seconds"]["from Arrow, all cores"] / (prints["texts"] * prints["mean_characters"])
    took = {one["fingerprints"]: one["near_duplicate_groups"]["cpu_seconds"] for one in result("neighbours")["sizes"]}
    small, large = sorted(took)[2], max(took)
    power = math.log(took[large] / took[small]) / math.log(large / small)
    return [
        Row("ingest, fingerprints included", f"{per_gb:.1f} core-s a GB", "ingest", per_gb * TEXTS / 1e9 / 3600,
            moved=2 * TEXTS / 1e9),
        Row("of which SimHash fingerprints", f"{1e9 * per_character:.1f} core-ns a character", "fingerprints",
            per_character * TEXTS / 3600),
        Row("near-duplicate groups of all queries in one search", f"{took[large]:.1f} core-s for {large / 1e6:.0f} "
            f"million; grows as n^{power:.2f}", "neighbours", took[large] * (QUERIES / large) ** power / 3600),
    ]  # fmt: skip


def _of_the_cluster() -> list[Row]:
    names = ("`dedup` by collection, a second look included", "materialising")
    found = result("cluster")
    if found is None:
        return [Row(name, NOTHING, "cluster") for name in names]
    first, last = found["dedup"][0], found["dedup"][-1]
    times, growth = last["rows"] / first["rows"], last["dedup_local_s"] / first["dedup_local_s"]
    per_row = 2 * last["dedup_local_s"] / last["rows"]  # two cores
    per_gb = 2 * last["materialise_s"] / last["materialised_mb"] * 1e3
    return [
        Row(names[0], f"{1e6 * per_row:.0f} core-µs a row; {growth:.1f} times for {times:.0f} times the rows",
            "cluster", per_row * QUERIES / 3600, moved=QUERIES * (QUERY_BYTES + 128) / 1e9),
        Row(names[1], f"{per_gb:.0f} core-s a GB", "cluster", per_gb * TEXTS / 1e9 / 3600, moved=2 * TEXTS / 1e9),
    ]  # fmt: skip


def _vectors() -> list[Row]:
    mined, words = result("mining_search"), result("mining_bm25")
    # Two cores.
    rate = mined["queries"] * mined["passages"] * mined["dimensions"] / mined["again"]["seconds"]
    per_pair = words["ours"]["search_processor_s"] / (words["queries"] * words["passages"])
    return [
        Row("encoding", COMPUTED, "", gpus=2 * PARAMETERS * TEXTS / TOKEN_BYTES / GPU_FLOPS / 3600,
            moved=(TEXTS + (PASSAGES + QUERIES) * DIMENSIONS * 2) / 1e9),
        Row("exact dense search in each collection, on processors", f"{rate / 1e9:.0f} GFLOP/s a core", "mining_search",
            PAIRS * DIMENSIONS / (rate / 2) / 3600),
        Row("the same on GPUs, if it were built", COMPUTED, "", gpus=2 * PAIRS * DIMENSIONS / GPU_FLOPS / 3600),
        Row("BM25 instead", f"{1e9 * per_pair:.2f} core-ns a query and passage", "mining_bm25",
            per_pair * PAIRS / 3600),
    ]  # fmt: skip


def _training() -> Row:
    tokens = BATCH * (QUERY_BYTES + (1 + NEGATIVES) * PASSAGE_BYTES) / TOKEN_BYTES
    # Two passes forward, one back that costs two.
    return Row(f"{STEPS:,} steps of {BATCH:,}, {NEGATIVES} negatives, gradient cache", COMPUTED, "",
               gpus=8 * PARAMETERS * tokens * STEPS / GPU_FLOPS / 3600)  # fmt: skip


def _cpu(size: Any) -> float:
    return sorted(run["ingest"]["cpu_seconds"] for run in size["runs"])[len(size["runs"]) // 2]


def shown(value: float) -> str:
    if not value:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def section() -> str:
    costs = [[row.step, row.measured, f"`{row.source}.json`" if row.source else "", shown(row.cores), shown(row.gpus),
              shown(row.moved), shown(row.dollars)] for row in rows()]  # fmt: skip
    return "\n\n".join([
        table(["step", "measured", "in", "core-hours", "GPU-hours", "GB moved", "$"], costs),
        table(["assumed", ""], ASSUMED),
        *_catalog(),
    ])  # fmt: skip


def _catalog() -> list[str]:
    """A catalog of that size, and plans over its rows."""
    found = result("catalog_scale")
    if found is None:
        return [
            "A catalog of 10⁹ rows in 10⁵ files with 10⁴ mixtures (`python benchmarks/catalog_scale.py`): " + NOTHING
        ]
    built = next(iter(found.values()))
    asked = [[name, *(f"{place['seconds'][name]:.2f} s" for place in found.values())] for name in built["seconds"]]
    asked += [["`pin` of one collection", *(f"{place['pin_of_one_collection_s']:.1f} s" for place in found.values())]]
    plan = built["plan"]
    return [
        f"A catalog of {built['rows']:,} rows in {built['files']:,} files of {built['collections']} collections, "
        f"with {built['mixtures']:,} mixtures (`catalog_scale.json`; whole processes, medians):",
        table(["asked", *found], asked),
        table(["BatchPlan over all rows", ""], [
            ["first batch", f"{plan['from the start']['first_s']} s"],
            ["the batch of step 10⁶ in a new process", f"{plan['resumed']['resumed_s']} s"],
            ["the thousand after it, of all collections", f"{plan['resumed']['thousand_more_s']} s"],
            ["memory of the process", f"{plan['resumed']['peak_mb'] / 1e3:.1f} GB"],
        ]),
    ]  # fmt: skip


def filled(page: str) -> str:
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{section()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")

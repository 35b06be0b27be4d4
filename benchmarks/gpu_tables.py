"""Puts the results of `benchmarks/gpu.sh` into benchmarks/results/gpu.json and docs/benchmarks.md.

    python benchmarks/gpu_tables.py OUT/gpu.json     a new result
    python benchmarks/gpu_tables.py                  the page again from the result that is there, or without one

What a result does not have stands in the tables as "not measured yet".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- gpu.json: begin -->", "<!-- gpu.json: end -->"
NOTHING = "not measured yet"


def get(found: Any, *path: str | int) -> Any:
    """What lies at a path in the result; None where there is none."""
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def show(value: Any, form: str = "{}", times: float = 1) -> str:
    return NOTHING if value is None else form.format(value * times if times != 1 else value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(slow: Any, fast: Any) -> float | None:
    return None if slow is None or fast is None else slow / fast


def section(result: dict[str, Any] | None) -> str:
    """What stands between the marks."""
    steps = get(result, "steps")

    def of(*path: str | int) -> Any:
        return get(steps, *path)

    card = of("device", "name")
    versions = of("device", "versions") or {}
    named = ", ".join(f"{name} {number}" for name, number in versions.items() if number != "not installed")
    failed = None if of("tests", "passed") is None else of("tests", "failure") or 0
    largest = ", ".join(f"`{row['operator']}` {row['share']:.0%}" for row in of("profile", "largest") or ()) or None
    lines = [
        f"Card: {show(card)}; {show(get(result, 'date'))}; attention: {show(of('device', 'attention'))}"
        + (f"; {named}." if named else "."),
        "",
        table(
            ("ceiling", "measured", "data sheet"),
            [
                ("bf16 matrix product, TFLOP/s", show(of("device", "matmul_bf16_tflops"), "{:.0f}"),
                 show(of("device", "peak_bf16_tflops"), "{:.0f}")),
                ("copy, GB/s, read and written", show(of("device", "copy_gb_per_second"), "{:.0f}"), ""),
            ],
        ),
        "",
        "A step of `train`, Qwen2-0.5B's shape, 2,048 queries with a positive and 7 negatives, at most 128 and 512 "
        "tokens, bf16:",
        "",
        table(
            ("batch", "ours", "tokens a second", "share of bf16 peak", "sentence-transformers", "times as fast"),
            [
                (name, show(of("train", name, "seconds"), "{:.2f} s"),
                 show(of("train", name, "tokens_per_second"), "{:,}"),
                 show(of("train", name, "share_of_peak"), "{:.1f} %", 100),
                 show(of("peer", name, "seconds"), "{:.2f} s"),
                 show(ratio(of("peer", name, "seconds"), of("train", name, "seconds")), "**{:.2f}**"))
                for name in ("digests", "agnews")
            ],
        ),
        "",
        table(
            ("of that step", "ours", "sentence-transformers"),
            [
                ("waited for data", show(of("train", "share_waited_for_data"), "{:.2f} %", 100), ""),
                ("peak memory", show(of("train", "peak_memory_gib"), "{} GiB"),
                 show(of("peer", "peak_memory_gib"), "{} GiB")),
                ("tokens of a micro-batch, and kept", show(of("train", "budget", "per_pass"), "{:,}") + ", "
                 + show(of("train", "budget", "kept"), "{:,}"), ""),
                ("best mini-batch, texts", "", show(of("peer", "best"))),
            ],
        ),
        "",
        table(
            ("other", "ours", "beside", "ratio"),
            [
                ("tDRO step, nothing of the reference cached", show(of("tdro", "tdro", "seconds"), "{:.2f} s"),
                 "plain step " + show(of("tdro", "plain", "seconds"), "{:.2f} s"),
                 show(of("tdro", "times_plain"), "{:.2f}")),
                ("MiniLM's shape, batch 1,024, 128 and 256 tokens", show(of("minilm", "ours", "seconds"), "{:.3f} s"),
                 "sentence-transformers " + show(of("minilm", "peer", "digests", "seconds"), "{:.3f} s"),
                 show(ratio(of("minilm", "peer", "digests", "seconds"), of("minilm", "ours", "seconds")), "{:.2f}")),
                ("the same, share of its time spent waiting for data", show(of("minilm", "share_waited_for_data"),
                 "{:.1f} %", 100), "", ""),
                ("encoding for mining, texts a second", show(of("encode", "ours", "texts_per_second"), "{:,}"),
                 "`SentenceTransformer.encode`", show(of("encode", "times_the_peer"), "{:.2f}")),
                ("exact search, 10,000 in 1 million × 384", show(of("search", "seconds"), "{:.2f} s"),
                 "product and topk alone " + show(of("search", "product_and_topk_seconds"), "{:.2f} s"),
                 show(ratio(of("search", "seconds"), of("search", "product_and_topk_seconds")), "{:.2f}")),
                ("tests that need a GPU: passed, failed", show(of("tests", "passed")), show(failed), ""),
                ("sharded over NCCL, one rank", show(of("fsdp", "sharded", "seconds"), "{:.3f} s"),
                 "whole " + show(of("fsdp", "whole", "seconds"), "{:.3f} s"),
                 show(ratio(of("fsdp", "sharded", "seconds"), of("fsdp", "whole", "seconds")), "{:.2f}")),
            ],
        ),
        "",
        f"The operators that take most of a step's time on the GPU: {show(largest)}.",
    ]  # fmt: skip
    return "\n".join(lines)


def filled(page: str, result: dict[str, Any] | None) -> str:
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{section(result)}\n{END}{after}"


def recorded() -> dict[str, Any] | None:
    loaded: dict[str, Any] | None = json.loads(RESULT.read_text("utf-8")) if RESULT.is_file() else None
    return loaded


def main() -> None:
    if len(sys.argv) > 1:
        text = Path(sys.argv[1]).read_text("utf-8")
        shape, device = json.loads(text)["shape"], get(json.loads(text), "steps", "device", "name")
        if shape == "tiny" or device is None or device.startswith("no GPU"):
            raise SystemExit(f"{sys.argv[1]} is a rehearsal ({shape}, {device}): its times are no result")
        RESULT.write_text(text, "utf-8")
    PAGE.write_text(filled(PAGE.read_text("utf-8"), recorded()), "utf-8")


if __name__ == "__main__":
    main()

"""Which paraphrases each dedup method finds, and how often it takes two questions for one.

    python benchmarks/paraphrases.py [--data DIR] [--model all-MiniLM-L6-v2] [--rows 1500]

Two sets of pairs that people wrote. `disflqa`: a question of SQuAD 2.0 as it is written and as it might be spoken, with
a false start. Among them are questions that differ in a word such as "not", which ask for other things. `asset`: a
sentence of Wikipedia and a simpler one that says the same. True pairs are those of one row; all others are wrong. Each
method puts the texts into groups; two texts in one group are a pair that it calls equal. Times are those of encoding.
Writes benchmarks/results/paraphrases.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from dedup_quality import pairs_of, percent

import trainers
from mixture.dedup import normalise_text
from mixture.dedup.duplicates import duplicate_groups
from mixture.embeddings import Encode

HERE = Path(__file__).resolve().parent
THRESHOLDS = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8)
Pairs = list[tuple[str, str]]


def disflqa(data: Path) -> Pairs:
    table = pq.read_table(data / "raw" / "disflqa" / "train-00000-of-00001.parquet")
    return list(zip(table["anchor"].to_pylist(), table["positive"].to_pylist(), strict=True))


def asset(data: Path) -> Pairs:
    with gzip.open(data / "raw" / "asset" / "asset.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [tuple(json.loads(line)["set"][:2]) for line in lines]  # type: ignore[misc]


def chosen(pairs: Pairs, rows: int) -> Pairs:
    """The first rows of which no text has the normal form of an earlier one."""
    seen: set[str] = set()
    found = []
    for pair in pairs:
        forms = {normalise_text(text) for text in pair}
        if len(forms) == 2 and not forms & seen:
            seen |= forms
            found.append(pair)
    return found[:rows]


def encoded(encoder: Encode, texts: list[str]) -> Encode:
    """An encoder that has encoded these texts already."""
    kept = dict(zip(texts, encoder(texts, "query"), strict=True))
    return lambda some, kind: np.array([kept[text] for text in some])


def scores(pairs: Pairs, **settings: Any) -> list[float]:
    """Precision, recall and F1 in percent."""
    found = pairs_of(duplicate_groups([text for pair in pairs for text in pair], **settings)) // 2
    right = int((found[:, 0] == found[:, 1]).sum())
    return percent(right, len(pairs), len(found) - right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--rows", type=int, default=1500)
    options = parser.parse_args()
    encoder = trainers.encode_with(options.model)
    sets: dict[str, Any] = {}
    for name, read in (("disflqa", disflqa), ("asset", asset)):
        pairs = chosen(read(options.data), options.rows)
        started = time.perf_counter()
        encode = encoded(encoder, [text for pair in pairs for text in pair])
        seconds = time.perf_counter() - started
        results = {method: scores(pairs, method=method) for method in ("simhash", "minhash")}
        results["minhash, verify 0.5"] = scores(pairs, method="minhash", verify=0.5)
        for least in THRESHOLDS:
            results[f"semantic {least}"] = scores(pairs, method="semantic", similarity=least, encode=encode)
        sets[name] = {"pairs": len(pairs), "seconds_to_encode": round(seconds, 1), "precision_recall_f1": results}
    result = {
        "model": options.model,
        "sets": sets,
        "command": "python benchmarks/paraphrases.py",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
    }
    text = json.dumps(result, ensure_ascii=False, indent=1)
    text = re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"
    (HERE / "results" / "paraphrases.json").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()

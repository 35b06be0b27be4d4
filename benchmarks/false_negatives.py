"""How many unlabelled answers become negatives, and what true hard negatives each filter costs.

    python benchmarks/false_negatives.py [--data DIR] [--miners bm25,all-MiniLM-L6-v2] [--seed 1]

300 queries of three real collections get a second correct passage that is not labelled as theirs. It is the positive of
another query, as where two sources copy one text:
  asset     a sentence and one of its ten human simplifications; planted is a second simplification (a paraphrase)
  xquad-en  a question and its paragraph; planted is the paragraph, each tenth word dropped, doubled or replaced
  pubmedqa  the same with each fifth word, and a sentence of another abstract before it
A planted passage that is among the 8 negatives of its query has slipped through. What each filter costs is counted
among the negatives that are mined without filters, the planted ones left out. These are the best 8, so that ranks 10 to
100 lose them all. Writes `benchmarks/results/false_negatives.json`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from negatives import cosines, remembering

import trainers
from mixture import Store, jobs

HERE = Path(__file__).resolve().parent
PLANTED, OTHERS = 100, 900
OFF: dict[str, Any] = dict.fromkeys(("max_ratio", "near_copies"))
ALL = {"max_ratio": 0.95, "margin": 0.05, "near_copies": 0.6, "containing": 24}
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "max_ratio=0.95": {"filters": {"max_ratio": 0.95}},
    "margin=0.05": {"filters": {"margin": 0.05}},
    "near_copies=0.6": {"filters": {"near_copies": 0.6}},
    "containing=24": {"filters": {"containing": 24}},
    "ranks=10:100": {"ranks": (10, 100)},
    "the default": {"default": True},
    "all but ranks": {"filters": ALL},
    "all": {"filters": ALL, "ranks": (10, 100)},
}
RESCORED = "rescored by MiniLM, max_ratio=0.95, near_copies=0.6"


def edited(text: str, share: float, draw: random.Random) -> str:
    """A copy of which this share of the words was dropped, doubled or replaced by another one of the text."""
    words, found = text.split(), []
    for word in words:
        change = draw.choice(("drop", "double", "replace")) if draw.random() < share else ""
        found += [] if change == "drop" else [word, word] if change == "double" else [
            draw.choice(words) if change == "replace" else word]  # fmt: skip
    return " ".join(found)


def rows_of(data: Path, name: str, draw: random.Random) -> Iterator[tuple[str, str, str, str]]:
    """(query, its positive, a second answer, another query that this answers)."""
    if name == "asset":
        with gzip.open(data / "raw/asset/asset.jsonl.gz", "rt") as lines:
            for line in lines:
                first, *rest = json.loads(line)["set"]
                if len({first, *rest}) > 4:
                    one, two, three = draw.sample(sorted({*rest} - {first}), 3)
                    yield first, one, two, three
    elif name == "xquad-en":
        by_text: dict[str, list[str]] = {}
        for line in (data / "raw/xquad/xquad.en.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            by_text.setdefault(row["positive_passages"][0]["text"], []).append(row["query"])
        for text, queries in by_text.items():
            for query in queries[: len(queries) // 2 * 2 : 2]:
                yield query, text, edited(text, 0.1, draw), queries[queries.index(query) + 1]
    else:
        pairs = [json.loads(line) for line in (data / "raw/pubmedqa/pubmedqa.jsonl").read_text("utf-8").splitlines()]
        texts = [" ".join(row["pos"]) for row in pairs]
        for number, row in enumerate(pairs):
            other = (number + 7) % len(pairs)
            start = ". ".join(texts[other].split(". ")[:1])
            yield row["query"], texts[number], f"{start}. {edited(texts[number], 0.2, draw)}", f"{row['query']} Why?"


def write(data: Path, folder: Path, seed: int) -> dict[str, dict[str, str]]:
    """The collections as files; of each, query -> the planted text."""
    planted: dict[str, dict[str, str]] = {}
    for name in ("asset", "xquad-en", "pubmedqa"):
        draw = random.Random(f"{seed} {name}")
        found = list(rows_of(data, name, draw))
        draw.shuffle(found)
        lines = []
        for number, (query, positive, second, other) in enumerate(found[: PLANTED + OTHERS]):
            lines.append({"query": query, "pos": [positive]})
            if number < PLANTED:
                lines.append({"query": other, "pos": [second]})
                planted.setdefault(name, {})[query] = second
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return planted


def mined(store: Store, name: str, encode: Any, options: dict[str, Any]) -> dict[str, set[str]]:
    """Query -> the texts of its negatives."""
    given = dict(options)
    if not given.pop("default", False):
        given["filters"] = OFF | given.get("filters", {})
    jobs.mine(store, miner="bm25" if encode is None else "dense:it", encode=encode, per_query=8, depth=100,
              fill_random=False, replace=True, **given)  # fmt: skip
    rows = store.rows("SELECT query, text FROM negatives JOIN examples USING (collection, example_id)"
                      " JOIN passages USING (collection, passage_id)")  # fmt: skip
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["query"], set()).add(row["text"])
    jobs.undo_mining(store)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--miners", default="bm25,all-MiniLM-L6-v2")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    table: dict[str, Any] = {}
    miners = options.miners.split(",")
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store", create=True) as store:
        planted = write(options.data, Path(folder), options.seed)
        jobs.ingest(store, [str(Path(folder) / f"{name}.jsonl") for name in planted])
        encoders = {name: remembering(trainers.encode_with(name)) for name in {"all-MiniLM-L6-v2", *miners} - {"bm25"}}
        minilm = encoders["all-MiniLM-L6-v2"]

        for miner in miners:
            encode = encoders.get(miner)
            chosen = dict(SETTINGS)
            if encode is None:
                chosen[RESCORED] = {"filters": {"max_ratio": 0.95, "near_copies": 0.6}, "rescore": cosines(minilm)}
            bare = mined(store, miner, encode, SETTINGS["none"])
            answers = {query: text for own in planted.values() for query, text in own.items()}
            for title, given in chosen.items():
                found = bare if title == "none" else mined(store, miner, encode, given)
                slipped = {name: 100 * sum(text in found.get(query, ()) for query, text in own.items()) / len(own)
                           for name, own in planted.items()}  # fmt: skip
                kept = lost = 0
                for query, texts in bare.items():
                    true = texts - {answers.get(query, "")}
                    kept += len(true)
                    lost += len(true - found.get(query, set()))
                row = {"slipped": {n: round(v, 1) for n, v in slipped.items()},
                       "all": round(float(np.mean(list(slipped.values()))), 1), "lost": round(100 * lost / kept, 1),
                       "negatives": sum(map(len, found.values()))}  # fmt: skip
                table.setdefault(miner, {})[title] = row
                cells = " | ".join(f"{row['slipped'][name]:.1f}" for name in planted)
                print(f"| {miner} | {title} | {cells} | {row['all']:.1f} | {row['lost']:.1f} |", flush=True)
    result = {"command": " ".join(["python", *sys.argv]), "date": datetime.now(UTC).date().isoformat(), "table": table}
    (HERE / "results" / "false_negatives.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

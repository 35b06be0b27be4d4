"""The texts of the GPU benchmark, in a folder that a machine without the store, duckdb and a network can use.

`mixture/` is a materialised mixture of real collections, BM25 negatives included, and of `digests`: 2,304 examples with
8 passages of their own each, so that a batch of 2,048 repeats no text. A digest is a run of real passages joined and
cut to a length drawn from a log-normal distribution (median 400 characters, sigma 0.8, at most 2,600), as passages of
retrieval collections are: mostly short, some long. `tokenizer/` is trained on all of them. No model weights.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import shapes

from mixture import jobs, registry
from mixture.materialised import MaterialisedMixture
from mixture.store import Store
from mixture.store.materialise import materialise

CARDS = Path(__file__).resolve().parent / "cards"
COLLECTIONS = ("agnews", "cose", "covidqa", "pubmedqa")
SOURCES = (*COLLECTIONS, "altlex")  # of the digests' texts
EXAMPLES, PASSAGES = 2_304, 8
MEDIAN, SIGMA, LONGEST = 400, 0.8, 2_600  # characters
LONGEST_QUERY = 200  # characters: the peer knows one limit of tokens for queries and passages, so none may be cut


def prepare(data: Path, folder: Path, *, examples: int = EXAMPLES, passages: int = PASSAGES) -> MaterialisedMixture:
    """Write the folder from the collections in `data`/raw; those that are not there are left out."""
    found = [data / "raw" / name for name in SOURCES if (data / "raw" / name).exists()]
    with tempfile.TemporaryDirectory() as scratch, Store.open(Path(scratch) / "store", create=True) as store:
        jobs.ingest(store, [str(path) for path in found], cards=CARDS)
        texts = [row["text"] for row in store.rows("SELECT DISTINCT text FROM passages ORDER BY text")]
        short = f"SELECT DISTINCT query FROM examples WHERE length(query) <= {LONGEST_QUERY} ORDER BY query"
        queries = [row["query"] for row in store.rows(short)]
        file = Path(scratch) / "digests.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            for row in digests(texts, queries, examples, passages):
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        jobs.ingest(store, [str(file)])
        jobs.mine(store, tuple(name for name in COLLECTIONS if data / "raw" / name in found), miner="bm25",
                  per_query=8, seed=42)  # fmt: skip
        parts = {name: part for name, part in registry.pin(store).items() if name != "altlex"}
        mixture = materialise(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), folder / "mixture")
    shapes.train_tokenizer(mixture).save_pretrained(folder / "tokenizer")
    return mixture


def digests(
    texts: Sequence[str], queries: Sequence[str], examples: int, passages: int, seed: int = 42
) -> Iterator[dict[str, object]]:
    """Rows of query, pos and neg; queries are real ones, each with a number behind it so that none is repeated."""
    draw = random.Random(seed)

    def digest() -> str:
        wanted, joined = min(LONGEST, int(draw.lognormvariate(0, SIGMA) * MEDIAN)), ""
        while len(joined) < wanted:
            joined += f" {draw.choice(texts)}"
        return joined[: max(20, wanted)].strip()

    for number in range(examples):
        first, *others = (digest() for _ in range(passages))
        yield {"query": f"{draw.choice(queries)} ({number})", "pos": [first], "neg": others}

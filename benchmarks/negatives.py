"""Which negatives help? A student fine-tuned on real collections that come without any, with negatives of each kind.

    python benchmarks/negatives.py [--data DIR] [--model static] [--steps 400] [--seeds 3] [--collections NAME,...]
                                   [--kinds NAME;...]

The four collections have suites of their own. A training takes one of them, by the recipe `static` with 7 negatives of
15, or else by `laptop` made small enough for a pretrained transformer on a CPU (`SMALL`). Dense is all-MiniLM-L6-v2. No
pretrained cross-encoder is at hand, so that MiniLM rescores BM25's candidates. `random` is a search with random
embeddings. Scores are nDCG@10 x 100 on the whole suite. Writes `benchmarks/results/negatives_MODEL.json` and a Markdown
table.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import trainers
from mixture import Store, jobs
from trainers.settings import resolve

HERE = Path(__file__).resolve().parent
SUITES = {"cmrc2018": "cmrc2018", "pubmedqa": "pubmedqa", "agnews": "agnews", "disflqa": "disflqa"}
UNFILTERED = dict.fromkeys(("max_ratio", "near_copies"))
MINILM = "all-MiniLM-L6-v2"
SMALL = {"learning_rate": 2e-5, "batch_size": 16, "negatives": 3, "max_query_tokens": 51, "max_passage_tokens": 64}


def remembering(encode: Any) -> Any:
    """The encoder, which encodes each text once."""
    known: dict[tuple[str, str], np.ndarray] = {}

    def embed(texts: list[str], kind: str) -> np.ndarray:
        if new := sorted({text for text in texts if (kind, text) not in known}):
            known.update(((kind, text), vector) for text, vector in zip(new, encode(new, kind), strict=True))
        return np.stack([known[kind, text] for text in texts])

    return embed


def cosines(encode: Any) -> Any:
    """The encoder as a rescorer of pairs."""

    def cosine(pairs: list[tuple[str, str]]) -> np.ndarray:
        texts = [sorted({pair[side] for pair in pairs}) for side in (0, 1)]
        places = [{text: n for n, text in enumerate(some)} for some in texts]
        vectors = [encode(texts[0], "query"), encode(texts[1], "passage")]
        return np.array([vectors[0][places[0][q]] @ vectors[1][places[1][p]] for q, p in pairs])

    return cosine


def kinds(encode: Any) -> dict[str, dict[str, Any] | None]:
    """Name -> how negatives are mined; None: not at all, so that a batch's other passages are all there is."""

    def random(texts: list[str], kind: str) -> np.ndarray:
        found = np.random.default_rng(len(texts)).standard_normal((len(texts), 8)).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return {
        "none, in-batch alone": None,
        "random": {"miner": "random", "encode": random, "filters": UNFILTERED},
        "BM25, no filters": {"filters": UNFILTERED},
        "BM25": {},
        "BM25, ranks 10:100, random sample": {"ranks": (10, 100), "sample": "random"},
        "BM25 rescored by MiniLM": {"rescore": cosines(encode), "filters": {"max_ratio": 0.95}},
        "dense, no filters": {"miner": "dense:it", "encode": encode, "filters": UNFILTERED},
        "dense": {"miner": "dense:it", "encode": encode},
        "dense, max_ratio 0.85": {"miner": "dense:it", "encode": encode, "filters": {"max_ratio": 0.85}},
        "dense, ranks 10:100, random sample": {"miner": "dense:it", "encode": encode, "ranks": (10, 100),
                                               "sample": "random"},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--model", default="static")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--collections", default=",".join(SUITES))
    parser.add_argument("--kinds", default="")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    names = options.collections.split(",")
    table: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        with Store.open(plain, create=True) as store:
            jobs.ingest(store, [options.data / "raw" / name for name in names], cards=HERE / "cards")
            jobs.dedup(store)
            jobs.decontaminate(store, [options.data / "eval" / SUITES[name] for name in names])
        for kind, given in kinds(remembering(trainers.encode_with(MINILM))).items():
            if options.kinds and kind not in options.kinds.split(";"):
                continue
            work = Path(folder) / "work"
            shutil.copytree(plain, work)
            with Store.open(work) as store:
                if given is not None:
                    jobs.mine(store, per_query=15, **given)
                for name in names:
                    jobs.create(store, name, collections=[name])
                    for seed in range(options.seeds):
                        chosen = {"steps": options.steps, "seed": seed, "tracker": "none", "negatives": 7}
                        recipe = "static" if options.model == "static" else "laptop"
                        chosen |= SMALL if recipe == "laptop" else {}
                        settings = resolve(trainers.FinetuneSettings, recipe, chosen)
                        out = Path(folder) / "model"
                        made = trainers.train(store, name, options.model, out=out, settings=settings,
                                              suites=options.data / "eval" / SUITES[name])  # fmt: skip
                        score = 100 * made.scores[0]["metrics"]["ndcg@10"]
                        table.setdefault(kind, {}).setdefault(name, []).append(score)
                        shutil.rmtree(out)
                        gc.collect()
            shutil.rmtree(work)
            cells = " | ".join(f"{np.mean(v):.1f} ± {np.std(v, ddof=1):.1f}" for v in table[kind].values())
            print(f"| {kind} | {cells} | {np.mean(list(table[kind].values())):.1f} |", flush=True)
    result = {"command": " ".join(["python", *sys.argv]), "date": datetime.now(UTC).date().isoformat(), "table": table}
    (HERE / "results" / f"negatives_{options.model}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

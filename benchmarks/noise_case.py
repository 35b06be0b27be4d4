"""The noise case: a mixture to which copies of some of its collections are added, their positives shuffled.

    python benchmarks/noise_case.py STORE [--data ../shared/data] [--seeds 42,43,44] [--extremes 3] [--out FILE]

In a shuffled copy every query has the positives of another one, so nothing of it can be learned that holds for a new
row. `mixture ablate` must name these three, and no other. STORE is one that holds the mixture `uniform`; the copies and
the mixture `noisy` are added to it. Without --extremes no whole training is done, and no branches are merged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mixture import jobs, registry, transfers
from mixture.registry import SavedMixture
from mixture.store import Store, read

HERE = Path(__file__).resolve().parent
SHUFFLED = ("agnews", "cmrc2018", "cose")
SUFFIX = "-shuffled"


def add_noise(
    store: Store, mixture: str = "uniform", names: tuple[str, ...] = SHUFFLED, *, name: str = "noisy", seed: int = 42
) -> SavedMixture:  # fmt: skip
    """Add shuffled copies of the collections `names` to the store, mine their negatives as for any other, and save
    the mixture of `mixture` and these, all of equal weight, as `name`. Called again, it finds all that."""
    there = read.names(store)
    for place, collection in enumerate(names):
        if collection + SUFFIX in there:
            continue
        pairs, passages = read.pairs(store, collection), read.passages(store, collection)
        text = dict(zip(passages["passage_id"].to_pylist(), passages["text"].to_pylist(), strict=True))
        queries = pairs["query"].to_pylist()
        positives = [[text[key] for key in keys] for keys in pairs["positives"].to_pylist()]
        prompt = read.collections(store, [collection])[0].prompts[0]
        # The next one of a random order has another's positive in every row.
        order = np.random.default_rng((seed, place)).permutation(len(queries))
        rows = [{"query": queries[a], "pos": positives[b], "neg": [], "prompt": prompt}
                for a, b in zip(order, np.roll(order, 1), strict=True)]  # fmt: skip
        jobs.ingest(store, rows, name=collection + SUFFIX)
    jobs.mine(store)
    noise = registry.pin(store, [collection + SUFFIX for collection in names]).values()
    parts = [*registry.resolve(store, mixture).spec.components, *noise]
    return registry.save(store, transfers.uniform(parts), name, note=f"{mixture} and shuffled {', '.join(names)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA", "../shared/data")))
    parser.add_argument("--seeds", default="42,43,44", help="of an ablation each")
    parser.add_argument("--extremes", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "noise_case.json")
    options = parser.parse_args()

    import trainers
    from trainers.settings import resolve

    result: dict[str, Any] = {"shuffled": SHUFFLED, "date": datetime.now(UTC).date().isoformat(),
                              "command": " ".join(["python", "benchmarks/noise_case.py", *sys.argv[1:]]),
                              "ablations": []}  # fmt: skip
    with Store.open(options.store) as store:
        noisy = add_noise(store)
        for seed in map(int, options.seeds.split(",")):
            settings = resolve(trainers.FinetuneSettings, "static", {"seed": seed}, ["tracker=none"])
            clock = time.perf_counter(), time.process_time()
            found = trainers.ablate(
                store, noisy, "static", [options.data / "eval"], settings=settings, half="report",
                screen="merged" if options.extremes else "none", extremes=options.extremes,
                stage=lambda _: lambda done, total, what: print(done, total, what, file=sys.stderr, flush=True),
            )  # fmt: skip
            named = found.named("at chance")
            result["ablations"].append({
                "seed": seed, "named": named, "right": sorted(named) == [name + SUFFIX for name in SHUFFLED],
                "seconds": round(time.perf_counter() - clock[0], 1),
                "processor_seconds": round(time.process_time() - clock[1], 1), "lines": found.lines,
                "effects": [{k: v for k, v in asdict(one).items() if v is not None} for one in found.effects],
            })  # fmt: skip
            options.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(json.dumps([{k: one[k] for k in ("seed", "named", "right")} for one in result["ablations"]], indent=1))


if __name__ == "__main__":
    main()

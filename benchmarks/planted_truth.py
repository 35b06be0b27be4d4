"""Which collections do the measurements reward? Three collections whose truth is known, three seeds.

    python benchmarks/planted_truth.py [--steps 90] [--seeds 54,55,56] [--rows relative,drpruning] [--out FILE]

The rows are in a made-up language of 64 words and its translation word by word, generated here:
  easy    the positive is the query itself: solved by any encoder
  hard    the positive is the query translated, in another order: no word in common, unsolved at first, learnable
  noise   rows like those of hard, their positives dealt out at random: nothing to learn

What is expected of each measurement, and why, in three cases:

sure     no model sees a row twice; the reference is trained six times as long as the proxy, until it has solved hard
  relative        noise > hard > easy. An example that the reference has solved counts next to nothing (the floor), so
                  the measurement is in effect the share of a collection that the reference has not solved.
  relative_group  hard > noise. The ratio of the mean losses is largest where the reference is far ahead of the proxy;
                  with noise it is 1 or less. (easy is a ratio of two losses near 0 and may land anywhere.)
  excess          hard > noise > easy. Reference and proxy are equally lost in noise; but the excess is cut off at 0
                  example by example, so noise keeps what chance gives, and there is little to be ahead in with easy.
  loss            noise > hard > easy: without a reference what cannot be learned looks like what is worth learning.

equal    the same, with a reference trained as long as the proxy, as `learn-weights` and the paper do
  relative        hard > noise > easy: the reference has solved little of hard, so its examples count, and there it is
                  ahead of the proxy until the end.
  the others      as before, by less.

by heart 150 rows, which a reference trained three times as long sees about 20 times and learns by heart, noise and all
  excess          noise > hard > easy: the reference loses nothing anywhere, so this becomes `loss`.
  relative, loss  noise > hard > easy.
  relative_group  nothing can be said: ratios to losses near 0.

Two rows use no reference model, so that `sure` and `equal` are one case for them: tDRO's measurement `forecast` and
the algorithm `drpruning`. Both look at how far a collection's own loss curve is forecast to fall.
  sure      hard > noise, and noise below its uniform third: the curve of hard falls until the end, that of noise is
            flat once the proxy is no longer sure of wrong answers. easy falls early and may land anywhere.
  by heart  noise > easy. The proxy sees each row six times, so noise falls as well, being learned by heart.
Before that `hard > noise > easy` was expected of both in `sure`. While the learner was made, nine variants of drpruning
were replayed on losses recorded at seeds 40 to 43 under equal weights: the excess that of a running loss (newest 0.1 or
0.3) or of the fitted curve, curves from 2, 10 or 20 % of the steps on. Noise got more than a third in 4, 3, 1 (running,
0.1), 4, 3, 2 (running, 0.3) and 1, 0, 0 (fitted) of the 4 seeds. The last was taken; there easy came before noise each
time. Seeds 54 to 56 are the first for what is expected now, and were run once.

How the predictions came about: with some hundred rows of `mixture.fixtures` the first prediction for `relative` (hard >
noise > easy) was refuted by seeds 42 to 44: it forgot that the floor takes the solved examples of hard out. noise >
hard > easy then held for 5 of the 6 seeds 45 to 50, and hard > noise for `excess` for 7 of 9: in the last two the
reference had learned the noise by heart. Hence generated rows. With these and a reference three times as long, seeds 51
to 53 (`results/planted_truth_51.json`, with a floor of a fifth of the mean) confirmed every prediction 3 of 3 but
`relative`, 2 of 3: how much of hard the reference has solved decides. Hence the cases sure and equal; these seeds are
the first for them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mixture import Store, jobs, registry
from trainers.finetune import FinetuneSettings, finetune
from trainers.jobs.learn import learn_weights
from trainers.jobs.runs import materialised
from trainers.learning.config import LearningSettings
from trainers.model.names import resolve_model

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
VOCABULARY = 64
WORDS = 6  # of a text
Orders = dict[str, tuple[str, ...]]
SURE: Orders = {
    "relative": ("noise", "hard", "easy"),
    "relative_group": ("hard", "noise"),
    "excess": ("hard", "noise", "easy"),
    "loss": ("noise", "hard", "easy"),
}
# Of these rows no measurement of a reference is taken.
OTHERS: dict[str, dict[str, Any]] = {"forecast": {"measurement": "forecast"}, "drpruning": {"algorithm": "drpruning"}}
EQUAL: Orders = SURE | {"relative": ("hard", "noise", "easy")}
BY_HEART: Orders = dict.fromkeys(SURE, ("noise", "hard", "easy")) | {"relative_group": ()}
SURE |= dict.fromkeys(OTHERS, ("hard", "noise"))
BY_HEART |= dict.fromkeys(OTHERS, ("noise", "easy"))


@dataclass(frozen=True)
class Case:
    """How many rows a collection has, how many times as long as the proxy its reference trains, what is expected."""

    num_rows: int
    times: int
    expected: Orders


CASES = {"sure": Case(6000, 6, SURE), "equal": Case(6000, 1, EQUAL), "by heart": Case(150, 3, BY_HEART)}
COMMON: dict[str, Any] = {"batch_size": 32, "negatives": 3, "temperature": 0.05, "learning_rate": 1e-3,
                          "warmup_steps": 10, "max_query_tokens": 64, "max_passage_tokens": 48}  # fmt: skip


def write_collections(folder: Path, seed: int, num_rows: int) -> None:
    """easy.jsonl, hard.jsonl, noise.jsonl, each of `num_rows` rows with 6 negatives."""
    draw = random.Random(seed)
    words = [first + second for first in SYLLABLES for second in SYLLABLES]
    draw.shuffle(words)
    translation = dict(zip(words[:VOCABULARY], words[VOCABULARY : 2 * VOCABULARY], strict=True))

    def pairs() -> list[tuple[str, str]]:
        queries = [draw.sample(list(translation), WORDS) for _ in range(num_rows)]
        return [(" ".join(q), " ".join(translation[word] for word in draw.sample(q, WORDS))) for q in queries]

    noise = pairs()
    dealt = draw.sample([passage for _, passage in noise], num_rows)
    by_name = {
        "easy": [(query, query) for query, _ in pairs()],
        "hard": pairs(),
        "noise": [(query, passage) for (query, _), passage in zip(noise, dealt, strict=True)],
    }
    for name, rows in by_name.items():
        passages = [passage for _, passage in rows]
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            for query, passage in rows:
                negatives = [text for text in draw.sample(passages, 7) if text != passage][:6]
                row = {"prompt": "translate", "query": query, "pos": [passage], "neg": negatives}
                out.write(json.dumps(row) + "\n")


def one_run(folder: Path, seed: int, steps: int, case: Case) -> dict[str, Any]:
    """By measurement: the weights, the mean losses in the second half, and the collections that users are warned of."""
    write_collections(folder, seed, case.num_rows)
    found: dict[str, Any] = {}
    with Store.open(folder / "store", create=True) as store:
        jobs.ingest(store, [str(folder / f"{name}.jsonl") for name in ("easy", "hard", "noise")])
        parts = registry.pin(store, [])
        uniform = registry.save(store, registry.weighted(parts, dict.fromkeys(parts, 1 / 3)), "uniform")
        data = materialised(store, uniform.spec)
        base = resolve_model(store.work, data, "tiny-qwen2", seed=seed)
        reference = folder / "reference"
        chosen = {name: LearningSettings(**COMMON, steps=steps, seed=seed, **OTHERS.get(name, {"measurement": name}))
                  for name in case.expected}  # fmt: skip
        if any(settings.uses_reference for settings in chosen.values()):
            finetune(data, base, FinetuneSettings(**COMMON, steps=case.times * steps, seed=seed), reference)
        for measurement, settings in chosen.items():
            known = reference if settings.uses_reference else None
            made = learn_weights(store, uniform, proxy=base, name=measurement, reference=known, settings=settings)
            last = store.sql(
                """SELECT collection, avg(proxy_loss) AS proxy, avg(reference_loss) AS reference,
                          avg(measurement) AS measurement
                   FROM weight_history h JOIN mixtures m USING (run_id)
                   WHERE m.mixture = ? AND step > ? GROUP BY ALL ORDER BY ALL""",
                [made.first.spec.id, steps // 2],
            ).to_pylist()
            (facts,) = made.facts["runs"].values()
            found[measurement] = {
                "weights": dict(made.first.spec.weights), "second_half": last, "told": sorted(facts["hard_for_both"]),
            }  # fmt: skip
            sys.stderr.write(f"seed {seed}, {case.num_rows} rows, {measurement}: {made.first.spec.weights}\n")
    return found


def summary(by_seed: dict[int, dict[str, Any]], expected: Orders) -> dict[str, Any]:
    """By measurement: mean weights over the seeds, and in how many of them the order was the expected one."""
    table = {}
    for measurement, order in expected.items():
        weights = [found[measurement]["weights"] for found in by_seed.values()]
        fitting = sum(all(w[a] > w[b] for a, b in pairwise(order)) for w in weights)
        table[measurement] = {
            "mean_weights": {name: round(statistics.mean(w[name] for w in weights), 4) for name in weights[0]},
            "expected_order": order,
            "seeds_in_that_order": fitting if order else None,
            "seeds_with_noise_below_a_third": sum(w["noise"] < 1 / 3 for w in weights),
            "seeds_that_named_noise": sum("noise" in found[measurement]["told"] for found in by_seed.values()),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--seeds", default="54,55,56")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/planted_truth.json")
    parser.add_argument("--rows", default=",".join(SURE))
    options = parser.parse_args()
    rows = options.rows.split(",")
    cases = {name: replace(case, expected={row: case.expected[row] for row in rows if row in case.expected})
             for name, case in CASES.items()}  # fmt: skip
    cases = {name: case for name, case in cases.items() if case.expected}
    start = time.perf_counter()
    runs: dict[str, dict[int, Any]] = {name: {} for name in cases}
    for name, case in cases.items():
        for seed in map(int, options.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                runs[name][seed] = one_run(Path(folder), seed, options.steps, case)
    table = {name: summary(runs[name], case.expected) for name, case in cases.items()}
    report = {
        "command": " ".join(["python", *sys.argv]), "date": datetime.date.today().isoformat(), "settings": COMMON,
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}", "torch": torch.__version__,
        "seconds": round(time.perf_counter() - start), "measurements": table, "by_case_and_seed": runs,
    }  # fmt: skip
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()

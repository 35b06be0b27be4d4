"""Choosing a prompt: what it costs, and what it brings on suites that it was not chosen on.

    python benchmarks/prompts.py --data DIR [--queries 60] [--report-queries 300] [--steps 300]

40 prompts (those of the datacards and the lines below) on 8 suites of DIR/eval, reported on 3 others. A suite has
at most so many of its queries, the first ones by a hash of seed 0, and its whole corpus; half of them are chosen on.
Three models: all-MiniLM-L6-v2, which was trained without prompts; `static`; and `static` fine-tuned here with the
cards' instructions on four collections of DIR/raw, so that prompts matter. The static ones are asked for all queries.
Each is asked for all queries at once, and with halving from 10 queries a suite, in stores of their own; MiniLM's
scores are reused for the other objectives. Seconds of the processor tell more than those of the clock: other programs
may run beside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHOSEN_ON = ("cmrc2018", "disflqa", "xquad-de", "xquad-en", "xquad-es", "xquad-ru", "xquad-th", "xquad-zh")
REPORTED_ON = ("agnews", "dureader-demo", "pubmedqa")  # other families: xquad's languages have the same questions
TRAINED_ON = ("agnews", "cmrc2018", "disflqa", "xquad")
PROMPTS = 40
LINES = [
    "query: ", "Query: ", "question: ", "search_query: ", "Q: ", "ask: ", "Find: ", "title: ", "web search: ",
    "Represent this sentence for searching relevant passages: ", "Represent the question for retrieving documents: ",
    "为这个句子生成表示以用于检索相关文章：", "Which text answers this? ", "Retrieve: ", "passage: ",
    "Instruct: Given a query, retrieve relevant passages that answer the query\nQuery: ",
    "Instruct: Given a question in any language, retrieve the paragraph that answers it\nQuery: ",
    "Instruct: Retrieve the original of this sentence\nQuery: ", "Instruct: Answer\nQuery: ", "the of and a to in ",
    "Please find the one paragraph that has the answer to what I want to know, which is this: ",
]  # fmt: skip


def sampled(source: Path, target: Path, most: int) -> Path:
    """A suite with at most so many of its queries, and its whole corpus."""
    from trainers.evaluation.choice import subset

    (target / "qrels").mkdir(parents=True)
    shutil.copy(source / "corpus.jsonl", target)
    lines = (source / "queries.jsonl").read_text("utf-8").splitlines()
    ids = [str(json.loads(line)["_id"]) for line in lines]
    places = subset(ids, most, 0)
    kept = {ids[place] for place in places}
    (target / "queries.jsonl").write_text("".join(lines[place] + "\n" for place in places), "utf-8")
    head, *rows = (source / "qrels" / "test.tsv").read_text("utf-8").splitlines()
    rows = [row for row in rows if row.split("\t")[0] in kept]
    (target / "qrels" / "test.tsv").write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return target


def fine_tuned(data: Path, work: Path, steps: int) -> Path:
    """`static`, trained with each collection's instruction before its queries."""
    import trainers
    from mixture import Store, jobs

    with Store.open(work / "training", create=True) as store:
        jobs.ingest(store, [data / "raw" / name for name in TRAINED_ON])
        jobs.mine(store, per_query=2)
        jobs.create(store, "uniform")
        settings = trainers.FinetuneSettings(steps=steps, batch_size=64, negatives=1, in_batch=True, learning_rate=2e-2,
                                             temperature=0.05, query_template="instruct")  # fmt: skip
        return trainers.train(store, "uniform", "static", out=work / "tuned", settings=settings).model


def one(store: Any, model: Any, suites: list[Path], others: list[Path], lines: Path, **options: Any) -> dict[str, Any]:
    import trainers

    began, used = time.perf_counter(), time.process_time()
    found = trainers.prompts(store, model, suites, candidates=[lines, "cards"], report=others, **options)
    best = found.chosen
    result = {
        "prompts": len(found.prompts), "chosen": best.prompt, "sources": best.sources[:2],
        "seconds": round(time.perf_counter() - began, 1), "processor_seconds": round(time.process_time() - used, 1),
        "encoded": found.encoded, "queries chosen on": best.num_queries,
        "mean": round(100 * best.mean, 2), "gain": round(100 * best.gain, 2), "worst": round(100 * best.worst, 2),
        "least": round(100 * best.least, 2),
        "elsewhere": [
            {"against": gain.against, "suites": gain.suites, "score": round(100 * gain.score, 2),
             "gain": round(100 * gain.gain, 2), "p": gain.p,
             "interval": [round(100 * (end or 0), 2) for end in (gain.low, gain.high)]}
            for gain in found.gains if gain.num_suites > 1
        ],
        "means": {one.prompt: round(100 * one.mean, 2) for one in found.prompts if one.dropped is None},
    }  # fmt: skip
    print({name: value for name, value in result.items() if name != "means"}, flush=True)
    return result


def models(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    from mixture import Store

    small = {name: sampled(options.data / "eval" / name, work / "small" / name, options.queries) for name in CHOSEN_ON}
    small |= {name: sampled(options.data / "eval" / name, work / "small" / name, options.report_queries)
              for name in REPORTED_ON}  # fmt: skip
    whole = {name: options.data / "eval" / name for name in (*CHOSEN_ON, *REPORTED_ON)}
    tuned = fine_tuned(options.data, work, options.steps)
    found: dict[str, Any] = {}
    with Store.open(work / "plain", create=True) as store:
        (work / "lines.json").write_text(json.dumps(chosen_lines(store)), "utf-8")
    for title, model, suites in (("static", "static", whole), ("static, fine-tuned with instructions", tuned, whole),
                                 ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2", small)):  # fmt: skip
        parts = [suites[name] for name in CHOSEN_ON], [suites[name] for name in REPORTED_ON]
        of_model: dict[str, Any] = {}
        for number, way in enumerate(({"first_queries": 10}, {}, {"objective": "mean"}, {"relative": False})):
            # Halving has nothing to reuse; the other objectives reuse the scores of the second.
            with Store.open(work / f"{title[:20]}-{min(number, 1)}", create=True) as store:
                named = ", ".join(f"{name}={value}" for name, value in way.items()) or "all at once"
                print(title, named, flush=True)
                of_model[named] = one(store, model, *parts, work / "lines.json", **way)
        found[title] = of_model
    return found


def chosen_lines(store: Any) -> list[str]:
    """As many of `LINES` as make `PROMPTS` with the cards' and none."""
    from trainers.jobs.candidates import candidates_of

    cards = candidates_of(store, ["cards"], "static").sources
    return [line for line in LINES if line not in cards][: PROMPTS - len(cards)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIXTURE_REAL_DATA") or "../shared/data"))
    parser.add_argument("--queries", type=int, default=60, help="of a suite that is chosen on, for MiniLM")
    parser.add_argument("--report-queries", type=int, default=300, help="of a suite that is reported on, for MiniLM")
    parser.add_argument("--steps", type=int, default=300, help="of the fine-tuning")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        found = models(options, Path(folder))
    given = [word for place, word in enumerate(sys.argv[1:]) if "--data" not in sys.argv[place : place + 2]]
    result = {
        "command": " ".join(["python benchmarks/prompts.py --data DIR", *given]), "chosen on": CHOSEN_ON,
        "reported on": REPORTED_ON, "queries": options.queries, "report_queries": options.report_queries,
        "steps": options.steps, "models": found,
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU, other programs beside",
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    (HERE / "results" / "prompts.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""What the help of each command shows at its end: lines to copy, and what they do."""

from __future__ import annotations

# Of a line of a help, less its indentation. A description stands beside its example, or under it.
WIDTH = 76
EXAMPLES: dict[str, dict[str, str]] = {
    "ingest": {
        "mixture ingest raw/": "a folder of collections",
        "mixture ingest faq.jsonl --columns query=asked,positive=reply": "which column is which",
        "mixture ingest faq.csv --dry-run": "how it would be read",
        "mixture ingest --card agnews": "what the datacard agnews names, from its source",
    },
    "cards": {
        "mixture cards nq": "one card, beside what the store measured",
        "mixture cards new faq --from faq.jsonl": "a draft of your own",
    },
    "status": {"mixture status": "what is in the store"},
    "remove": {
        "mixture remove faq": "the collection faq goes; mixtures of it stay whole",
        "mixture remove --undo": "put it back",
    },
    "rename": {"mixture rename faq questions": "", "mixture rename --undo": "the old name again"},
    "dedup": {
        "mixture dedup --dry-run": "what would go",
        "mixture dedup nq msmarco --across": "also what the two share; nq keeps it",
        "mixture dedup nq --method semantic --model all-MiniLM-L6-v2": "also paraphrases, by a model's embeddings",
        "mixture dedup --undo": "put back what the last one took out",
    },
    "decontaminate": {
        "mixture decontaminate --against eval/": "a folder of suites in BEIR layout",
        "mixture decontaminate --against nanobeir": "suites by name",
    },
    "forget": {
        "mixture forget --where \"language = 'de'\"": "the same of a condition",
        "mixture forget withdrawn.csv": "what must be retrained without these rows",
        "mixture forget nq --apply --reason licence": "",
        "mixture forget --check model": "count what a model's run draws of forgotten rows",
        "mixture forget --undo": "put back what the last one took out",
    },
    "mine": {
        "mixture mine": "BM25 negatives for all examples without any",
        "mixture mine nq --miner all-MiniLM-L6-v2 --per-query 7": "with a model",
    },
    "create": {
        "mixture create uniform": "all collections, equal weights",
        "mixture create few --collection nq --collection msmarco --proportional": "",
        "mixture create more-nq --from uniform --set nq=0.3": "the others share the rest",
    },
    "select": {"mixture select tdro --top 70 --name top70": "the heaviest 70 %, equally weighted"},
    "coreset": {
        "mixture coreset few --mix uniform --target eval/ --budget 0.1": "a tenth of the rows",
        "mixture coreset few --mix uniform --target eval/ --budget 5000 --shares free": "",
        "mixture coreset few --mix uniform --target eval/ --budget 0.1 --random": "baseline",
    },
    "learn-weights": {
        "mixture learn-weights --mix uniform --proxy Qwen/Qwen1.5-0.5B --config paper": "",
        "mixture learn-weights --mix uniform --proxy tiny-qwen2 --config laptop": "a first look",
        "mixture learn-weights --mix m --proxy static --algorithm search --target s/": "",
    },
    "train": {
        "mixture train --mix tdro --model tiny-qwen2 --out model --config laptop": "a first look",
        "mixture train --mix tdro --model Qwen/Qwen1.5-0.5B --out model --suite eval/": "",
        "torchrun --nproc-per-node 8 -m mixture train --mix tdro --model M --out DIR": "",
    },
    "soup": {
        "mixture soup seed1 seed2 seed3 --out soup": "trained on one mixture with three seeds",
        "mixture soup tdro uniform --out soup --weights 0.7,0.3": "",
    },
    "shrink": {
        "mixture shrink model --layers 3 --mix tdro --out small": "",
        "mixture shrink model --layers 4 --first --out small": "of one trained with elastic_layers",
        "mixture shrink model --layers 6 --width 0.5 --mix tdro --out thin": "half of the inner channels",
    },
    "evaluate": {"mixture evaluate model --suite eval/": "every suite in that folder"},
    "prompts": {
        "mixture prompts MODEL --suite dev/ --candidates cards": "of the datacards",
        "mixture prompts MODEL --suite dev/ --candidates mine.txt --report test/": "",
    },
    "suites": {
        "mixture suites": "what --suite takes by name",
        "mixture suites beir miracl/sw": "one suite a line, with the size of those that are cached",
    },
    "verdict": {
        "mixture verdict tdro --against uniform --model static --suite eval/": "",
        "mixture verdict tdro --against uniform --model M --suite eval/ --seeds 5": "",
    },
    "ablate": {
        "mixture ablate uniform --model static --suite eval/ --half report": "",
        "mixture ablate uniform --model static --suite eval/ --extremes 0": "noise alone, without whole trainings",
    },
    "sql": {
        "mixture sql \"FROM mixture('tdro')\"": "",
        "mixture sql \"FROM pairs WHERE collection = 'nq' LIMIT 5\" --json": "examples with their texts",
        "mixture sql": "a prompt",
    },
    "list": {"mixture list --json": "all of them, for a program"},
    "show": {"mixture show tdro:1": "", "mixture show 5181a395": "by the beginning of its id"},
    "diff": {"mixture diff uniform tdro": "", "mixture diff tdro:1 tdro:2": "two versions"},
    "tag": {"mixture tag tdro:1 production": "from now on production means tdro:1"},
    "log": {"mixture log tdro": ""},
    "verify": {"mixture verify": "everything", "mixture verify tdro": "what one mixture needs"},
    "gc": {"mixture gc --dry-run": "what would go, and how large it is"},
    "maintain": {"mixture maintain --days 30": "keep the versions of a month"},
    "store": {
        "mixture store copy old postgres:dbname=lake --data s3://bucket/lake": "",
        "mixture store copy postgres:dbname=lake here": "back to a folder",
    },
    "export": {
        "mixture export tdro --out tdro.json": "the mixture alone",
        "mixture export tdro --materialised folder": "with its rows, to train elsewhere",
    },
    "report": {"mixture report tdro --against uniform --out report.html": ""},
    "import": {"mixture import tdro.json --name tdro": ""},
    "demo": {"mixture demo --folder demo-run": "about a minute on two cores"},
}


def examples(command: str) -> str:
    """The end of a command's help, as click takes it; empty for a command that has none."""
    lines = EXAMPLES.get(command, {})
    fitting = [line for line, says in lines.items() if len(line) + 2 + len(says) <= WIDTH]
    width = max(map(len, fitting), default=0)
    shown = []
    for line, says in lines.items():
        beside = f"{line:{width}}  {says}".rstrip()
        shown += [beside] if len(beside) <= WIDTH else [line, f"    {says}"]
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in shown)]) if shown else ""

"""The model card of a trained model: what it saw, how it was trained, what it scored. README.md of its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from trainers.finetune.output import held_out, mixtures_of

TAGS = ["sentence-transformers", "feature-extraction", "sentence-similarity", "dense-retrieval", "retrieval-mixture"]
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
USAGE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["how do glaciers move?"])
documents = model.encode_document(["Glaciers flow downhill under their own weight."])
print(model.similarity(queries, documents))
```"""
ORDER = """The order in which rows are drawn is a function of the mixture and the settings: `mixture export --batches
N{holdout}` lists the rows of each step."""
ORDER_OF_PHASES = """The order in which rows are drawn is a function of the phases and the settings. A collection that
several phases have goes on where the last one left it."""
# Of batches that `export` does not list.
ORDER_OF_OTHERS = "The order in which rows are drawn is a function of the mixture and the settings."
SEEN = """In the store that trained it, `FROM seen_by('{run}')` says how often each row was seen."""
HELD_OUT = """InfoNCE in nats, before training and of this model, on rows of the mixture that no batch drew: each
query with its positive, its own negatives and passages of other held-out rows."""

CUT_BY = """InfoNCE in nats on fixed rows of the collections of a mixture, with other rows' answers as negatives."""

BOTH_WAYS = """It reads each text in both directions: `is_causal` is false in its `config.json`. That needs
transformers 5.2 or newer. An older one computes other embeddings."""

ROUNDED = """It was trained on weights rounded to 4 bits (NF4). Its own are those, in float32 and with the LoRA folded
in."""

ELASTIC = """It was trained so that its first layers are models, too, as many as `elastic_layers` names below.
`mixture shrink FOLDER --layers N --first --out DIR` makes a folder of the first N."""

OF_SETTINGS = {"bidirectional": BOTH_WAYS, "four_bit": ROUNDED, "elastic_layers": ELASTIC}

LOOKED_FOR = """The training data was searched for the test queries and the relevant passages of these suites. The rule
is the most edits between a query and a test query, and the least share of a test passage that a positive holds. Rows
still there were trained on."""


def model_card(record: Mapping[str, Any]) -> str:
    """The card of a finished run, from its record (`training.json`): front matter as the Hugging Face hub reads it, and
    the facts as tables."""
    step, share, phases = record["final_step"], record["settings"].get("holdout"), mixtures_of(record)
    ids = list(dict.fromkeys(phase["mixture"]["id"] for phase in phases))
    told = [f"on the mixture `{phase['mixture']['id']}`" for phase in phases]
    if len(phases) > 1:
        told = [f"{one} for {phase['steps']} steps" for one, phase in zip(told, phases, strict=True)]
    order = ORDER_OF_PHASES if "phases" in record else ORDER.format(holdout=f" --holdout {share:g}" if share else "")
    tables, mixed = record["settings"].get("collection") or {}, record["settings"].get("batching") == "mixed"
    if "phases" not in record and (mixed or any("batch_size" in table for table in tables.values())):
        order = ORDER_OF_OTHERS
    scores = [row for row in record["evaluations"] if row["step"] == step]
    title = f"Retriever trained on mixture{'s' * (len(ids) > 1)} {', '.join(ids)}"
    parts = [
        f"---\n{_front_matter(record, scores, title).to_yaml()}\n---",
        f"# {title}",
        f"A dense retriever: `{_shown(record['model'])}` fine-tuned {', then '.join(told)} (run "
        f"`{record['run_id']}`, {step} steps), each batch from {'all collections' if mixed else 'one collection'}.",
        "## Use",
        USAGE,
        _template(record["template"]),
        *(text for name, text in OF_SETTINGS.items() if record["settings"].get(name)),
        "## What it was trained on",
        _data_table(record),
        " ".join((order, SEEN.format(run=record["run_id"]))),
    ]
    parts += ["## Test data", *_test_data(_trained_on(record), record.get("contamination"))]
    if scores:
        parts += ["## Evaluation", _score_table(scores)]
    if losses := held_out(record):
        parts += ["## Loss on held-out rows", _loss_table(losses), HELD_OUT]
    parts += [
        "## Settings",
        _table(("setting", "value"), ((f"`{k}`", f"`{v}`") for k, v in record["settings"].items())),
    ]
    return "\n\n".join(parts) + "\n"


def soup_card(record: Mapping[str, Any]) -> str:
    """The card of an average of models, from its record (`trainers.jobs.soup`)."""
    parts, start = record["soup"], record["model"]
    title = f"Average of {len(parts)} retrievers"
    names = sorted({name for part in parts for name in part["collections"]})
    front = ModelCardData(
        library_name="sentence-transformers", pipeline_tag="sentence-similarity", tags=TAGS, base_model=_base(start),
        datasets=names or None, model_name=title,
    )  # fmt: skip
    began = f", all fine-tuned from `{_shown(start)}`" if start else ""
    rows = [
        (_escaped(_shown(part["model"])), f"{part['weight']:.4f}",
         f"`{part['run_id']}`" if part["run_id"] else "not known", _mixtures(part))
        for part in parts
    ]  # fmt: skip
    return "\n\n".join([
        f"---\n{front.to_yaml()}\n---",
        f"# {title}",
        f"A dense retriever: the weighted mean of {len(parts)} models{began}. It was not trained itself.",
        "## Use",
        USAGE,
        *([_template(record["template"])] if "template" in record else []),
        "## What it is made of",
        _table(("model", "weight", "run", "mixture"), rows, numbers=(1,)),
    ]) + "\n"  # fmt: skip


def shrink_card(
    record: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], collections: Sequence[Mapping[str, Any]],
    loss: float | None,
) -> str:  # fmt: skip
    """The card of a model with fewer layers or narrower ones, from its record and what was measured
    (`trainers.jobs.shrink`)."""
    facts, seen = record["shrink"], mixtures_of(record)
    names = {c["collection"] for one in seen for c in one["mixture"]["components"] if c["weight"] > 0}
    title = f"{_shown(record['model'])} with {len(facts['layers'])} layers"
    front = ModelCardData(
        library_name="sentence-transformers", pipeline_tag="sentence-similarity", tags=TAGS,
        base_model=_base(record["model"]), datasets=sorted(names) or None, model_name=title,
    )  # fmt: skip
    told = f"A dense retriever: `{_shown(record['model'])}` with {len(facts['layers'])} of its {facts['num_layers']} "
    told += f"layers ({', '.join(map(str, facts['layers']))})"
    told += f", each with {facts['width']} inner channels. " if facts["width"] else ". "
    ids = ", then ".join(f"`{one['mixture']['id']}`" for one in seen)
    told += "It was not trained since" + (f"; the whole model was, on the mixture {ids}." if ids else ".")
    parts = [f"---\n{front.to_yaml()}\n---", f"# {title}", told, "## Use", USAGE,
             *([_template(record["template"])] if "template" in record else [])]  # fmt: skip
    if loss is not None:
        rows = [(", ".join(map(str, one["removed"])) or "none", f"{one['loss']:.4f}") for one in curve]
        losses = [(_escaped(row["collection"]), f"{row['rows']}", f"{row['before']:.4f}", f"{row['after']:.4f}")
                  for row in collections]  # fmt: skip
        parts += [
            "## What layers are worth",
            f"{CUT_BY} This model's is {loss:.4f}.",
            _table(("layers left out", "loss"), rows, numbers=(1,)),
            _table(("collection", "rows", "whole", "this model"), losses, numbers=(1, 2, 3)),
        ]
    return "\n\n".join(parts) + "\n"


def _mixtures(part: Mapping[str, Any]) -> str:
    """What a part of a soup was trained on."""
    if "phases" in part:
        return ", then ".join(f"`{one['mixture']}` for {one['steps']} steps" for one in part["phases"])
    return f"`{part['mixture']}`" if part["mixture"] else "not known"


def _template(template: Mapping[str, str]) -> str:
    """What the model saw of a query and of a passage, and how to give it the same."""
    query, passage = (json.dumps(template[name], ensure_ascii=False)[1:-1] for name in ("query", "passage"))
    if (template["query"], template["passage"]) == ("{query}", "{passage}"):
        return "It was trained on queries and passages as they are, without prompts: `model.encode` does the same."
    text = f"It was trained on queries as `{query}`, and on passages as `{passage}`. `encode_query` and "
    text += "`encode_document` put that on; `model.encode` alone does not."
    if "{prompt}" in template["query"]:
        text += f" The prompt of `encode_query` is `{template['prompt']}`; queries of a known kind take that of their"
        text += " collection: `model.prompts` lists them."
    return text


def _front_matter(record: Mapping[str, Any], scores: Sequence[Mapping[str, Any]], title: str) -> ModelCardData:
    results = [
        EvalResult(
            task_type="information-retrieval", task_name="Information Retrieval", dataset_type=row["suite"],
            dataset_name=row["suite"], metric_type=row["metric"].replace("@", "_at_"), metric_name=row["metric"],
            metric_value=round(row["value"], 5),
        )
        for row in scores
    ]  # fmt: skip
    parts = [part for one in mixtures_of(record) for part in one["mixture"]["components"]]
    names = list(dict.fromkeys(part["collection"] for part in parts if part["weight"] > 0))
    return ModelCardData(
        library_name="sentence-transformers", pipeline_tag="sentence-similarity", tags=TAGS,
        base_model=_base(record["model"]), datasets=names, model_name=title, eval_results=results or None,
    )  # fmt: skip


def _base(model: str | None) -> str | None:
    """The hub refuses paths as a base model: a model of this machine has no name there."""
    return model if model is not None and HUB_ID.fullmatch(model) and not Path(model).exists() else None


def _shown(model: str) -> str:
    """A hub name as it is; of a folder its name only, since cards travel."""
    return Path(model).name if Path(model).is_absolute() or Path(model).exists() else model


def _data_table(record: Mapping[str, Any]) -> str:
    """A row for each component; its weights in several phases side by side."""
    mixtures = [one["mixture"] for one in record.get("phases") or [record]]
    parts = [{_name(c): c for c in mixture["components"]} for mixture in mixtures]
    rows = []
    for d in record["drawn"]:
        numbers = d.get("phases", [1])
        own = {number: parts[number - 1][d["collection"]] for number in numbers}
        loss_weights = dict.fromkeys(f"{c['loss_weight']:g}" for c in own.values())
        rows.append((
            d["collection"], *(f"{own[n]['weight']:.4f}" if n in own else "0" for n in range(1, 1 + len(parts))),
            ", ".join(loss_weights), f"{d['num_examples']:,}", f"{d['examples_drawn']:,}", f"{d['epochs']:.2f}",
            f"`{d['digest'][:16]}`",
        ))  # fmt: skip
    rows.sort(key=lambda row: (*(-float(weight) for weight in row[1 : 1 + len(parts)]), row[0]))
    weights = [f"weight, phase {n}" for n in range(1, 1 + len(parts))] if len(parts) > 1 else ["weight"]
    names = ("collection", *weights, "loss weight", "examples", "drawn", "epochs", "content digest")
    return _table(names, ((_escaped(name), *rest) for name, *rest in rows), numbers=range(1, 5 + len(parts)))


def _name(component: Mapping[str, Any]) -> str:
    """As `mixture.specs.Component.name`."""
    name = component["collection"]
    return f"{name}[{component['slice']}]" if "slice" in component else str(name)


def _trained_on(record: Mapping[str, Any]) -> list[str]:
    """The ids of all mixtures that a training drew from, or was to draw from."""
    return list(dict.fromkeys(one["mixture"]["id"] for one in record.get("phases") or [record]))


def _test_data(mixtures: Sequence[str], found: Mapping[str, Any] | None) -> list[str]:
    """What the mixtures hold of test sets (`mixture.jobs.ContaminationStatement`); None: nobody looked."""
    if found is None or not found["suites"]:
        why = "It was trained without the store. " if found is None else ""
        does = "do" if len(mixtures) > 1 else "does"
        commands = " and ".join(f"`mixture show {mixture} --contamination --against SUITE`" for mixture in mixtures)
        parts = [f"{why}No test suite was looked for in its training data. {commands} {does} so where the store is."]
    else:
        parts = [LOOKED_FOR, _suite_table(found["suites"])]
    left = {} if found is None else found["unchecked"]
    lines = [f"{_escaped(suite)}: {_escaped(why)}." for suite, why in left.items()]
    parts += [f"Not looked for: {' '.join(lines)}"] if lines else []
    if found is not None and found["unread"]:
        parts.append(f"Not searched: {', '.join(map(_escaped, found['unread']))}.")
    if found is not None and found["mteb"]:
        tasks = ", ".join(f'"{task}"' for task in found["mteb"])
        parts.append(f"For mteb, as the datacards say: `training_datasets={{{tasks}}}`.")
    return parts


def _suite_table(suites: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in suites:
        whole = one["found"]
        where = [f"{_escaped(name)} {own['removed']:,} / {own['remaining']:,}"
                 for name, own in one["collections"].items()]  # fmt: skip
        overlap = "not looked for" if one["passage_overlap"] is None else f"{one['passage_overlap']:g}"
        rows.append((
            _escaped(one["suite"]), f"{whole['queries']:,} of {one['num_queries']:,}",
            f"{whole['passages']:,} of {one['num_passages']:,}", f"{whole['removed']:,}", f"{whole['remaining']:,}",
            ", ".join(where), f"{one['distance']}, {overlap}",
        ))  # fmt: skip
    names = ("suite", "test queries found", "test passages found", "rows taken out", "rows still there",
             "by collection", "rule")  # fmt: skip
    return _table(names, rows, numbers=range(1, 5))


def _score_table(scores: Sequence[Mapping[str, Any]]) -> str:
    metrics = list(dict.fromkeys(row["metric"] for row in scores))
    suites = {row["suite"]: row for row in scores}
    values = {(row["suite"], row["metric"]): row["value"] for row in scores}
    rows = (
        (_escaped(name), f"{row['num_queries']:,}", f"{row['num_documents']:,}",
         *(f"{100 * values[name, metric]:.2f}" if (name, metric) in values else "" for metric in metrics))
        for name, row in suites.items()
    )  # fmt: skip
    searched = ", ".join(sorted({row["corpus"] for row in scores}))
    return _table(("suite", "queries", "documents", *metrics), rows, numbers=range(1, 3 + len(metrics))) + (
        f"\n\nScores times 100. Searched: {searched}."
    )


def _loss_table(losses: Sequence[Mapping[str, Any]]) -> str:
    rows = ((_escaped(row["collection"]), f"{row['held_out']:,}", f"{row['measured']:,}", f"{row['first']:.4f}",
             f"{row['last']:.4f}") for row in losses)  # fmt: skip
    return _table(("collection", "held out", "measured", "before", "after"), rows, numbers=range(1, 5))


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    right = set(numbers)
    lines = [names, ["---:" if i in right else "---" for i in range(len(names))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(name: str) -> str:
    return re.sub(r"([\\|\[\]*_<>`])", r"\\\1", name)

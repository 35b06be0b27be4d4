"""A copy of a model whose queries have another prompt; weights and everything else stay as they are to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mixture.errors import UsageError
from mixture.whole import check_new, new_folder
from trainers.model.identity import STATIC, locate, model_file
from trainers.model.template import CONFIG, DOCUMENT_PROMPTS, RECORD, template_behind

CHOSEN = "chosen_prompt"
"""In the record of a copy: the prompt, and the run that trained the model."""
GENERAL = "query"


def write_prompted(model: str, prompt: str, out: Path) -> None:
    """Copy a model, by folder or name, to the new folder `out`, with `prompt` before every query: as its prompt `query`
    and in place of each that it has for queries of some kind. Those of documents stay.

    A model that sentence-transformers did not save is saved by it. In the record of a training here (`training.json`)
    the template changes too, so that a training of the copy has it; `run_id` is none, as the run's model is another.
    """
    check_new(out, "out")
    with new_folder(out) as scratch:
        modules = None if model == STATIC else model_file(locate(model), "modules.json")
        if modules is None:
            from trainers.model.encoder import load_encoder

            load_encoder(model).save(str(scratch), create_model_card=False)
        else:  # a link of the hub's cache becomes the file
            shutil.copytree(modules.parent, scratch, dirs_exist_ok=True)
        _set_prompts(scratch, prompt)


def _set_prompts(folder: Path, prompt: str) -> None:
    file = folder / CONFIG
    body: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    before = body.get("prompts") or {}
    prompts = {name: text if name in DOCUMENT_PROMPTS else prompt for name, text in before.items()} | {GENERAL: prompt}
    file.write_text(json.dumps(body | {"prompts": prompts}, ensure_ascii=False, indent=2), "utf-8")
    if not (folder / RECORD).is_file():
        return
    record = json.loads((folder / RECORD).read_text("utf-8"))
    record |= {CHOSEN: {"prompt": prompt, "run_id": record.get("run_id")}, "run_id": None}
    passage = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    try:
        record["template"] = template_behind(prompt, passage, source="").parts
    except UsageError:
        record.pop("template", None)  # a training says what is wrong with it
    (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1), "utf-8")

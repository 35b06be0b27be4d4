"""Which models have layers that can go, and how many, from their files. Loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from mixture.errors import UsageError
from trainers.model.alike import ADAPTER
from trainers.model.identity import STATIC, is_static, locate, model_file
from trainers.model.names import TINY

# Where the list of layers stands in a transformers model, by `model_type`.
BERTS = ("bert", "camembert", "deberta-v2", "electra", "mpnet", "roberta", "xlm-roberta")
DECODERS = ("eurobert", "gemma", "gemma2", "gemma3_text", "llama", "mistral", "modernbert", "qwen2", "qwen3")
PLACES = dict.fromkeys(BERTS, "encoder.layer") | dict.fromkeys(DECODERS, "layers") | {"distilbert": "transformer.layer"}
# The first layer is unlike the others (ModernBERT's has no norm before its attention), and no other can be first.
FIRST_STAYS = ("modernbert",)


class Architecture(NamedTuple):
    """kind: transformers' `model_type`; num_layers: of the whole model"""

    kind: str
    num_layers: int

    @property
    def place(self) -> str:
        """The path of the list of layers in the transformers model."""
        return PLACES[self.kind]

    @property
    def fixed(self) -> tuple[int, ...]:
        """Layers that cannot go."""
        return (0,) if self.kind in FIRST_STAYS else ()


def architecture_of(model: str) -> Architecture:
    """The architecture of a model by folder or hub name; of an adapter that of its base.

    Raises `UsageError` for a static model, for one without a configuration and for one whose layers have an unknown
    place.
    """
    if model == TINY:
        raise UsageError(f"{TINY} has random weights until it is trained; train it, and name its folder")
    if model == STATIC or is_static(model):
        raise UsageError(f"{model!r} is a static model: a table of token vectors, without layers")
    source = locate(model)
    if (adapter := model_file(source, ADAPTER)) is not None:
        return architecture_of(json.loads(adapter.read_text("utf-8"))["base_model_name_or_path"])
    modules = model_file(source, "modules.json")
    first = json.loads(modules.read_text("utf-8"))[0]["path"] if modules is not None else ""
    file = model_file(source, (Path(first) / "config.json").as_posix())
    if file is None:
        raise UsageError(f"{model!r} has no config.json, so that its layers are not known")
    config = json.loads(file.read_text("utf-8"))
    kind, count = config.get("model_type"), config.get("num_hidden_layers", config.get("n_layers"))
    if kind not in PLACES or not isinstance(count, int):
        raise UsageError(f"{model!r} is of the architecture {kind}, whose layers are not known here; known: "
                         f"{', '.join(sorted(PLACES))}")  # fmt: skip
    return Architecture(kind, count)

"""Which model a name means."""

from __future__ import annotations

from os import fspath
from pathlib import Path

from mixture.arguments import Name
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store import layout
from trainers.model.identity import STATIC, locate
from trainers.parallel import ranks

TINY = "tiny-qwen2"


def resolve_model(root: Path, data: MaterialisedMixture, model: str, *, seed: int) -> str:
    """A model's name or folder; `tiny-qwen2` is built from the mixture's texts once and kept under `root`, the
    store's folder."""
    if model != TINY:
        return model
    folder = layout.tiny_model(root, TINY, (c.digest for c in data.spec.components), seed)

    def build() -> None:
        from trainers.model.tiny import build_tiny

        if not (folder / "modules.json").is_file():
            build_tiny((text for part in data.components.values() for text in part.texts()), folder, seed=seed)

    ranks.on_main(build)
    ranks.send(folder)
    return str(folder)


def shown(model: Name) -> str:
    """A model's name for people: of a folder the last part."""
    return Path(model).resolve().name if Path(model).is_dir() and model != STATIC else fspath(model)


def known_model(model: Name) -> str:
    """The model's folder or name as text. A path that does not exist is refused before anything long starts."""
    name = fspath(model)
    if name.startswith("~"):
        name = str(Path(name).expanduser())
    if name == STATIC:
        if Path(STATIC, "modules.json").is_file():
            raise UsageError("static is the model of the package wordllama; write ./static for the folder of that name")
        locate(name)
    if name != TINY and name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UsageError(f"no model folder {name!r}")
    return name

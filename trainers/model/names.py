"""Which model a name means."""

from __future__ import annotations

from os import fspath
from pathlib import Path

from mixture.arguments import Name
from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from mixture.store import layout
from trainers.model.identity import STATIC, locate, model_file
from trainers.parallel import ranks

TINY = "tiny-qwen2"
BM25 = "bm25"
FUSION = "+"
# One of them is in whatever loads.
MODEL_FILES = ("modules.json", "config.json", "adapter_config.json")


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


class ModelName:
    """What a caller of an evaluation calls a model. parts: of a fusion, or itself."""

    def __init__(self, given: str) -> None:
        self.given = given
        fused = FUSION in given and not Path(given).is_dir()
        parts = given.split(FUSION) if fused else [given]
        self.parts = [part if part == BM25 else known_model(part) for part in parts]
        if BM25 in self.parts and Path(BM25, "modules.json").is_file():
            raise UsageError(f"{BM25} is the ranking by words; write ./{BM25} for the folder of that name")
        if not all(self.parts):
            raise UsageError(f"`model` is {given!r}; a fusion names two or more, as {BM25}{FUSION}{STATIC}")

    def check(self) -> None:
        """Raise `UsageError` for a part that is no model, in a folder, in the cache or on the hub."""
        for part in self.parts:
            if part not in (BM25, STATIC) and not any(model_file(locate(part), name) for name in MODEL_FILES):
                raise UsageError(f"no model loads from {part!r}: it has none of {', '.join(MODEL_FILES)}")

    @property
    def dense(self) -> str:
        """The one model that it is, by folder or name; a `UsageError` for BM25 and for a fusion."""
        if len(self.parts) > 1 or self.parts[0] == BM25:
            what = "a fusion" if len(self.parts) > 1 else "a ranking by words"
            raise UsageError(f"`model` is {self.given!r}, {what}; a prompt is chosen for one dense model")
        return self.parts[0]

    @property
    def shown(self) -> str:
        return FUSION.join(part if part == BM25 else shown(part) for part in self.parts)

    @property
    def kept(self) -> str:
        """As the store has it: a folder by its whole path."""
        return FUSION.join(
            str(Path(part).resolve()) if Path(part).is_dir() and part not in (STATIC, BM25) else part
            for part in self.parts
        )

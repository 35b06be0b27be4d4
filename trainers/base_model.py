"""Which model a name on the command line means."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mixture.errors import UsageError
from mixture.materialised import MaterialisedMixture
from trainers import ranks
from trainers.tiny import NAME as TINY
from trainers.tiny import build_tiny


def resolve_model(root: Path, data: MaterialisedMixture, model: str, *, seed: int) -> str:
    """A model's name or folder; `tiny-qwen2` is built from the mixture's texts once and kept under `root`, the
    store's folder."""
    if model != TINY:
        return model
    texts = hashlib.sha256("".join(sorted(c.digest for c in data.spec.components)).encode()).hexdigest()[:12]
    folder = root / "models" / f"{TINY}-{texts}-{seed}"

    def build() -> None:
        if not (folder / "modules.json").is_file():
            build_tiny((text for part in data.components.values() for text in part.texts()), folder, seed=seed)

    ranks.on_main(build)
    return str(folder)


def known_model(model: str) -> None:
    """Refuse a model path that does not exist before anything long starts."""
    if model != TINY and model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise UsageError(f"no model folder {model!r}")

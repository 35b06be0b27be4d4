"""Mixtures to files and folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mixture import registry, remote
from mixture.arguments import Name
from mixture.errors import UsageError
from mixture.registry import Mixture, files, flag, folders, projects
from mixture.store import Store
from mixture.whole import new_file, scratch_in

# Rows for trainers of other projects, by the argument that names the folder.
PROJECTS = {
    "flagembedding": flag.export_flagembedding,
    "tevatron": projects.export_tevatron,
    "ms_swift": projects.export_ms_swift,
    "llama_factory": projects.export_llama_factory,
}


@dataclass(frozen=True)
class Exported:
    """What was written: the mixture's id, the file, folder or place, and how much is in it.

    text:    where no file was named
    remarks: what is worth knowing of it
    """

    mixture: str
    path: Path | str | None
    counts: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    text: str | None = field(default=None, repr=False)


def export(
    store: Store, mixture: Mixture, *, format: str | None = None, out: Name | None = None,
    materialised: Name | None = None, hf_dataset: Name | None = None, flagembedding: Name | None = None,
    tevatron: Name | None = None, ms_swift: Name | None = None, llama_factory: Name | None = None,
    batches: int | None = None, batch_size: int = 64, seed: int = 42, holdout: float = 0.0,
) -> Exported:  # fmt: skip
    """Write a mixture to a file, or with its data to a folder that trains without the store.

    format:       of the file `out` (without one: of the text): mixture (the default; JSON, all of it), tdro or csv
    materialised: a folder to train from (`trainers.train_on_folder`), or s3://bucket/prefix
    hf_dataset:   a folder for a `datasets.DatasetDict`
    flagembedding: a folder of JSON lines with `pos_scores` and `neg_scores` (`mixture.registry.flag`)
    tevatron, ms_swift, llama_factory: a folder of JSON lines and a YAML file with the weights
                  (`mixture.registry.projects`)
    batches:      the rows of so many training batches go to `out`, of `batch_size` examples, drawn with `seed`; of a
                  training that holds out the share `holdout`
    """
    named = {"flagembedding": flagembedding, "tevatron": tevatron, "ms_swift": ms_swift, "llama_factory": llama_factory}
    into = {"materialised": materialised, "hf_dataset": hf_dataset, **named}
    chosen = [name for name, value in {"format": format, **into, "batches": batches}.items() if value is not None]
    if len(chosen) > 1:
        names = ", ".join(f"`{name}`" for name in ("format", *into, "batches"))
        raise UsageError(f"give one of {names}")
    if (batches is not None and out is None) or (out is not None and chosen and chosen[0] in into):
        raise UsageError("`out` goes with `format` and `batches`; `batches` needs it")
    saved = registry.resolve(store, mixture)
    if materialised is not None:
        if remote.is_remote(materialised):
            with scratch_in(store.work) as scratch:
                data = folders.export_materialised(store, saved, scratch)
                there = remote.sent(scratch, materialised, saved.spec.id)
            return Exported(saved.spec.id, there, {"examples": sum(data.sizes.values())})
        folder = Path(materialised).expanduser()
        data = folders.export_materialised(store, saved, folder)
        return Exported(saved.spec.id, folder, {"examples": sum(data.sizes.values())})
    if hf_dataset is not None:
        folder = Path(hf_dataset).expanduser()
        return Exported(saved.spec.id, folder, {"collections": len(folders.export_hf_dataset(store, saved, folder))})
    for project, name in named.items():
        if name is not None:
            folder = Path(name).expanduser()
            rows_of, remarks = PROJECTS[project](store, saved, folder)
            counts = {"collections": len(rows_of), "rows": sum(rows_of.values())}
            return Exported(saved.spec.id, folder, counts, tuple(remarks))
    file = None if out is None else Path(out).expanduser()
    if batches is not None and file is not None:
        rows = folders.export_batches(store, saved, file, batches=batches, batch_size=batch_size, seed=seed,
                                      holdout=holdout)  # fmt: skip
        return Exported(saved.spec.id, file, {"batches": batches, "rows": rows})
    text = files.export_text(store, saved, format or "mixture")
    if file is None:
        return Exported(saved.spec.id, None, text=text)
    with new_file(file) as whole:
        whole.write_text(text, "utf-8")
    return Exported(saved.spec.id, file)

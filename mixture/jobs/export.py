"""Mixtures to files and folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mixture import registry
from mixture.arguments import Name
from mixture.errors import UsageError
from mixture.registry import Mixture, files, flag, folders
from mixture.store import Store


@dataclass(frozen=True)
class Exported:
    """What was written: the mixture's id, the file or folder, and how much is in it; `text` where no file was named.
    remarks: what is worth knowing of it"""

    mixture: str
    path: Path | None
    counts: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    text: str | None = field(default=None, repr=False)


def export(
    store: Store, mixture: Mixture, *, format: str | None = None, out: Name | None = None,
    materialised: Name | None = None, hf_dataset: Name | None = None, flagembedding: Name | None = None,
    batches: int | None = None, batch_size: int = 64, seed: int = 42, holdout: float = 0.0,
) -> Exported:  # fmt: skip
    """Write a mixture to a file, or with its data to a folder that trains without the store.

    format:       of the file `out` (without one: of the text): mixture (the default; JSON, all of it), tdro or csv
    materialised: a folder to train from (`trainers.train_on_folder`)
    hf_dataset:   a folder for a `datasets.DatasetDict`
    flagembedding: a folder of JSON lines with `pos_scores` and `neg_scores` (`mixture.registry.flag`)
    batches:      the rows of so many training batches go to `out`, of `batch_size` examples, drawn with `seed`; of a
                  training that holds out the share `holdout`
    """
    if sum(given is not None for given in (format, materialised, hf_dataset, flagembedding, batches)) > 1:
        raise UsageError("give one of `format`, `materialised`, `hf_dataset`, `flagembedding`, `batches`")
    if (batches is not None and out is None) or (out is not None and (materialised or hf_dataset or flagembedding)):
        raise UsageError("`out` goes with `format` and `batches`; `batches` needs it")
    saved = registry.resolve(store, mixture)
    if materialised is not None:
        folder = Path(materialised).expanduser()
        data = folders.export_materialised(store, saved, folder)
        return Exported(saved.spec.id, folder, {"examples": sum(data.sizes.values())})
    if hf_dataset is not None:
        folder = Path(hf_dataset).expanduser()
        return Exported(saved.spec.id, folder, {"collections": len(folders.export_hf_dataset(store, saved, folder))})
    if flagembedding is not None:
        folder = Path(flagembedding).expanduser()
        rows_of, remarks = flag.export_flagembedding(store, saved, folder)
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
    file.write_text(text, "utf-8")
    return Exported(saved.spec.id, file)

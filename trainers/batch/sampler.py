"""The mixture's batches in sentence-transformers' own trainer: the rows that `mixture train` draws, step for step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from sentence_transformers.base.sampler import MultiDatasetDefaultBatchSampler
from torch.utils.data import BatchSampler, ConcatDataset

from mixture.arguments import Name
from mixture.errors import UsageError
from mixture.materialised import positives_beside
from mixture.sampling import BatchPlan
from mixture.specs import MixtureSpec
from trainers.parallel import ranks

logger = logging.getLogger(__name__)


class MixtureBatchSampler(MultiDatasetDefaultBatchSampler):
    """Batches of one collection each, drawn by weight, of a folder that `mixture export REF --hf-dataset FOLDER` wrote.

    The argument `multi_dataset_batch_sampler` of `SentenceTransformerTrainingArguments` takes
    `MixtureBatchSampler.of(FOLDER)`. A batch of all ranks has per_device_train_batch_size · ranks rows. They are a
    function of mixture, this size, the trainer's `seed` and the step: those of `BatchPlan`, as `mixture train` draws.

    An epoch has as many steps as hold the rows of all collections of positive weight; the next goes on where it ended.
    A batch is cut into equal runs, a rank each. A batch that is short, and that the ranks cannot share evenly, goes on
    with its first rows. accelerate's `split_batches` would cut it again, and must stay off.
    """

    @staticmethod
    def of(folder: Name) -> Callable[..., MixtureBatchSampler]:
        """What the trainer calls with its datasets. Raises `UsageError` where `folder` has no mixture for it."""
        path = Path(folder).expanduser().resolve()
        _spec(path)
        return partial(MixtureBatchSampler, folder=path)  # the trainer pickles its arguments

    def __init__(
        self,
        dataset: ConcatDataset[Any],
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int = 0,
        *,
        folder: Path,
    ) -> None:
        super().__init__(dataset, batch_samplers=batch_samplers, generator=generator, seed=seed)
        spec = _spec(folder)
        sizes = _sizes(dataset, spec, folder)
        scaled = [c.name for c in spec.components if c.loss_weight != 1.0]
        if scaled and ranks.is_main():
            logger.warning("a sampler does not scale losses: the loss weights of %s are not used", ", ".join(scaled))
        self._ranks = ranks.state().num_processes
        size = int(self.batch_size) * self._ranks
        positives = {name: positives_beside(folder / name) for name in sizes}
        self.plan = BatchPlan(spec.weights, sizes, size, seed, positives=positives)
        self._first = dict(zip(sizes, [0, *dataset.cumulative_sizes], strict=False))
        self._steps = -(-sum(n for name, n in sizes.items() if spec.weights[name] > 0) // size)
        # accelerate drops batches of another size than this one.
        self.batch_size = None  # type: ignore[assignment]
        # After a restart on several ranks the trainer reaches only the dataset.
        dataset.set_epoch = self.set_epoch  # type: ignore[attr-defined]

    def __len__(self) -> int:
        """Batches of an epoch, one for each rank and step."""
        return self._steps * self._ranks

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self._steps
        for step in range(first, first + self._steps):
            for rank in range(self._ranks):
                yield _Rows(self, step, rank)  # type: ignore[misc]

    def rows(self, step: int, rank: int) -> list[int]:
        """What `rank` trains on at `step` (from 0, through all epochs): indices into the concatenated datasets."""
        name, rows = self.plan.batch(step)
        each = -(-len(rows) // self._ranks)
        return [self._first[name] + int(rows[i % len(rows)]) for i in range(rank * each, (rank + 1) * each)]


class _Rows(Sequence[int]):
    """A batch that is drawn when it is read: a restarted trainer goes through all batches before its own."""

    def __init__(self, sampler: MixtureBatchSampler, step: int, rank: int) -> None:
        self._draw: Callable[[], list[int]] = partial(sampler.rows, step, rank)
        self._drawn: list[int] | None = None

    def _list(self) -> list[int]:
        if self._drawn is None:
            self._drawn = self._draw()
        return self._drawn

    def __len__(self) -> int:
        return len(self._list())

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> list[int]: ...

    def __getitem__(self, place: int | slice) -> int | list[int]:
        return self._list()[place]

    def __reduce__(self) -> tuple[Any, ...]:  # to a worker that loads data
        return list, (self._list(),)


def _spec(folder: Path) -> MixtureSpec:
    file = folder / "mixture.json"
    if not file.is_file():
        raise UsageError(f"{folder} has no mixture.json; `mixture export` with `hf_dataset` writes such a folder")
    return MixtureSpec.from_json(file.read_text("utf-8"))


def _sizes(dataset: ConcatDataset[Any], spec: MixtureSpec, folder: Path) -> dict[str, int]:
    """Rows of each component, in order. Raises `UsageError` where the datasets are not those of the folder."""
    import datasets

    found = datasets.load_from_disk(str(folder))
    own = {name: found[name] for name in spec.weights}
    sizes = {name: len(part) for name, part in own.items()}
    given = [len(part) for part in dataset.datasets]  # type: ignore[arg-type]
    if given != list(sizes.values()):
        raise UsageError(f"the datasets have {given} rows, those of {folder} {list(sizes.values())}; {_ASK}")
    for (name, part), other in zip(own.items(), dataset.datasets, strict=True):
        plain = other.with_format(None)  # type: ignore[attr-defined]
        for row in {0, len(part) // 2, len(part) - 1} if len(part) and "anchor" in plain.column_names else ():
            if plain[row]["anchor"] != part[row]["anchor"]:
                raise UsageError(f"row {row} of {name!r} is another than in {folder}; {_ASK}")
    return sizes


_ASK = "give the trainer all that `datasets.load_from_disk` reads there, in that order"

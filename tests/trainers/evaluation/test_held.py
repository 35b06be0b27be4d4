"""Blocks that are held: the same vectors in the same blocks, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mixture.embeddings import Block
from trainers.evaluation.held import HeldBlocks


class Made:
    """Vectors in uneven blocks, which counts how often they are made; broken: in which block the first time."""

    def __init__(self, broken: int | None = None) -> None:
        random = np.random.default_rng(0)
        self.parts = [Block(np.array(numbers), random.normal(size=(len(numbers), 3)).astype(np.float32))
                      for numbers in ([4, 1], [0], [2, 3, 5])]  # fmt: skip
        self.made, self.broken = 0, broken

    def __len__(self) -> int:
        return 6

    def blocks(self) -> Iterator[Block]:
        for number, part in enumerate(self.parts):
            if number == self.broken:
                self.broken = None
                raise OSError
            self.made += len(part.numbers)
            yield part


def _same(found: list[Block], made: Made) -> None:
    for one, other in zip(found, made.parts, strict=True):
        np.testing.assert_array_equal(one.numbers, other.numbers)
        np.testing.assert_array_equal(one.vectors, other.vectors)
        assert one.vectors.dtype == np.float32


def test_the_second_time_they_are_read(tmp_path: Path) -> None:
    made, held = Made(), HeldBlocks(tmp_path)
    for _ in range(3):
        _same(list(held(made).blocks()), made)
    assert (made.made, held.encoded, len(held)) == (6, 6, 6)
    assert list(tmp_path.iterdir()) == []  # a kill leaves nothing
    held.close()


def test_what_broke_off_is_made_again(tmp_path: Path) -> None:
    made, held = Made(broken=2), HeldBlocks(tmp_path)
    with pytest.raises(OSError):
        list(held(made).blocks())
    for _ in range(2):
        _same(list(held(made).blocks()), made)
    assert (made.made, held.encoded) == (9, 6)

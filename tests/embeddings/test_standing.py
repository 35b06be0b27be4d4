"""A search that was killed goes on where it noted that it stood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixture.embeddings import Block, InMemory, Vectors, top_k
from mixture.embeddings.standing import SEARCH, WRITING, Standing

QUERIES, PASSAGES, K, SIZE = 30, 200, 7, 20
PAIRS = np.arange(15) % QUERIES, np.arange(15) * 13 % PASSAGES


class Cut(InMemory):
    """Vectors that end in an error after some blocks, or count how often they are gone over."""

    def __init__(self, vectors: np.ndarray, size: int = SIZE, after: int | None = None) -> None:
        super().__init__(vectors, size)
        self.after, self.rounds = after, 0

    def blocks(self) -> Iterator[Block]:
        self.rounds += 1
        for number, block in enumerate(super().blocks()):
            if number == self.after:
                raise InterruptedError
            yield block


def both(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((QUERIES, 5)).astype("f4"), rng.standard_normal((PASSAGES, 5)).astype("f4")


def search(
    queries: Vectors, passages: Vectors, standing: Standing | None, k: int = K
) -> tuple[bytes, bytes, bytes]:  # fmt: skip
    found = top_k(queries, passages, k, pairs=PAIRS, tile=8, standing=standing)
    return (*(array.tobytes() for array in found.arrays()), found.pair_scores.tobytes())


def killed(folder: Path, after: int, every: float = 0) -> None:
    queries, passages = both()
    with pytest.raises(InterruptedError):
        search(InMemory(queries), Cut(passages, after=after), Standing(folder, "one", every))


@pytest.mark.parametrize("after", [1, 4, 9])
def test_only_the_blocks_that_are_left_are_searched_and_the_bits_are_the_same(tmp_path: Path, after: int) -> None:
    queries, passages = both()
    whole = search(InMemory(queries), InMemory(passages, SIZE), None)
    killed(tmp_path, after)
    counted = Cut(queries)
    assert search(counted, InMemory(passages, SIZE), Standing(tmp_path, "one", 0)) == whole
    assert counted.rounds == PASSAGES // SIZE - after
    again = Cut(queries)
    assert search(again, InMemory(passages, SIZE), Standing(tmp_path, "one", 0)) == whole  # until it is dropped
    assert again.rounds == 0
    Standing(tmp_path, "one").drop()
    assert not list(tmp_path.iterdir())


def test_blocks_may_be_cut_anew(tmp_path: Path) -> None:
    """Of whole numbers, whose products do not depend on it."""
    queries, passages = (np.round(3 * vectors) for vectors in both())
    with pytest.raises(InterruptedError):
        search(InMemory(queries), Cut(passages, after=3), Standing(tmp_path, "one", 0))
    whole = search(InMemory(queries), InMemory(passages), None)
    assert search(InMemory(queries), InMemory(passages, 33), Standing(tmp_path, "one", 0)) == whole


def test_a_short_search_notes_nothing(tmp_path: Path) -> None:
    queries, passages = both()
    search(InMemory(queries), InMemory(passages, SIZE), Standing(tmp_path, "one"))
    killed(tmp_path, 5, every=60)
    assert not list(tmp_path.iterdir())


def test_what_another_search_noted_is_not_taken(tmp_path: Path) -> None:
    """Neither under another id nor, should two have one id, with other shapes."""
    killed(tmp_path, 5)
    queries, passages = both()
    for k, id in ((K, "two"), (K + 1, "one")):
        counted = Cut(queries)
        found = search(counted, InMemory(passages, SIZE), Standing(tmp_path, id, 0), k)
        assert found == search(InMemory(queries), InMemory(passages, SIZE), None, k)
        assert counted.rounds == PASSAGES // SIZE


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.data())
def test_what_is_damaged_counts_as_not_there(tmp_path: Path, data: st.DataObject) -> None:
    queries, passages = both()
    whole = search(InMemory(queries), InMemory(passages, SIZE), None)
    killed(tmp_path, 5)
    file = tmp_path / f"{SEARCH}one.npz"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    assert search(InMemory(queries), InMemory(passages, SIZE), Standing(tmp_path, "one", 0)) == whole


def test_a_full_disk_stops_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(scratch: Path, **_: np.ndarray) -> None:
        scratch.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    queries, passages = both()
    whole = search(InMemory(queries), InMemory(passages, SIZE), None)
    assert search(InMemory(queries), InMemory(passages, SIZE), Standing(tmp_path, "one", 0)) == whole
    assert "would begin anew" in caplog.text
    assert not list(tmp_path.glob(f"{WRITING}*"))

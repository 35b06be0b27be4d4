"""Embeddings of a frozen model are computed once, whoever asks, and survive a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainers.batch.reference_cache import EmbeddingCache

DIMENSIONS = 4
ROW = 4 * DIMENSIONS


class Encoder:
    """Embeddings that are a function of text and limit; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str], limits: Sequence[int]) -> Tensor:
        self.asked += texts
        values = [[float(len(t)), float(n), float(ord(t[0])), 1.0] for t, n in zip(texts, limits, strict=True)]
        return torch.tensor(values)


def test_each_text_is_encoded_once_also_by_another_process(tmp_path: Path) -> None:
    encoder = Encoder()
    cache = EmbeddingCache(tmp_path, max_bytes=100 * ROW)
    first = cache.embeddings(["aa", "b", "aa"], [8, 8, 8], encoder)
    assert first.tolist() == [[2, 8, 97, 1], [1, 8, 98, 1], [2, 8, 97, 1]]
    again = cache.embeddings(["b", "ccc"], [8, 8], encoder)
    assert again.tolist() == [[1, 8, 98, 1], [3, 8, 99, 1]]
    assert encoder.asked == ["aa", "b", "ccc"]
    assert (cache.encoded, cache.found) == (3, 1)
    # A text cut at another length is another text.
    assert cache.embeddings(["b"], [4], encoder)[0, 1] == 4
    cache.close()
    other = EmbeddingCache(tmp_path, max_bytes=100 * ROW)
    assert len(other) == 4
    silent = Encoder()
    torch.testing.assert_close(other.embeddings(["aa", "b", "ccc"], [8, 8, 8], silent)[:2], first[:2], rtol=0, atol=0)
    assert silent.asked == []


def test_a_file_cut_off_anywhere_gives_its_whole_batches(tmp_path: Path) -> None:
    encoder, cache = Encoder(), EmbeddingCache(tmp_path / "whole", max_bytes=100 * ROW)
    for text in "abc":
        cache.embeddings([text, text * 2], [8, 8], encoder)
    # Not closed: as a kill leaves it.
    content = next((tmp_path / "whole").iterdir()).read_bytes()
    sizes = set()
    for end in range(0, len(content) + 1, 8):
        folder = tmp_path / f"cut-{end}"
        folder.mkdir()
        (folder / "x.arrows").write_bytes(content[:end])
        sizes.add(len(EmbeddingCache(folder, max_bytes=100 * ROW)))
    assert sizes == {0, 2, 4, 6}
    cache.close()


def test_memory_and_disk_are_bounded(tmp_path: Path) -> None:
    encoder, cache = Encoder(), EmbeddingCache(tmp_path, max_bytes=3 * ROW + 1)
    texts = ["a", "b", "c", "d", "e"]
    for _ in range(2):
        assert cache.embeddings(texts, [8] * 5, encoder)[:, 2].tolist() == [97, 98, 99, 100, 101]
    assert encoder.asked == [*texts, "d", "e"]
    cache.close()
    assert len(EmbeddingCache(tmp_path, max_bytes=100 * ROW)) == 3
    nothing = EmbeddingCache(tmp_path, max_bytes=0)
    assert nothing.embeddings(["a"], [8], encoder).shape == (1, DIMENSIONS)
    assert len(nothing) == 0


def test_two_runs_may_have_written_the_same_text(tmp_path: Path) -> None:
    encoder = Encoder()
    caches = [EmbeddingCache(tmp_path, max_bytes=100 * ROW) for _ in range(2)]
    for cache in caches:
        cache.embeddings(["a", "b"], [8, 8], encoder)
        cache.close()
    both = EmbeddingCache(tmp_path, max_bytes=100 * ROW)
    assert len(both) == 2
    assert both.embeddings(["c", "b"], [8, 8], encoder)[:, 2].tolist() == [99, 98]

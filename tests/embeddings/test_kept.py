"""Kept embeddings are read back as they were written, by others too, and damage is never a wrong number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixture.embeddings import Keeping, KeptEmbeddings, Passing, Space, kept, source
from mixture.embeddings.kept import EMBEDDING, KEY
from mixture.errors import MixtureError, UsageError
from mixture.text.digests import text_digests
from mixture.text.strings import Strings, arrow_texts

SPACE = Space(model="0" * 16, prompt="query: ", max_tokens=64)


def vector_of(text: str, size: int = 6) -> np.ndarray:
    digits = np.frombuffer(hashlib.sha512(text.encode()).digest()[:size], np.uint8)
    return (digits.astype(np.float32) - 127.5) / 128


class Model:
    """An encoder that remembers what it was given. shared: queries and passages have one space."""

    def __init__(self, *, shared: bool = False, fails_after: int | None = None) -> None:
        self.given: list[list[str]] = []
        self.shared, self.fails_after = shared, fails_after

    def __call__(self, texts: Any, kind: str) -> np.ndarray:
        if self.fails_after is not None and len(self.given) == self.fails_after:
            raise InterruptedError
        self.given.append(list(texts))
        return np.array([vector_of(text) for text in texts])

    def space(self, kind: str) -> Space:
        return Space(model="m", prompt="" if self.shared or kind == "passage" else "query: ", max_tokens=64)

    @property
    def texts(self) -> list[str]:
        return [text for call in self.given for text in call]


@pytest.fixture
def keeping(tmp_path: Path) -> Callable[..., Keeping]:
    return lambda model, precision="float32": Keeping(model, lambda name: tmp_path / name, precision)


def texts(*values: str) -> Strings:
    return Strings(arrow_texts(list(values)))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def test_only_what_is_not_there_is_encoded_and_equal_texts_once(keeping: Callable[..., Keeping]) -> None:
    first, second = Model(), Model()
    source = keeping(first)
    found = source(["a", "b", "a", "红楼梦"], "passage")
    assert (found == [vector_of(text) for text in ("a", "b", "a", "红楼梦")]).all()
    assert (first.texts, source.encoded, source.reused) == (["a", "b", "红楼梦"], 3, 0)
    source = keeping(second)
    assert (source(["c", "b", "c", "a", "a"], "passage") == [vector_of(text) for text in "cbcaa"]).all()
    assert (second.texts, source.encoded, source.reused) == (["c"], 1, 2)


def test_prompt_length_model_and_precision_make_a_space(keeping: Callable[..., Keeping], tmp_path: Path) -> None:
    model = Model()
    source = keeping(model)
    source(["a"], "query"), source(["a"], "passage")
    assert model.texts == ["a", "a"]
    keeping(model, "float16")(["a"], "query")
    assert len(model.texts) == 3
    folders = {SPACE.id}
    for change in ({"model": "1"}, {"prompt": ""}, {"max_tokens": 63}, {"max_tokens": None}, {"precision": "float16"}):
        parts = {name: value for name, value in SPACE.parts.items() if name != "layout"}
        folders.add(Space(**parts | change).id)
    assert len(folders) == 6
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3
    with pytest.raises(UsageError, match="`precision` is 'int8'; allowed: float32, float16"):
        Space(model="m", precision="int8")


def test_queries_and_passages_of_one_space_share_it(keeping: Callable[..., Keeping]) -> None:
    model = Model(shared=True)
    source = keeping(model)
    source(["a"], "query"), source(["a", "b"], "passage")
    assert (model.texts, source.reused) == (["a", "b"], 1)


def test_a_killed_run_goes_on_at_its_block(keeping: Callable[..., Keeping], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "AT_ONCE", 3)
    names = [f"text {number}" for number in range(10)]
    killed = Model(fails_after=2)
    with pytest.raises(InterruptedError):
        keeping(killed)(names, "passage")
    assert len(killed.texts) == 6
    again = Model()
    assert (keeping(again)(names, "passage") == [vector_of(name) for name in names]).all()
    assert again.texts == names[6:]
    assert list(map(len, again.given)) == [3, 1]


def test_blocks_have_each_text_once_and_stay_small(
    keeping: Callable[..., Keeping], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where one text is there many times, in the first pass, which encodes, and in the second, which reads."""
    monkeypatch.setattr(source, "AT_ONCE", 4)
    monkeypatch.setattr(kept, "AT_ONCE", 4)
    names = [f"text {number % 7}" for number in range(30)] + ["same"] * 20
    vectors = keeping(Model()).vectors(texts(*names), "passage")
    assert not files(tmp_path)  # encoded only when asked for
    for _ in range(2):
        blocks = list(vectors.blocks())
        assert max(len(block.numbers) for block in blocks) <= 4
        assert sorted(number for block in blocks for number in block.numbers.tolist()) == list(range(50))
        assert all((row == vector_of(names[n])).all() for block in blocks for n, row in zip(*block, strict=True))
    assert len(files(tmp_path)) == 2


def test_many_queries_are_read_again_and_not_held(
    keeping: Callable[..., Keeping], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, names = Model(), [f"text {number}" for number in range(9)]
    held = keeping(model).vectors(texts(*names), "query", again=True)
    assert hasattr(held, "vectors")
    monkeypatch.setattr(source, "IN_MEMORY", 9 * 6 * 4 - 1)
    read = keeping(model).vectors(texts(*names), "query", again=True)
    assert not hasattr(read, "vectors")
    (one,), (other,) = held.blocks(), read.blocks()
    assert (one.numbers == other.numbers).all() and (one.vectors == other.vectors).all()


def test_half_precision_is_the_same_before_and_after_it_is_kept(
    keeping: Callable[..., Keeping], tmp_path: Path
) -> None:
    wanted = np.array([vector_of("a"), vector_of("b")]).astype(np.float16).astype(np.float32)
    for _ in range(2):
        (block,) = keeping(Model(), "float16").vectors(texts("a", "b"), "passage").blocks()
        assert block.vectors.dtype == np.float32
        assert (block.vectors == wanted).all()
    assert pq.read_schema(files(tmp_path)[0]).field(EMBEDDING).type.value_type == "halffloat"
    with pytest.raises(UsageError, match="float16 cannot hold"):
        KeptEmbeddings(tmp_path / "x", Space(model="m", precision="float16")).add(
            text_digests(["a"]), np.array([[1e6]], np.float32)
        )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_duckdb_and_numpy_read_the_files(keeping: Callable[..., Keeping], tmp_path: Path, precision: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    keeping(Model(), precision)(["a", "红楼梦"], "query")
    (file,) = files(tmp_path)
    facts = json.loads((file.parent / "space.json").read_text("utf-8"))
    assert facts["space"] == Space(model="m", prompt="query: ", max_tokens=64, precision=precision).parts
    metadata = pq.ParquetFile(file).metadata
    assert (metadata.num_row_groups, metadata.row_group(0).column(1).compression) == (1, "UNCOMPRESSED")
    table = pq.read_table(file, memory_map=True)
    numbers = table[EMBEDDING].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    wanted = np.array([vector_of("a"), vector_of("红楼梦")]).astype(numbers.dtype)
    assert (numbers == wanted).all()
    assert table[KEY][1].as_py() == hashlib.sha256("红楼梦".encode()).digest()[:16]
    query = f"SELECT {EMBEDDING} FROM '{file}' WHERE hex({KEY}) = upper(sha256('红楼梦')[:32])"
    ((found,),) = duckdb.sql(query).fetchall()
    assert found == pytest.approx(wanted[1].tolist())


def test_a_file_that_was_cut_off_is_encoded_again(keeping: Callable[..., Keeping], tmp_path: Path, caplog: Any) -> None:
    names = [f"text {number}" for number in range(50)]
    keeping(Model())(names, "passage")
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        again = Model()
        assert (keeping(again)(names, "passage") == [vector_of(name) for name in names]).all()
        assert again.texts == names
        assert f"{file} is damaged, and its texts are encoded again" in caplog.text
        for other in files(tmp_path):
            if other != file:
                other.unlink()


def test_a_flipped_bit_is_an_error_or_encoded_again_and_never_a_wrong_number(
    keeping: Callable[..., Keeping], tmp_path: Path
) -> None:
    names = [f"text {number}" for number in range(50)]
    keeping(Model())(names, "passage")
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    refused = 0
    for place in range(4, len(whole) - 8, 41):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert (keeping(Model())(names, "passage") == [vector_of(name) for name in names]).all()
        except MixtureError as error:
            assert str(file) in str(error)
            assert "is damaged; delete it, and its texts are encoded again" in str(error)
            refused += 1
        for other in files(tmp_path):
            if other != file:
                other.unlink()
    assert refused > 10


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = KeptEmbeddings(tmp_path, SPACE)

    def full(table: Any, file: Path, **options: Any) -> None:
        file.write_bytes(b"PAR1")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space left"):
        there.add(text_digests(["a"]), np.ones((1, 3), np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["space.json"]


def test_another_space_or_size_is_refused(tmp_path: Path) -> None:
    there = KeptEmbeddings(tmp_path, SPACE)
    there.add(text_digests(["a"]), np.ones((1, 3), np.float32))
    assert (len(there), there.dimensions, len(KeptEmbeddings(tmp_path, SPACE))) == (1, 3, 1)
    with pytest.raises(UsageError, match=r"gave shape \(1, 4\)"):
        there.add(text_digests(["b"]), np.ones((1, 4), np.float32))
    with pytest.raises(MixtureError, match="another space"):
        KeptEmbeddings(tmp_path, Space(model="other"))
    (tmp_path / "space.json").write_text("{")
    with pytest.raises(MixtureError, match="is damaged; delete the folder"):
        KeptEmbeddings(tmp_path, SPACE)


def test_a_plain_function_is_called_in_portions_and_keeps_nothing(tmp_path: Path) -> None:
    model = Model()
    vectors = Passing(model, 2).vectors(texts(*"abcde"), "passage")
    assert model.given == []
    assert [block.numbers.tolist() for block in vectors.blocks()] == [[0, 1], [2, 3], [4]]
    assert list(map(len, model.given)) == [2, 2, 1]
    counted = Passing(model)
    assert (counted(["a", "a"], "query") == [vector_of("a")] * 2).all()
    assert (counted.encoded, counted.reused) == (2, 0)

"""Which files belong to which collection."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixture.errors import UsageError
from mixture.ingest.sources import discover, split_name


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "raw/xquad/xquad.zh.jsonl", "raw/xquad/xquad.ar.jsonl", "raw/xquad/README.md", "raw/xquad/notes.MD",
        "raw/nq/data/train-00000-of-00002.parquet", "raw/nq/data/train-00001-of-00002.parquet",
        "raw/nq/.cache/lock", "raw/agnews/agnews.jsonl.gz", "raw/agnews/.hidden.jsonl", "raw/agnews/LICENSE",
        "raw/README", "raw/empty/license.txt",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*sources: str | Path, name: str | None = None) -> list[tuple[str, str, str | None]]:
    return [(unit.location, unit.collection, unit.language) for unit in discover(sources, name)]


def test_folder_of_folders(tree: Path) -> None:
    assert found("raw") == [
        ("raw/agnews/agnews.jsonl.gz", "agnews", None),
        ("raw/nq/data/train-00000-of-00002.parquet", "nq", None),
        ("raw/nq/data/train-00001-of-00002.parquet", "nq", None),
        ("raw/xquad/xquad.ar.jsonl", "xquad", "ar"),
        ("raw/xquad/xquad.zh.jsonl", "xquad", "zh"),
    ]


def test_folder_of_files_is_named_after_the_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [("xquad", "ar"), ("xquad", "zh")]
    (tree / "raw/xquad").rename(tree / "raw/renamed")
    assert [row[1:] for row in found(tree / "raw/renamed/")] == [("renamed", "ar"), ("renamed", "zh")]
    (tree / "raw/renamed").rename(tree / "raw/xquad")
    monkeypatch.chdir(tree / "raw/xquad")
    assert [row[1:] for row in found(".")] == expected


def test_folder_of_files_and_folders(tree: Path) -> None:
    (tree / "raw/loose.jsonl").touch()
    assert ("raw/loose.jsonl", "raw", None) in found("raw")
    assert len(found("raw")) == 6


def test_single_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("raw/xquad/xquad.zh.jsonl") == [("raw/xquad/xquad.zh.jsonl", "xquad", "zh")]
    assert [row[1] for row in found("raw/agnews/agnews.jsonl.gz")] == ["agnews"]
    assert [row[1] for row in found("raw/nq/data/train-00000-of-00002.parquet")] == ["nq"]
    monkeypatch.chdir(tree / "raw/nq/data")
    assert [row[1] for row in found("train-00000-of-00002.parquet")] == ["nq"]


def test_folder_called_data(tree: Path) -> None:
    assert {row[1] for row in found("raw/nq")} == {row[1] for row in found("raw/nq/data")} == {"nq"}
    (tree / "data").mkdir()
    (tree / "data/mine.jsonl").touch()
    assert [row[1] for row in found("data")] == ["data"]


def test_a_document_given_by_itself_is_data(tree: Path) -> None:
    assert found("raw/README") == [("raw/README", "README", None)]


def test_glob(tree: Path) -> None:
    assert [row[1:] for row in found("raw/xquad/*")] == [("xquad", "ar"), ("xquad", "zh")]
    assert [row[1] for row in found("raw/*/")] == ["agnews", "nq", "nq", "xquad", "xquad"]
    assert [row[1] for row in found(tree / "raw/**/*.parquet")] == ["nq", "nq"]


def test_name_with_magic_characters_is_a_path_first(tree: Path) -> None:
    (tree / "a[1].jsonl").touch()
    assert found("a[1].jsonl") == [("a[1].jsonl", "a[1]", None)]


def test_result_does_not_depend_on_the_order_of_sources(tree: Path) -> None:
    assert found("raw/xquad", "raw/agnews") == found("raw/agnews", "raw/xquad", "raw/xquad/../xquad")


def test_name_makes_several_sources_one_collection(tree: Path) -> None:
    assert [row[1:] for row in found("raw/agnews", "raw/xquad/xquad.zh.jsonl", name="mine")] == [
        ("mine", None), ("mine", "zh"),
    ]  # fmt: skip
    assert {row[1] for row in found("raw/*/*.jsonl*", name="mine")} == {"mine"}


def test_name_for_a_folder_of_collections_is_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"one name 'mine' for the 3 collections of raw: agnews, nq, xquad"):
        discover(["raw"], "mine")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["raw/nowhere"], "no such file or folder: raw/nowhere"),
        (["raw/*.csv"], r"no data files in raw/\*\.csv"),
        (["raw/empty"], "no data files in raw/empty"),
        (["raw/agnews", "raw/empty"], "no data files in raw/empty"),
        ([], "no sources"),
        (["raw", "raw/x/a.jsonl"], "would be in two collections, 'x' and 'a'"),
    ],
)
def test_mistakes(tree: Path, sources: list[str], message: str) -> None:
    (tree / "raw/x").mkdir()
    (tree / "raw/x/a.jsonl").touch()
    with pytest.raises(UsageError, match=message):
        discover(sources, None)


def test_a_folder_of_links_keeps_the_names_of_the_links(tree: Path) -> None:
    (tree / "blob").touch()
    (tree / "linked").mkdir()
    (tree / "linked/train-00000-of-00001.parquet").symlink_to(tree / "blob")
    assert found("linked/train-00000-of-00001.parquet") == [
        ("linked/train-00000-of-00001.parquet", "linked", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xquad.zh.jsonl", ("xquad", "zh")),
        ("miracl.pt-BR.jsonl.gz", ("miracl", "pt-BR")),
        ("miracl.zh-Hans.csv", ("miracl", "zh-Hans")),
        ("tydi.tel.tsv", ("tydi", "tel")),
        ("nq.dev.jsonl", ("nq.dev", None)),
        ("nq.train.jsonl", ("nq.train", None)),
        ("nq.v2.jsonl", ("nq.v2", None)),
        ("zh.jsonl", ("zh", None)),
        ("noextension", ("noextension", None)),
        ("DATA.JSONL.GZ", ("DATA", None)),
    ],
)
def test_split_name(name: str, expected: tuple[str, str | None]) -> None:
    assert split_name(Path(name)) == expected


@pytest.mark.parametrize("split", ["dev", "trian"])
def test_a_part_is_not_asked_for_in_vain(tree: Path, split: str) -> None:
    (tree / "pairs.jsonl").touch()
    with pytest.raises(UsageError, match=r"pairs\.jsonl: its name says no part .* leave `split` out"):
        discover(["pairs.jsonl"], None, split=split)
    assert [unit.collection for unit in discover(["pairs.jsonl"], None, split="train,dev")] == ["pairs"]


@pytest.mark.parametrize("stem", ["pairs", "data", "questions", "examples", "triples", "rows"])
def test_a_plain_word_is_a_name_too(tree: Path, stem: str) -> None:
    (tree / f"{stem}.jsonl").touch()
    assert found(f"{stem}.jsonl") == [(f"{stem}.jsonl", stem, None)]
    (tree / "own").mkdir()
    (tree / "own/train.jsonl").touch()
    assert [row[1] for row in found("own/train.jsonl")] == ["own"]

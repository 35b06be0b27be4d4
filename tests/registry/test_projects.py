"""Mixtures as other projects' trainers read them: each export against its documented layout, and back into a store."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import cli
from mixture import Store, jobs
from mixture.errors import UsageError
from mixture.registry import lines

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"art": 0.5, "pairs": 0.2, "wiki[language=de]": 0.1, "wiki[language=en]": 0.2}
PROMPT = "find the painter"


def collections() -> dict[str, list[dict[str, Any]]]:
    """Several positives, scores and a prompt; pairs alone; titles on some passages, and rows without negatives."""
    art = [{"query": f"who painted {n}", "pos": [f"she did {n}", f"he helped {n}"][: 1 + n % 2],
            "neg": [f"nobody {n} {k}" for k in range(n % 4 + 1)], "pos_scores": [0.75, 0.5][: 1 + n % 2],
            "neg_scores": [0.25] * (n % 4 + 1), "prompt": PROMPT} for n in range(12)]  # fmt: skip
    pairs = [{"query": f"question, {n}?", "answer": f'answer "{n}"\nü'} for n in range(30)]
    wiki = [{"query": f"what is {n}", "language": ("de", "en")[n % 2],
             "positive_passages": [{"docid": "1", "title": f"Title {n}" if n % 3 else "", "text": f"it is {n}"}],
             "negative_passages": [{"docid": "2", "title": "Other", "text": f"not {n}"}] * (n % 4 > 0)}
            for n in range(20)]  # fmt: skip
    return {"art": art, "pairs": pairs, "wiki": wiki}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as store:
        for name, rows in collections().items():
            (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
            jobs.ingest(store, tmp_path / f"{name}.jsonl")
        jobs.create(store, "m", collections=["art", "pairs"], slices=["wiki:language"], weights=WEIGHTS)
        yield store


Rows = dict[str, list[tuple[str, str, set[str], set[str]]]]
"""Of each file: prompt, query, positives, negatives of every row."""


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def flagembedding(folder: Path) -> tuple[Rows, dict[str, float]]:
    """query: str, pos: List[str], neg: List[str], and in the argument train_data paths, each read once."""
    rows = {
        file.stem: [(row.get("prompt"), row["query"], set(row["pos"]), set(row["neg"])) for row in rows_of(file)]
        for file in folder.glob("*.jsonl")
    }
    columns = {"prompt" in row for file in folder.glob("*.jsonl") for row in rows_of(file)}
    assert columns == {True}  # in one file it is a column of all
    assert all(neg for part in rows.values() for *_, neg in part)  # it divides by their number
    return rows, listed(rows, (folder / "train_data.txt").read_text("utf-8").splitlines())


def tevatron(folder: Path) -> tuple[Rows, dict[str, float]]:
    """Passages are docid, title and text; `title` is in all of a file or in none, since a null title breaks a row."""
    rows: Rows = {}
    for file in folder.glob("*.jsonl"):
        titled = {"title" in one for row in rows_of(file) for side in SIDES for one in row[side]}
        assert len(titled) == 1
        rows[file.stem] = [
            ("", row["query"], *({" ".join(filter(None, (one.get("title"), one["text"]))) for one in row[side]}
                                 for side in SIDES)) for row in rows_of(file)
        ]  # fmt: skip
        assert all(one["docid"] for row in rows_of(file) for side in SIDES for one in row[side])
        assert all(row["query_id"] and row["negative_passages"] for row in rows_of(file))
    train = yaml.safe_load((folder / "train.yaml").read_text("utf-8"))
    assert train["corpus"] == [{"name": None, "assets_path": None}] * len(train["train"])
    return rows, listed(rows, [one["name"] for one in train["train"]])


SIDES = ("positive_passages", "negative_passages")


def ms_swift(folder: Path) -> tuple[Rows, dict[str, float]]:
    """Messages of role and content, a positive a row, and probabilities as words of a command."""

    def text(messages: list[dict[str, str]]) -> str:
        assert [one["role"] for one in messages] == ["user"]
        return messages[0]["content"]

    rows: Rows = {}
    for file in folder.glob("*.jsonl"):
        rows[file.stem] = []
        for row in rows_of(file):
            *system, said = row["messages"]
            (positive,) = row["positive_messages"]
            assert all(one["role"] == "system" for one in system)
            prompt = system[0]["content"] if system else ""
            rows[file.stem].append((prompt, text([said]), {text(positive)}, set(map(text, row["negative_messages"]))))
    told = yaml.safe_load((folder / "arguments.yaml").read_text("utf-8"))
    assert all(isinstance(one, str) for one in told["interleave_prob"])
    assert (told["task_type"], told["streaming"]) == ("embedding", True)
    names = [name.removesuffix(".jsonl") for name in told["dataset"]]
    return rows, dict(zip(names, map(float, told["interleave_prob"]), strict=True))


def llama_factory(folder: Path) -> tuple[Rows, dict[str, float]]:
    """Texts by the columns of dataset_info.json, and probabilities in one text."""
    info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    rows: Rows = {}
    for name, one in info.items():
        assert one["ranking"] and one["columns"].keys() <= {"prompt", "chosen", "rejected", "system"}
        at = one["columns"]
        rows[name] = [
            (row[at["system"]] if "system" in at else "", row[at["prompt"]], {row[at["chosen"]]}, {row[at["rejected"]]})
            for row in rows_of(folder / one["file_name"])
        ]
    told = yaml.safe_load((folder / "arguments.yaml").read_text("utf-8"))
    assert (told["stage"], told["mix_strategy"], told["dataset_dir"]) == ("rm", "interleave_over", ".")
    assert (told["streaming"], told["dataloader_num_workers"]) == (True, 1)
    probabilities = map(float, told["interleave_probs"].split(","))
    return rows, dict(zip(told["dataset"].split(","), probabilities, strict=True))


READERS: dict[str, Callable[[Path], tuple[Rows, dict[str, float]]]] = {
    "flagembedding": flagembedding, "tevatron": tevatron, "ms_swift": ms_swift, "llama_factory": llama_factory,
}  # fmt: skip


def listed(rows: Rows, files: list[str]) -> dict[str, float]:
    sizes = {name: files.count(f"{name}.jsonl") * len(part) for name, part in rows.items()}
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}


def together(rows: list[tuple[str, str, set[str], set[str]]]) -> dict[str, tuple[set[str], set[str]]]:
    """For each query its positives and its negatives, of all rows."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for _, query, pos, neg in rows:
        sides = found.setdefault(query, (set(), set()))
        sides[0].update(pos)
        sides[1].update(neg)
    return found


def held(store: Store, collection: str, condition: str = "true") -> dict[str, tuple[set[str], set[str]]]:
    """The same of a collection in a store."""
    query = f"""
        SELECT '' AS prompt, query, p AS positive, n AS negative FROM (
            SELECT query, example_id, list(trim(title || ' ' || text)) AS p FROM (
                SELECT collection, query, example_id, unnest(positives).passage_id AS passage_id FROM examples
                WHERE {condition}) JOIN passages USING (collection, passage_id) WHERE collection = $c GROUP BY ALL)
        LEFT JOIN (SELECT example_id, list(trim(title || ' ' || text)) AS n FROM negatives
                   JOIN passages USING (collection, passage_id) WHERE collection = $c GROUP BY ALL)
        USING (example_id)"""
    rows = store.rows(query, {"c": collection})
    return together([("", row["query"], set(row["positive"]), set(row["negative"] or ())) for row in rows])


PARTS = {"art": ("art", "true"), "pairs": ("pairs", "true"), "wiki-language-de": ("wiki", "language = 'de'"),
         "wiki-language-en": ("wiki", "language = 'en'")}  # fmt: skip


def contains(ours: dict[str, tuple[set[str], set[str]]], theirs: dict[str, tuple[set[str], set[str]]]) -> None:
    """Every query, positive and negative, and no other positive; other negatives only where there were none."""
    assert ours.keys() == theirs.keys()
    for query, (pos, neg) in ours.items():
        assert theirs[query][0] == pos
        assert theirs[query][1] == neg or (not neg and not theirs[query][1] & pos)


@pytest.mark.parametrize("project", READERS)
def test_each_layout_is_as_documented_and_weighs_as_the_mixture_does(
    store: Store, tmp_path: Path, project: str
) -> None:
    out = jobs.export(store, "m", **{project: tmp_path / "out"})
    rows, weights = READERS[project](tmp_path / "out")
    assert out.counts == {"collections": 4, "rows": sum(map(len, rows.values()))}
    assert rows.keys() == PARTS.keys()
    assert weights == pytest.approx(dict(zip(PARTS, WEIGHTS.values(), strict=True)), abs=0.01)
    for name, (collection, condition) in PARTS.items():
        contains(held(store, collection, condition), together(rows[name]))
        if project != "tevatron":
            assert {prompt for prompt, *_ in rows[name]} == {PROMPT if name == "art" else ""}
    again = jobs.export(store, "m", **{project: tmp_path / "again"})
    assert again.remarks == out.remarks
    for file in sorted((tmp_path / "out").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@pytest.mark.parametrize("project", READERS)
def test_ingest_of_an_export_loses_nothing(store: Store, tmp_path: Path, project: str) -> None:
    jobs.export(store, "m", **{project: tmp_path / "out"})
    with Store.open(tmp_path / "other", create=True) as other:
        jobs.ingest(other, sorted((tmp_path / "out").glob("*.jsonl")))
        assert not other.rows("FROM rejects")
        for name, (collection, condition) in PARTS.items():
            contains(held(store, collection, condition), held(other, name))
        told = {row["collection"]: row["prompts"] for row in other.rows("SELECT collection, prompts FROM collections")}
        assert told["art"] == ([] if project == "tevatron" else [PROMPT])
        assert not any(prompts for name, prompts in told.items() if name != "art")
        languages = other.rows("SELECT DISTINCT collection, language FROM examples WHERE language IS NOT NULL")
        assert {row["collection"]: row["language"] for row in languages} == {
            "wiki-language-de": "de", "wiki-language-en": "en"
        }  # fmt: skip


def test_tevatron_s_rows_with_negatives_are_the_same_collection(store: Store, tmp_path: Path) -> None:
    rows = [row for row in collections()["wiki"] if row["negative_passages"]]
    (tmp_path / "wiki.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    jobs.ingest(store, tmp_path / "wiki.jsonl")
    saved = jobs.create(store, "wiki", collections=["wiki"])
    out = jobs.export(store, "wiki", tevatron=tmp_path / "out")
    assert out.remarks == ()
    with Store.open(tmp_path / "other", create=True) as other:
        jobs.ingest(other, tmp_path / "out" / "wiki.jsonl")
        assert jobs.create(other, "wiki").spec.id == saved.spec.id  # titles, order of negatives


def test_what_is_not_as_the_mixture_says_is_said(store: Store, tmp_path: Path) -> None:
    said = jobs.export(store, "m", tevatron=tmp_path / "t").remarks
    assert said[0].startswith("pairs: 30 of its examples have no negatives; the reader needs one, so they have")
    assert "Tevatron has one `query_prefix` for all: prompts are left out" in said
    jobs.create(store, "one", collections=["art"])
    assert jobs.export(store, "one", tevatron=tmp_path / "one").remarks == (
        f"Tevatron has one `query_prefix` for all: the prompt of all is {PROMPT!r}",
    )
    jobs.create(store, "odd", collections=["art", "pairs"], weights={"art": 0.0003, "pairs": 0.9997})
    assert jobs.export(store, "odd", tevatron=tmp_path / "odd").remarks[-1] == (
        "files are listed in whole numbers, so 0.1% of the rows are of others than the weights say; most off is art: "
        "0.2% for 0.0%"
    )
    _, weights = tevatron(tmp_path / "odd")
    assert weights["art"] == pytest.approx(12 / (12 + 255 * 30))
    assert not jobs.export(store, "m", ms_swift=tmp_path / "s").remarks  # it needs no negatives


def test_times_are_the_nearest_whole_numbers() -> None:
    def times(weights: list[float], sizes: list[int]) -> list[int]:
        import numpy as np

        return lines._times(np.array(weights), np.array(sizes, float)).tolist()

    assert times([0.5, 0.5], [100, 100]) == [1, 1]
    assert times([0.5, 0.5], [100, 300]) == [3, 1]
    assert times([0.5, 0.2, 0.3], [40, 100, 60]) == [25, 4, 10]
    assert times([0.2, 0.8], [1000, 10]) == [1, 255]
    assert times([1 / 300] * 300, [7] * 300) == [1] * 300


def test_a_collection_of_weight_0_is_written_and_not_drawn(store: Store, tmp_path: Path) -> None:
    jobs.create(store, "zero", collections=["art", "pairs"], weights={"art": 1.0, "pairs": 0.0})
    for project, reader in READERS.items():
        jobs.export(store, "zero", **{project: tmp_path / project})
        rows, weights = reader(tmp_path / project)
        assert rows.keys() == {"art", "pairs"}
        assert {name for name, weight in weights.items() if weight} == {"art"}


@pytest.mark.parametrize("project", ["flagembedding", "tevatron", "llama_factory"])
def test_an_export_that_fails_leaves_nothing(store: Store, tmp_path: Path, project: str) -> None:
    (tmp_path / "zz.jsonl").write_text(json.dumps({"query": "alone", "pos": ["the only passage"]}), "utf-8")
    jobs.ingest(store, tmp_path / "zz.jsonl")
    jobs.create(store, "alone", collections=["art", "zz"])
    with pytest.raises(UsageError, match="nothing can serve as a negative for some examples of zz; leave it out"):
        jobs.export(store, "alone", **{project: tmp_path / "new" / "out"})
    assert list((tmp_path / "new").iterdir()) == []


def test_the_command_writes_one_of_them(store: Store, tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(cli.app, ["export", "m", "--store", str(tmp_path / "store"), *words])

    for option, file in (("tevatron", "train.yaml"), ("ms-swift", "arguments.yaml"), ("llama-factory", "art.jsonl")):
        assert run(f"--{option}", str(tmp_path / option)).exit_code == 0
        assert (tmp_path / option / file).is_file()
    done = run("--tevatron", str(tmp_path / "a"), "--ms-swift", str(tmp_path / "b"))
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("project", READERS)
def test_the_project_s_own_code_reads_it(store: Store, tmp_path: Path, project: str) -> None:
    spec = importlib.util.spec_from_file_location("exports_read", ROOT / "benchmarks" / "exports_read.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    module, _ = benchmark.READERS[project]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    out = jobs.export(store, "m", **{project: tmp_path / "out"})
    found = benchmark.ask(project, out.path)
    if "missing" in found:
        pytest.skip(found["missing"])
    assert found["queries"] == found["of"] == 62
    assert found["shares"] == pytest.approx(dict(zip(PARTS, WEIGHTS.values(), strict=True)), abs=0.06)

"""Digests, and the Arrow folders that training reads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mixture import Store, UsageError, jobs, registry
from mixture.specs import MixtureSpec, Part
from mixture.store import read
from mixture.store.materialise import materialise
from mixture.store.write import remove_examples


def _uniform(store: Store) -> MixtureSpec:
    parts = registry.pin(store)
    return registry.weighted(parts, dict.fromkeys(parts, 1.0))


def test_the_digest_knows_content_and_nothing_else(tmp_path: Path, write_collection: Callable[..., Path]) -> None:
    file = write_collection(tmp_path, "c")
    lines = file.read_text().splitlines(keepends=True)
    (tmp_path / "first.jsonl").write_text("".join(lines[25:]))
    (tmp_path / "second.jsonl").write_text("".join(reversed(lines[:25])))
    changed = "".join(lines).replace(lines[7], lines[7].replace('"query": "', '"query": "x'))
    (tmp_path / "changed.jsonl").write_text(changed)
    digests = []
    for place, files in enumerate((["c"], ["first", "second"], ["changed"])):
        with Store.open(tmp_path / f"s{place}", create=True) as store:
            jobs.ingest(store, [str(tmp_path / f"{f}.jsonl") for f in files], name="c")
            digests.append(read.digest(store, Part("c")))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_mining_changes_the_digest(small_store: Store) -> None:
    before = read.digest(small_store, Part("easy"))
    jobs.mine(small_store, ["easy"], per_query=1)
    assert read.digest(small_store, Part("easy")) != before


def test_materialised_rows_are_those_of_the_store(small_store: Store) -> None:
    data = materialise(small_store, _uniform(small_store))
    part = data.components["middle"]
    pairs = read.pairs(small_store, "middle").to_pylist()
    texts = {p["passage_id"]: p["text"] for p in read.passages(small_store, "middle").to_pylist()}
    assert data.sizes == {"easy": 40, "hard": 40, "middle": 40}
    for row, pair in enumerate(pairs):
        example = part.example(row)
        assert (example.example_id, example.query) == (pair["example_id"], pair["query"])
        assert [part.passage(n) for n in example.positives] == [texts[p] for p in pair["positives"]]
        assert part.positives()[row].tolist() == list(example.positives)
    wanted = small_store.sql(
        "SELECT example_id, p.text FROM negatives n JOIN passages p USING (collection, passage_id) "
        "WHERE collection = 'middle' ORDER BY example_id, miner, rank"
    ).to_pylist()
    got = [
        {"example_id": e.example_id, "text": part.passage(n)}
        for e in map(part.example, range(part.num_examples))
        for n in e.negatives
    ]
    assert got == wanted


def test_a_collection_that_changed_since_is_refused(small_store: Store, tmp_path: Path) -> None:
    spec = _uniform(small_store)
    jobs.mine(small_store, ["easy"], per_query=1)
    with pytest.raises(UsageError, match="'easy' has changed"):
        materialise(small_store, spec)
    assert not list((small_store.work / "materialised").rglob(".writing-*"))


def test_a_collection_that_is_missing_is_named(small_store: Store, tmp_path: Path) -> None:
    spec = _uniform(small_store)
    with Store.open(tmp_path / "other", create=True) as other, pytest.raises(UsageError, match=r"lacks 3.*easy"):
        materialise(other, spec)


def test_a_materialised_folder_travels_without_duckdb(small_store: Store, tmp_path: Path) -> None:
    spec = _uniform(small_store)
    materialise(small_store, spec, tmp_path / "travel")
    script = (
        "import sys; sys.modules['duckdb'] = None\n"
        "from pathlib import Path\nfrom mixture.materialised import MaterialisedMixture\n"
        f"data = MaterialisedMixture.open(Path({str(tmp_path / 'travel')!r}), {spec.id!r})\n"
        "print(data.sizes['hard'], data.components['hard'].example(3).query)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.split(" ", 1) == ["40", read.pairs(small_store, "hard")["query"][3].as_py() + "\n"]


def test_only_passages_that_the_digest_pins_are_materialised(
    tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    """What a removed example leaves in the store must not change what training draws under the same id."""
    lines = write_collection(tmp_path, "c").read_text().splitlines(keepends=True)
    (tmp_path / "rest.jsonl").write_text("".join(lines[1:]))
    with Store.open(tmp_path / "whole", create=True) as whole, Store.open(tmp_path / "part", create=True) as part:
        jobs.ingest(whole, [str(tmp_path / "c.jsonl")], name="c")
        jobs.ingest(part, [str(tmp_path / "rest.jsonl")], name="c")
        (gone,) = set(read.queries(whole, "c")["example_id"].to_pylist()) - set(
            read.queries(part, "c")["example_id"].to_pylist()
        )
        remove_examples(whole, pa.table({"collection": ["c"], "example_id": [gone], "reason": ["test"]}))
        specs = [registry.weighted(registry.pin(s), {"c": 1.0}) for s in (whole, part)]
        assert specs[0].id == specs[1].id
        data = [materialise(s, spec).components["c"] for s, spec in zip((whole, part), specs, strict=True)]
    assert list(data[0].texts()) == list(data[1].texts())
    assert data[0].num_passages < 200

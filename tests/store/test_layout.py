"""The folders and names under a store: as stores that exist have them, written in one place, known without duckdb."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mixture.embeddings import Space
from mixture.embeddings.kept import WRITING
from mixture.store import layout

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = Path("/s")
RUN = "0123456789ab"
NAMES = {
    "catalog.",
    "components",
    "data",
    "embeddings",
    "materialised",
    "reference-",
    "reference-embeddings",
    "runs",
    "spill-",
    "verdict-",
}


def test_names_are_those_of_the_stores_that_there_are() -> None:
    named = [
        layout.catalog(ROOT, "sqlite"), layout.data(ROOT), layout.component(layout.materialised(ROOT), "d"),
        layout.spec(layout.materialised(ROOT), RUN), layout.run(ROOT, RUN), layout.reference(ROOT, RUN),
        layout.embeddings(layout.run(ROOT, RUN).parent, layout.embeddings_name("org/model", bf16=True)),
        layout.tiny_model(ROOT, "tiny-qwen2", ["d2", "d1"], 42), layout.space(ROOT, "0123456789abcdef"),
    ]  # fmt: skip
    assert [path.as_posix() for path in named] == [
        "/s/catalog.sqlite", "/s/data", "/s/materialised/components/d", f"/s/materialised/{RUN}.json", f"/s/runs/{RUN}",
        f"/s/runs/reference-{RUN}", "/s/runs/reference-embeddings/org-model-bf16",
        "/s/models/tiny-qwen2-bc0c84259984-42", "/s/embeddings/0123456789abcdef",
    ]  # fmt: skip
    assert layout.spill(ROOT) != layout.spill(ROOT)


def test_what_is_named_is_found_again(tmp_path: Path) -> None:
    tiny, run = layout.tiny_model(tmp_path, "tiny-qwen2", ["d"], 0), layout.run(tmp_path, RUN)
    reference, judged = layout.reference(tmp_path, RUN[::-1]), layout.verdict_model(tmp_path, "f" * 12)
    kept = layout.embeddings(run.parent, layout.embeddings_name("m", bf16=False))
    part = layout.component(layout.materialised(tmp_path), "d")
    spec = layout.spec(layout.materialised(tmp_path), RUN)
    space = layout.space(tmp_path, Space(model="m").id)
    others = tmp_path / "models" / "other", run.parent / "other", space.parent / "other"
    for folder in (tiny, run, reference, judged, kept, part, spec, space, *others):
        folder.mkdir(parents=True)
    assert layout.tiny_models(tmp_path) == {tiny: layout.texts_id(["d"])}
    assert layout.runs(tmp_path) == {run: RUN, reference: RUN[::-1], judged: "f" * 12}
    assert [layout.of_verdict(str(path)) for path in (judged, run, reference, tiny)] == [True, False, False, False]
    assert [layout.run_of(str(path)) for path in (run, reference, tiny)] == [RUN, RUN[::-1], None]
    assert layout.kept_embeddings(tmp_path) == [kept]
    assert layout.spaces(tmp_path) == [space]
    assert (layout.components(layout.materialised(tmp_path)), layout.specs(layout.materialised(tmp_path))) == (
        [part], [spec],
    )  # fmt: skip
    left = [layout.spill(tmp_path), part.with_name(f"{layout.WRITING}x"), spec.with_suffix(f".1{layout.SCRATCH}"),
            space / f"{WRITING}x.parquet"]  # fmt: skip
    for folder in left:
        folder.mkdir()
    assert layout.leftovers(tmp_path) == left


def test_no_other_module_spells_a_folder_of_the_store() -> None:
    files = [file for part in ("mixture", "trainers") for file in (REPOSITORY / part).rglob("*.py")]
    joined = [
        f"{file.relative_to(REPOSITORY)}:{node.lineno}"
        for file in files
        if file.name != "layout.py"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _begins(node.right) in NAMES
    ]
    assert joined == []


def _begins(node: ast.expr) -> str | None:
    """The text that a string begins with, of an f-string up to its first value."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@pytest.mark.folder
def test_it_is_asked_without_duckdb() -> None:
    script = "import sys, mixture.store.layout, trainers.model.names; print('duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "False\n", done.stderr

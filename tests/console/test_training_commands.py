"""`train`, `learn-weights` and `evaluate`: mistakes come at once, results say what was made, settings are listed."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

import cli
import trainers
from mixture import Store, jobs, registry
from mixture.console.progress import stages
from trainers.settings import table

TRAIN = ["train", "--mix", "m", "--model", "tiny-qwen2", "--out", "o"]
PHASES = ["train", "--model", "tiny-qwen2", "--out", "o"]
ABLATE = ["ablate", "m", "--model", "tiny-qwen2"]
VERDICT = ["verdict", "m", "--against", "m", "--model", "tiny-qwen2"]
LEARN = ["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2"]
QUICK = ["--set", "negatives=1", "--set", "max_passage_tokens=24", "--set", "tracker=none"]
Run = Callable[..., tuple[int, str, str]]
# What a command loaded until it ended.
LOADED = "import sys, cli\ntry:\n    cli.app(sys.argv[1:])\nfinally:\n    print('torch' in sys.modules)\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_store_made_once: Path) -> Path:
    """A folder with a store that has a mixture `m`, and a folder that is not empty."""
    folder = tmp_path_factory.mktemp("commands")
    shutil.copytree(small_store_made_once, folder, dirs_exist_ok=True)
    (folder / "moved").rename(folder / "raw")
    with Store.open(folder / "store") as store:
        jobs.create(store, "m")
    return folder


def _loaded(place: Path, *arguments: str) -> tuple[int, bool, str]:
    """Exit code, whether torch was loaded, standard error."""
    environment = os.environ | {"MIXTURE_STORE": str(place / "store"), "PYTHONPATH": str(Path(cli.__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], cwd=place, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout.endswith("True\n"), done.stderr


MISTAKES = [
    ([*TRAIN, "--steps", "-5"], "steps is -5"),
    ([*TRAIN, "--set", "stepps=3"], "did you mean 'steps'"),
    ([*TRAIN, "--set", "loss=infonce"], "loss is infonce; allowed: info_nce"),
    ([*TRAIN, "--set", "query_template={qery}"], "did you mean {query}"),
    ([*TRAIN, "--config", "laptopp"], "no recipe 'laptopp'"),
    (["train", "--mix", "m", "--model", "./model", "--out", "o"], "no model folder './model'"),
    (["train", "--mix", "m", "--model", "tiny-qwen2", "--out", "raw"], "raw is not empty"),
    (["train", "--mix", "mm", "--model", "tiny-qwen2", "--out", "o"], "did you mean 'm'"),
    ([*TRAIN, "--suite", "nowhere"], "no folder nowhere"),
    (PHASES, "name what to train on: --mix REF, or --phase REF:STEPS"),
    ([*PHASES, "--phase", "m"], "--phase is 'm'; write a mixture, a colon and its steps, 1 or more, as tdro:200"),
    ([*PHASES, "--phase", "m:0"], "--phase is 'm:0'; write a mixture"),
    ([*PHASES, "--phase", ":3"], "--phase is ':3'; write a mixture"),
    ([*PHASES, "--phase", "m:3", "--phase", "mm:3"], "did you mean 'm'"),
    ([*PHASES, "--phase", "m:3", "--mix", "m"], "--phase names the mixtures; leave --mix out"),
    ([*PHASES, "--phase", "m:3", "--steps", "3"], "--phase says how many steps there are; leave --steps out"),
    ([*PHASES, "--phase", "m:3", "--set", "steps=3"], "--phase says how many steps there are; leave --steps out"),
    ([*PHASES, "--phase", "m:3", "--phase", "raw:3"], "--phase names folders and mixtures of the store"),
    ([*TRAIN, "--set", "evaluate_every=10"], "need something to evaluate on: --suite"),
    ([*LEARN, "--steps", "-5"], "steps is -5"),
    ([*LEARN, "--set", "stepps=3"], "did you mean 'steps'"),
    ([*LEARN, "--algorithm", "tdroo"], "algorithm is tdroo"),
    ([*LEARN, "--reference", "./model"], "no model folder './model'"),
    (["learn-weights", "--mix", "mm", "--proxy", "tiny-qwen2"], "did you mean 'm'"),
    (ABLATE, "name the suites: --suite FOLDER"),
    ([*ABLATE, "--suite", "raw", "--extremes", "-1"], "--extremes is -1; allowed: 0 or more"),
    ([*ABLATE, "--suite", "raw", "--screen", "megred"], "--screen is 'megred'; allowed: merged, none"),
    (VERDICT, "name the suites: --suite FOLDER"),
    ([*VERDICT, "--suite", "raw", "--seeds", "1"], "--seeds is 1; allowed: 2 or more"),
    ([*VERDICT, "--suite", "raw"], "m:1 and m:1 are one mixture; --against takes another"),
    (["evaluate", "tiny", "--suite", "raw", "--batch-size", "0"], "--batch-size is 0; allowed: 1 or more"),
    (["evaluate", "./model", "--suite", "raw"], "raw: no corpus.jsonl"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_are_said_before_torch_is_loaded(place: Path, arguments: list[str], said: str) -> None:
    code, torch, err = _loaded(place, *arguments)
    assert (code, torch) == (2, False)
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_refused_folder_leaves_no_run(place: Path) -> None:
    _loaded(place, "train", "--mix", "m", "--model", "tiny-qwen2", "--out", "raw")
    with Store.open(place / "store") as store:
        assert store.sql("FROM runs").num_rows == 0


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("train", trainers.FinetuneSettings),
        ("ablate", trainers.FinetuneSettings),
        ("verdict", trainers.FinetuneSettings),
        ("learn-weights", trainers.LearningSettings),
    ],
)
def test_settings_are_listed_with_what_they_do(command: str, kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.app([command, "--settings", "--config", "laptop", "--set", "pooling=mean", "--json"])
    assert not ended.value.code
    rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [field.name for field in fields(kind)]
    assert (rows["steps"]["value"], rows["steps"]["default"]) == (200, 1000)
    assert rows["pooling"]["value"] == "mean"
    assert [name for name, row in rows.items() if len(row["does"].split()) < 2] == []
    with pytest.raises(SystemExit):
        cli.app([command, "--settings"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)
    with pytest.raises(SystemExit) as refused:
        cli.app([command, "--steps", "3"])
    assert refused.value.code == 2  # what is required still is
    assert "Missing " in capsys.readouterr().err


def test_the_table_of_settings_loads_no_torch(place: Path) -> None:
    assert _loaded(place, "learn-weights", "--settings")[:2] == (0, False)
    assert len(table(trainers.LearningSettings())) > 40


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run(*arguments, code=0)` in `place`, on its store -> exit code, which must be that, and the two outputs."""
    monkeypatch.setenv("MIXTURE_STORE", str(place / "store"))
    monkeypatch.chdir(place)

    def ran(*arguments: str, code: int = 0) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.app(list(arguments))
        out, err = capfd.readouterr()
        assert (ended.value.code or 0) == code, err
        return code, out, err

    return ran


def _write_suite(place: Path, name: str) -> None:
    """A suite of 12 rows of the mixture m."""
    from mixture.store.materialise import materialise
    from tests.trainers.conftest import write_suite

    with Store.open(place / "store") as store:
        write_suite(materialise(store, registry.resolve(store, "m").spec), place / name, 12)


def test_training_shows_scores_and_loss_and_says_when_it_was_finished(place: Path, run: Run) -> None:
    _write_suite(place, "middle")
    asked = ["train", "--mix", "m", "--model", "tiny-qwen2", "--out", "model", "--suite", "middle", "--steps", "3"]
    asked += ["--batch-size", "50", *QUICK]

    _, out, err = run(*asked)
    lines = err.splitlines()
    assert lines[0] == "training: loading PyTorch and tiny-qwen2"
    assert lines[1].startswith("queries go in as 'Instruct: Given a query")
    assert "without any: --set query_template=none" in lines[1]
    assert lines[2].startswith("--batch-size is 50; a batch holds all rows, and no more, of the smaller collections")
    assert "already finished" not in out
    (made,) = json.loads(run(*asked, "--json")[1])
    losses = json.loads((place / "model" / "training.json").read_text())["losses"]
    assert made["loss"] == losses[-1]["loss"]
    (scored,) = made["scores"]
    assert (scored["suite"], scored["num_queries"]) == ("middle", 12)
    assert made["finished_at"] is not None
    _, again, err = run(*asked)
    first, rest = again.split("\n", 1)
    assert first.startswith(f"already finished (run {made['run']}, 20")
    assert out == f"3 steps on {made['mixture']}, saved to model\n{rest}"
    assert f"{100 * scored['metrics']['ndcg@10']:.2f}" in out
    assert err == ""  # nothing is loaded for it


def test_phases_are_typed_as_reference_and_steps(place: Path, run: Run) -> None:
    asked = ["train", "--phase", "m:1:3", "--phase", "m:2", "--config", "laptop", "--model", "tiny-qwen2"]
    (steps,) = (row["value"] for row in json.loads(run(*asked, "--settings", "--json")[1]) if row["setting"] == "steps")
    assert steps == 5
    _, out, _ = run(*asked, "--out", "phased", *QUICK)
    record = json.loads((place / "phased" / "training.json").read_text())
    mixture = record["mixture"]["id"]
    assert out.startswith(f"3 steps on {mixture}, then 2 steps on {mixture}, saved to phased\n")
    assert f"{mixture}:3, {mixture}:2" in out.replace("\n", "")
    assert len(record["losses"]) == record["settings"]["steps"] == 5


def test_notes_stand_above_the_bars_in_the_words_of_options_and_once() -> None:
    stream = io.StringIO()
    log = logging.getLogger("trainers.somewhere")
    with stages("steps", Console(file=stream, force_terminal=True, width=100)) as stage:
        show = stage("training")
        log.info("queries [plain]")
        log.info("queries [plain]")
        show(3, 10, "loss 1.5")
    text = stream.getvalue()
    assert text.count("queries [plain]") == 1
    assert "3/10" in text
    assert "loss 1.5" in text
    log.info("after")
    assert "after" not in stream.getvalue()
    assert logging.getLogger("trainers").handlers == []


def test_one_file_is_no_0_of_1() -> None:
    stream = io.StringIO()
    with stages(console=Console(file=stream, force_terminal=True, width=100)) as stage:
        show = stage("ingest")
        show(0, 1, "a.jsonl  500 rows")
    assert "0/1" not in stream.getvalue()
    assert "a.jsonl  500 rows" in stream.getvalue()


def test_a_verdict_ends_in_its_line(place: Path, run: Run) -> None:
    with Store.open(place / "store") as store:
        jobs.create(store, "few", collections=["hard"])
    _write_suite(place, "other")
    asked = ["verdict", "m", "--against", "few", "--model", "tiny-qwen2", "--suite", "other", "--seeds", "2"]
    asked += ["--steps", "2", *QUICK]

    _, out, err = run(*asked)
    assert "4 trainings of 2 steps, each scored on 1 suite\n" in err
    _, again, err = run(*asked)
    assert (again, "trainings" in err) == (out, False)
    found = json.loads(run(*asked, "--json")[1])
    assert out.splitlines()[-1] == found["line"]
    (suite,) = found["suites"]
    row = next(line for line in out.splitlines() if line.startswith("│ other"))
    assert f"{100 * suite['ours']:.2f}" in row and f"{100 * suite['theirs']:.2f}" in row
    assert found["seeds"] == [42, 43]


def test_learning_may_end_in_a_verdict(place: Path, run: Run) -> None:
    _write_suite(place, "third")
    asked = [*LEARN, "--algorithm", "groupdro", "--name", "hardest", "--steps", "2", *QUICK]

    for wrong in (["--verdict"], ["--suite", "third"]):
        code, _, err = run(*asked, *wrong, code=2)
        assert code == 2 and "--verdict needs --suite or --target, and --suite goes with --verdict" in err
    code, out, err = run(*asked, "--verdict", "--suite", "third")
    assert code == 0, err
    assert "6 trainings of 2 steps, each scored on 1 suite\n" in err
    told = json.loads(run(*asked, "--verdict", "--suite", "third", "--json")[1])["verdict"]
    assert out.splitlines()[-1] == told["line"]
    assert told["line"].split(" on ")[0].split(" by ")[0] in ("ahead of m", "behind m", "not told apart from m")


def test_an_ablation_is_a_table_and_lines(place: Path, run: Run) -> None:
    _write_suite(place, "shelf")
    asked = ["ablate", "m", "--model", "static", "--suite", "shelf", "--extremes", "0", "--holdout", "0.5"]
    asked += ["--steps", "2", "--batch-size", "8", *QUICK]

    out, found = run(*asked)[1], json.loads(run(*asked, "--json")[1])
    assert out.splitlines()[-len(found["lines"]) :] == found["lines"]
    unseen = {one["collection"]: one for one in found["effects"] if one["kind"] == "held out"}
    merged = {one["collection"]: one for one in found["effects"] if one["kind"] == "merged"}
    assert set(unseen) == set(merged) == {"easy", "hard", "middle"}
    for name, one in unseen.items():
        row = next(line for line in out.splitlines() if line.startswith(f"│ {name} "))
        assert f"{100 * one['effect']:.0f} %" in row and f"{merged[name]['effect']:+.4f}" in row
        assert one["says"] in row

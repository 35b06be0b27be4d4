"""The command line: results on standard output, plain lines and exit codes for mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import typer.main

from cli import app
from mixture import Store, jobs, registry
from mixture.console.examples import EXAMPLES

Run = Callable[..., Any]
GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: GROUP.commands[name] for name in GROUP.list_commands(None)}


@pytest.fixture
def run(small_store: Store, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """`run(*arguments)` -> (exit code, standard output in bytes, standard error as text), on the small store."""
    return _runner(small_store.work, monkeypatch, capfdbinary)


@pytest.fixture(scope="module")
def root_with_m(tmp_path_factory: pytest.TempPathFactory, small_store_made_once: Path) -> Path:
    """A copy of the small store with a mixture `m`, for commands that change nothing."""
    folder = tmp_path_factory.mktemp("with-m")
    shutil.copytree(small_store_made_once, folder, dirs_exist_ok=True)
    (folder / "moved").rename(folder / "raw")
    (folder / "empty.json").write_text("{}")
    with Store.open(folder / "store") as store:
        parts = registry.pin(store)
        registry.save(store, registry.weighted(parts, dict.fromkeys(parts, 1.0)), "m")
    return folder / "store"


def _runner(root: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    monkeypatch.setenv("MIXTURE_STORE", str(root))
    monkeypatch.chdir(root.parent)

    def call(*arguments: str) -> tuple[int, bytes, str]:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            app(list(arguments))
        out, err = capfdbinary.readouterr()
        return int(caught.value.code or 0), out, err.decode()

    return call


def _json(run: Run, *arguments: str) -> Any:
    code, out, err = run(*arguments, "--json")
    assert (code, [line for line in err.splitlines() if line.startswith("mixture: ")]) == (0, [])
    return json.loads(out)


def test_from_files_to_a_selected_mixture(run: Run, tmp_path: Path, write_collection: Callable[..., Path]) -> None:
    file = write_collection(tmp_path / "more", "extra", rows=50)
    (ingested,) = _json(run, "ingest", str(file))
    assert ingested.pop("read") == [{"file": str(file), "format": "jsonl", "rows": 50, "refused": 0, "reasons": [],
                                     "read_as": "query ← query, positive ← pos, negative ← neg"}]  # fmt: skip
    assert ingested == {
        "collection": "extra", "files": 1, "unchanged": 0, "rows_read": 50, "stored": 50, "repeated": 0, "rejected": 0,
        "notes": [],
    }  # fmt: skip
    assert [r["removed"] for r in _json(run, "dedup", "easy", "hard")] == [0, 0]
    made = _json(run, "create", "prop", "--proportional")
    assert {c["collection"]: c["weight"] for c in made["components"]}["extra"] == pytest.approx(50 / 170)
    uniform = _json(run, "create", "all", "--uniform")
    assert [c["weight"] for c in uniform["components"]] == [0.25] * 4
    top = _json(run, "select", "prop", "--top", "50", "--name", "top")
    assert (top["parents"], [c["collection"] for c in top["components"]]) == ([made["id"]], ["easy", "extra"])
    assert [m["reference"] for m in _json(run, "list")] == ["top:1", "all:1", "prop:1"]
    assert _json(run, "show", uniform["id"][:6])["reference"] == "all:1"


def test_sql_answers_in_every_format(run: Run) -> None:
    made = _json(run, "create", "m")
    query = f"select collection, weight from mixture_weights where mixture = '{made['id']}' order by weight desc, 1"
    wanted = [{"collection": n, "weight": 1 / 3} for n in ("easy", "hard", "middle")]
    assert _json(run, "sql", query) == wanted
    _, printed, _ = run("sql", query, "--format", "csv")
    assert [float(r["weight"]) for r in csv.DictReader(io.StringIO(printed.decode()))] == [1 / 3] * 3
    _, printed, _ = run("sql", query, "--format", "parquet")
    assert pyarrow.parquet.read_table(io.BytesIO(printed)).to_pylist() == wanted
    _, printed, _ = run("sql", query)
    assert re.search(r"easy\s+│\s+0\.333333", printed.decode())
    nested = "select parents, ['a', 'b'] as names from mixtures"
    _, printed, _ = run("sql", nested, "--format", "csv")
    assert list(csv.DictReader(io.StringIO(printed.decode()))) == [{"parents": "[]", "names": '["a", "b"]'}]


def test_equal_column_names_and_odd_numbers_lose_nothing(run: Run) -> None:
    found = _json(run, "sql", "select 1 as a, 2 as a, 3 as a_1, 'nan'::double as n")
    assert found == [{"a": 1, "a_2": 2, "a_1": 3, "n": None}]


def test_names_that_look_like_markup_are_printed_as_they_are(run: Run) -> None:
    _, printed, _ = run("sql", "select '[red]x[/red]' as c")
    assert "[red]x[/red]" in printed.decode()


def test_weights_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"easy": 3, "hard": 1}))
    made = _json(run, "create", "w", "--weights", str(tmp_path / "w.json"))
    assert {c["collection"]: c["weight"] for c in made["components"]} == {"easy": 0.75, "hard": 0.25}


def test_train_and_evaluate_through_the_commands(run: Run, tmp_path: Path) -> None:
    run("create", "m")
    suite = tmp_path / "eval" / "easy"
    (suite / "qrels").mkdir(parents=True)
    rows = Store.open(tmp_path / "store").sql(
        "SELECT e.example_id AS q, e.query, p.passage_id AS d, p.text FROM examples e JOIN passages p "
        "ON p.collection = e.collection AND p.passage_id = e.positives[1].passage_id WHERE e.collection = 'easy'"
    ).to_pylist()  # fmt: skip
    (suite / "corpus.jsonl").write_text("".join(json.dumps({"_id": r["d"], "text": r["text"]}) + "\n" for r in rows))
    (suite / "queries.jsonl").write_text("".join(json.dumps({"_id": r["q"], "text": r["query"]}) + "\n" for r in rows))
    lines = "".join(f"{r['q']}\t{r['d']}\t1\n" for r in rows)
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    out = str(tmp_path / "model")
    settings = ["--steps", "3", "--batch-size", "4", "--set", "negatives=1", "--set", "max_passage_tokens=32"]
    trained = _json(run, "train", "--mix", "m", "--model", "tiny-qwen2", "--out", out, *settings)[0]
    assert trained["steps"] == 3
    scored = _json(run, "evaluate", out, "--suite", str(tmp_path / "eval"))
    assert scored[0]["prompt"].startswith("Instruct: ")
    stored = _json(run, "sql", "select suite, metric, value, mixture from evaluations order by metric")
    assert [(r["suite"], r["metric"], r["mixture"]) for r in stored] == [
        ("easy", "ndcg@10", trained["mixture"]), ("easy", "recall@100", trained["mixture"]),
    ]  # fmt: skip
    assert stored[0]["value"] == scored[0]["metrics"]["ndcg@10"]
    mean = "avg(q.value) = any_value(e.value)"
    joined = "evaluation_queries q JOIN evaluations e USING (model, mixture, suite, corpus, metric, evaluated_at)"
    assert _json(run, "sql", f"select count(*) as n, {mean} as same from {joined} group by metric") == [
        {"n": len(rows), "same": True}
    ] * 2  # fmt: skip
    code, printed, _ = run("evaluate", out, "--suite", str(suite))
    assert code == 0
    assert "easy" in printed.decode()


def test_mining_with_an_encoder_through_the_command(run: Run, small_store: Store, tmp_path: Path) -> None:
    from trainers.model.tiny import build_tiny

    texts = small_store.sql("SELECT text FROM passages")["text"].to_pylist()
    build_tiny(texts, tmp_path / "encoder", seed=1, vocabulary=400, hidden=32)
    found = _json(run, "mine", "easy", "--miner", str(tmp_path / "encoder"), "--negatives", "3")[0]
    assert (found["collection"], found["examples"]) == ("easy", 40)
    rows = small_store.sql(
        "SELECT miner, count(*) AS n, min(score) AS low, max(score) AS high FROM negatives "
        "WHERE collection = 'easy' AND miner NOT IN ('provided', 'random') GROUP BY ALL"
    ).to_pylist()
    assert [r["miner"] for r in rows] == [str(tmp_path / "encoder")]
    assert 0 < rows[0]["n"] <= 120
    assert -1.001 <= rows[0]["low"] < rows[0]["high"] <= 1.001


def test_the_options_of_mine_reach_the_job(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixture import jobs

    given: dict[str, Any] = {}
    monkeypatch.setattr(jobs, "mine", lambda *_, **options: given.update(options) or [])
    own = {"miner": "bm25", "per_query": 8, "depth": 100, "filters": {}, "seed": 42, "engine": "local",
           "keep_embeddings": True, "precision": "float32"}  # fmt: skip
    assert run("mine")[0] == 0
    assert {name: given[name] for name in own} == own
    run("mine", "--per-query", "3", "--depth", "20", "--max-ratio", "0", "--filter", "length=9", "--filter", "kind=x")
    assert (given["per_query"], given["depth"]) == (3, 20)
    assert given["filters"] == {"max_ratio": None, "length": 9, "kind": "x"}
    run("mine", "--negatives", "4", "--max-ratio", "0.9")
    assert (given["per_query"], given["filters"]) == (4, {"max_ratio": 0.9})
    assert (given["ranks"], given["sample"], given["rescore"]) == (None, "top", None)
    run("mine", "--ranks", "10:100", "--margin", "0", "--min-score", "0.3", "--max-score", "0.8", "--sample", "random",
        "--rescore", "org/judge")  # fmt: skip
    assert (given["ranks"], given["sample"], given["rescore"]) == ((10, 100), "random", "org/judge")
    assert given["filters"] == {"margin": 0.0, "min_score": 0.3, "max_score": 0.8}
    run("mine", "--no-keep-embeddings", "--precision", "float16")
    assert (given["keep_embeddings"], given["precision"]) == (False, "float16")


def test_rows_are_chosen_and_shown(run: Run) -> None:
    run("create", "all")
    run("create", "aim", "--where", "collection = 'hard' AND length(query) > 30")
    asked = ("coreset", "few", "--mix", "all", "--target", "aim", "--budget", "0.1")
    code, out, err = run(*asked)
    assert code == 0
    first, *rest = out.decode().splitlines()
    assert re.match(
        r"few:1: 12 of 120 rows of 3 collections; distance to \d+ target rows: 0\.\d+, of random rows ", first
    )
    assert [line.split()[1] for line in rest if line.startswith("│")] == ["easy", "hard", "middle"]
    assert re.search(r"^note: \d+ of the \d+ target rows are candidates themselves$", err, re.MULTILINE)
    made = _json(run, *asked)
    assert made["reference"] == "few:1"
    assert [row["chosen"] for row in made["coreset"]["rows"]] == [4, 4, 4]
    assert made["coreset"]["encoded"] == 0
    assert made["coreset"]["distance"] < made["coreset"]["random"]


MISTAKES = [
    (["frobnicate"], "frobnicate"),
    (["creat", "x"], "create"),
    (["ingest"], "sources"),
    (["ingest", "no/such/file.jsonl"], "no/such/file.jsonl"),
    (["ingest", "raw/easy.jsonl", "--card", "agnew"], "did you mean 'agnews'"),
    (["ingest", "raw/easy.jsonl", "--nmae", "x"], "--nmae"),
    (["cards", "msmarko"], "did you mean 'msmarco'"),
    (["dedup", "esay"], "did you mean 'easy'"),
    (["dedup", "--distance", "9"], "--distance is 9; allowed: whole numbers from 0 to 7"),
    (["dedup", "--distance", "three"], "three"),
    (["dedup", "--method", "simhsh"], "--method is 'simhsh'; allowed: exact, minhash, semantic, simhash"),
    (["dedup", "--engine", "lokal"], "--engine is 'lokal'; allowed: local, ray"),
    (["dedup", "--undo", "--dry-run"], "nothing to put back"),
    (["dedup", "easy", "--undo"], "leave the collections away"),
    (["dedup", "--verify", "7", "--method", "exact"], "--verify is 7.0; allowed: above 0 to 1, or none"),
    (["decontaminate", "--undo", "--against", "x"], "it goes with --dry-run alone"),
    (["decontaminate", "--forget", "x", "--dry-run"], "it goes with no other option"),
    (["decontaminate", "--forget", "x"], "no test suite 'x'"),
    (["decontaminate", "--passage-overlap", "2"], "--passage-overlap is 2.0; allowed: numbers above 0, at most 1"),
    (["decontaminate", "--no-passages", "--passage-overlap", "0.6"], "so --passage-overlap says nothing; leave one"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--set", "smoothing=0.5"], "which does not read it"),
    (["decontaminate"], "--against"),
    (["decontaminate", "--against", "no/file"], "no/file"),
    (["mine", "--negatives", "-3"], "--per-query is -3; allowed: 1 or more"),
    (["mine", "--undo"], "nothing to take back"),
    (["mine", "easy", "--undo"], "it goes with --dry-run alone"),
    (["mine", "--miner", "BM52"], "no miner 'BM52'; did you mean 'bm25'?"),
    (["mine", "--max-ratio", "-1"], "--max-ratio is -1.0; allowed: numbers above 0"),
    (["mine", "--filter", "max_ratio"], "write NAME=VALUE"),
    (["mine", "--filter", "max_ratio=0.8", "--max-ratio", "0.9"], "'max_ratio' is given twice"),
    (["mine", "--filter", "max_ration=0.8"], "--filter is 'max_ration'; allowed: max_ratio"),
    (["mine", "--ranks", "10"], "--ranks is '10'; allowed: two whole numbers, as 10:100"),
    (["mine", "--ranks", "100:10"], "--ranks is 100:10; allowed: 0 or more, then more"),
    (["mine", "--sample", "best"], "--sample is 'best'; allowed: top, random"),
    (["mine", "--min-score", "nan"], "--min-score is nan; allowed: numbers"),
    (["mine", "--rescore", "./nowhere", "--replace"], "no model folder './nowhere'"),
    (["create", "x", "--uniform", "--proportional"], "give one of"),
    (["create", "x", "--temperature", "-1"], "above 0"),
    (["create", "x", "--weights", "none.json"], "none.json"),
    (["create", "x", "--weights", "empty.json"], "no weights"),
    (["create", "x", "--min-examples", "0"], "1 or more"),
    (["create", "9x"], "mixture name"),
    (["coreset", "x", "--mix", "m", "--budget", "5"], "--target"),
    (["coreset", "x", "--mix", "m", "--target", "mm", "--budget", "5"], "did you mean 'm'"),
    (["coreset", "x", "--mix", "m", "--target", "m", "--budget", "500"], "--budget is 500; allowed: 1 to 120 rows"),
    (["coreset", "x", "--mix", "m", "--target", "m", "--budget", "5", "--shares", "fre"], "allowed: mixture, free"),
    (["coreset", "x", "--mix", "m", "--target", "m", "--budget", "5", "--model", "./no"], "no model folder './no'"),
    (["show", "nothing"], "no mixture 'nothing'"),
    (["select", "m", "--top", "170", "--name", "t"], "allowed: above 0 to 100"),
    (["learn-weights", "--mix", "mm", "--proxy", "tiny-qwen2"], "did you mean 'm'"),
    (["learn-weights", "--mix", "m", "--proxy", "./no/model"], "./no/model"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--steps", "0"], "steps is 0"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--set", "temprature=1"], "did you mean 'temperature'"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--set", "seed=soon"], "type int"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--seed", "5000000000"], "seed is 5000000000"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--learning-rate", "inf"], "learning_rate is inf"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--algorithm", "drdo"], "rb, tdro"),
    (["learn-weights", "--mix", "m", "--proxy", "tiny-qwen2", "--config", "no.toml"], "no.toml"),
    (["train", "--mix", "m", "--model", "nobody/nothing", "--out", "o"], "nobody/nothing"),
    (["train", "--mix", "m", "--model", "tiny-qwen2", "--out", "raw"], "not empty"),
    (["train", "--mix", "m", "--model", "tiny-qwen2"], "--out"),
    (["evaluate", "nobody/nothing", "--suite", "raw"], "raw"),
    (["evaluate", "nobody/nothing"], "--suite"),
    (["import", "store/catalog.sqlite", "--name", "n"], "is no text in UTF-8; give what `mixture export` writes"),
    (["sql", "select colection from examples"], "collection"),
    (["sql", "from exampels"], "examples"),
    (["sql", "selec 1"], "selec"),
    (["sql", "drop table examples"], "read-only"),
    (["sql", "select 1", "--format", "xml"], "allowed: table, json, csv, parquet"),
    (
        ["ingest", "raw", "--format", "jsnl"],
        "--format is 'jsnl'; allowed: arrow, beir, csv, excel, json, jsonl, msmarco, parq",
    ),
    (["list", "--store", "no/store"], "no store at"),
    (["--store", "no/store", "list"], "no store at"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_gets_one_or_two_plain_lines_and_exit_code_2(
    root_with_m: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes],
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    code, out, err = _runner(root_with_m, monkeypatch, capfdbinary)(*arguments)
    err = "".join(line for line in err.splitlines(keepends=True) if ": loading PyTorch and " not in line)
    assert code == 2, err
    assert out == b""
    assert 1 <= len(err.strip().splitlines()) <= 2
    assert err.startswith("mixture: ")
    assert said in err
    assert "Traceback" not in err


def test_a_broken_store_is_exit_code_1(run: Run, small_store: Store) -> None:
    small_store.close()
    (small_store.work / "catalog.sqlite").write_bytes(b"not a database" * 100)
    code, _, err = run("list")
    assert code == 1
    assert len(err.strip().splitlines()) <= 2
    assert "does not open" in err


def test_every_command_is_in_the_readme_and_has_help_that_ends_with_examples(run: Run) -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
    assert len(COMMANDS) >= 14
    for name in COMMANDS:
        assert f"mixture {name}" in readme, name
        code, out, _ = run(name, "--help")
        assert code == 0
        assert max(map(len, out.decode().splitlines())) <= 80
        assert run(name, "-h") == run("help", name) == (0, out, "")
        shown = out.decode().split("  Examples:\n")[1]
        assert EXAMPLES[name]
        for line in EXAMPLES[name]:
            assert line in shown
            assert _parsed(line).info_name == name


@pytest.mark.parametrize("arguments", [[], ["-h"], ["help"]])
def test_the_help_lists_every_command_with_a_whole_sentence(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    listed = re.findall(r"^  (\S+)  +(.*(?:\n {8,}\S.*)*)", out.decode().split("Commands:\n")[1], re.MULTILINE)
    assert [name for name, _ in listed] == list(COMMANDS)
    for name, said in listed:
        whole, shown = " ".join(COMMANDS[name].help.split()), " ".join(said.split()).rstrip(".")
        assert whole.startswith(f"{shown}."), name


def _parsed(line: str) -> Any:
    """The context in which a command line would run. Raises what the command line raises for a mistake."""
    words = shlex.split(line)
    group = typer.main.get_command(app)
    with group.make_context("mixture", words[words.index("mixture") + 1 :]) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
        return command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("line", ["mixture dedup --nmae x", "mixture select tdro", "mixture mine --depth few"])
def test_an_example_with_a_mistake_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such option|Missing parameter|valid integer"):
        _parsed(line)


def test_store_and_json_stand_before_the_command_or_after_it(
    root_with_m: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXTURE_STORE", "no/store")
    store = str(root_with_m)
    wanted = run("list", "--store", store, "--json")
    assert json.loads(wanted[1])[0]["reference"] == "m:1"
    for words in (["--store", store, "--json", "list"], ["--json", "list", "--store", store],
                  ["--store", store, "list", "--json"], ["--store", "other", "list", "--json", "--store", store],
                  ["--store", store, "list", "--json", "--debug"]):  # fmt: skip
        assert run(*words) == wanted
    assert run("list")[0] == 2  # nothing is remembered
    assert run("--store", store, "list")[1] != wanted[1]
    code, _, err = run("--json", "demo")
    assert (code, err) == (2, "mixture: demo takes no --json\n")
    # A store that is called as a command is no command.
    code, _, err = run("--store", "store", "dedup", "--method", "foo", "--store", store)
    assert code == 2 and err.startswith("mixture: --method is 'foo'")


HEAVY = {"accelerate", "datasets", "datasketch", "huggingface_hub", "jinja2", "numba", "pandas", "peft", "scipy",
         "sentence_transformers", "tokenizers", "torch", "trainers", "transformers", "vl_convert"}  # fmt: skip
LOADED = """
import sys
import cli
try:
    cli.app(sys.argv[1:])
finally:
    print(*{name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["--help", "--version", "list", "show mix", "sql"])
def test_what_answers_at_once_loads_nothing_heavy(small_store: Store, command: str) -> None:
    jobs.create(small_store, "mix")
    environment = os.environ | {"MIXTURE_STORE": str(small_store.work)}
    arguments = [sys.executable, "-c", LOADED, *command.split()]
    done = subprocess.run(arguments, env=environment, input="SELECT name FROM mixtures", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stderr.split()) == set()


def test_the_version_is_that_of_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "cli", "--version"], capture_output=True, text=True)
    assert done.stdout == f"mixture {version('retrieval-mixture')}\n"


def test_help_lists_the_names_of_the_dictionaries(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixture.dedup.methods import METHODS

    monkeypatch.setitem(METHODS, "added", METHODS["exact"])
    _, out, _ = run("dedup", "--help")
    assert "exact, minhash, semantic, simhash, added" in out.decode()


def test_a_dry_run_of_ingest_stores_nothing_and_fails_where_ingest_would(run: Run, tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer,id\nhow,so,1\n")
    (tmp_path / "people.csv").write_text("name,email\nBob,b@x\n")
    code, out, _ = run("ingest", str(tmp_path / "faq.csv"), "--dry-run")
    assert code == 0
    assert "query ← question, positive ← answer; ignored: id; 1 row\n  1. query: how\n     positive: so" in out.decode()
    code, out, _ = run("ingest", str(tmp_path / "people.csv"), "--dry-run")
    assert code == 1
    assert b"--columns query=NAME,positive=NAME" in out
    assert "faq" not in {row["collection"] for row in _json(run, "sql", "FROM collections", "--format", "json")}

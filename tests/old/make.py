"""Makes the fixtures of `tests/test_old_stores.py`, with the code of commit 8cf9e61.

    git worktree add OLD 8cf9e61
    cd OLD && PYTHONPATH=OLD python HERE/tests/old/make.py

It writes `old.tar.xz` and `expected.json` beside itself, in two minutes. It is no test, and need not be run again: what
an old store is does not change. With other code than that of 8cf9e61 it refuses to run.

`old.tar.xz`, as the old code left it:

  raw/       the rows of three small collections, invented: with negatives, an exact repeat, a near-duplicate, a damaged
             row
  store/     these, ingested and deduplicated; the mixtures even, tilted and long (slices), a tag; two runs that SIGKILL
             ended in the middle of a step: a fine-tuning on tilted, and a learn-weights on even in its tDRO loop, whose
             reference model is finished
  suite/     what the fine-tuning is evaluated on
  half/      its folder, with its checkpoint
  folder/    the mixture tilted, written by `mixture export --materialised`; tiny-qwen2 was built in it
  expected/  the models that the old code's trainings ended with

`expected.json` has what the old code says of all that, and what it makes of it when the commands are run again: on
copies elsewhere, as the test does. Each command was also run without a kill, to the same bits.

tiny-qwen2 is 16 wide here instead of 128. The models lie where the old code looks for them, and who finds them takes
them.

Since 8cf9e61 the batch plan changed on purpose, where a batch spans two epochs. Here none does: each collection's size
is a multiple of the batch size, no two rows share a positive, and the mixed batches of tDRO stay within the first
epoch. `BatchPlan` of 8cf9e61 and of bee6971 were compared on these sizes and weights, homogeneous and mixed: equal row
for row. The test compares the fine-tuning's (`batches`).
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from bits import digest, embedded, lasting, machine

HERE = Path(__file__).resolve().parent
OLD = "8cf9e61"
STORE, HALF, FOLDER, SUITE = "store", "half", "folder", "suite"
SHARED = ["--steps", "8", "--batch-size", "6", "--learning-rate", "2e-3", "--json", *(word for text in (
    "temperature=0.05", "negatives=1", "max_query_tokens=64", "max_passage_tokens=48", "tracker=none",
) for word in ("--set", text))]  # fmt: skip
EVALUATED = ["--suite", SUITE, "--set", "evaluate_every=2", "--set", "keep_best=true", "--set", "checkpoint_every=2"]
COMMANDS = {
    "train": ["cli", "train", "--store", STORE, "--mix", "production", "--model", "tiny-qwen2", "--out", HALF, *SHARED,
              *EVALUATED],
    "learn": ["cli", "learn-weights", "--store", STORE, "--mix", "even", "--proxy", "tiny-qwen2", "--name", "learned",
              "--weights", "all", *SHARED, "--set", "checkpoint_every=3", "--set", "weights_learning_rate=0.2"],
    "folder": ["trainers", FOLDER, "--model", "tiny-qwen2", "--out", "trained",
               *(word for word in SHARED if word not in ("--learning-rate", "2e-3")), "--set", "learning_rate=2e-3"],
}  # fmt: skip
# The step in whose middle a command is killed: its checkpoints are of steps 2 and 4, and of step 3.
KILLED_IN = {"train": 6, "learn": 5}
ASKED = {
    "list": ["list"],
    "show by tag": ["show", "production"],
    "show by version": ["show", "even:1"],
    "show a slice": ["show", "long"],
    "log": ["log", "tilted"],
    "diff": ["diff", "even", "tilted"],
    "verify": ["verify"],
    "gc": ["gc", "--dry-run"],
}
# One after another, on a copy of their own: files that are known, what was removed comes back, new mixtures.
WRITING = [
    ["ingest", *(f"raw/{name}.jsonl" for name in ("rivers", "crafts", "letters"))],
    ["create", "same", "--uniform"],
    ["dedup", "--undo"],
    ["create", "more", "--uniform"],
    ["tag", "more", "production"],
    ["diff", "even", "production"],
    ["verify"],
]
HASHED = "SELECT collection, count(*) AS n, md5(string_agg(row({0})::VARCHAR, ' ' ORDER BY row({0})::VARCHAR)) AS hash"
QUERIES = [
    "SELECT * FROM collection_facts ORDER BY collection",
    f"{HASHED.format('example_id, query, language, simhash, positives')} FROM examples GROUP BY ALL ORDER BY ALL",
    f"{HASHED.format('passage_id, title, text, simhash')} FROM passages GROUP BY ALL ORDER BY ALL",
    f"{HASHED.format('example_id, passage_id, rank, score, miner')} FROM negatives GROUP BY ALL ORDER BY ALL",
    "SELECT collection, line, reason, raw FROM rejects ORDER BY ALL",
    "SELECT collection, example_id, reason, kept_id, distance, similarity, snapshot_before FROM removals",
    "SELECT mixture, collection, digest, weight, num_examples, slice_of, selection FROM mixture_weights ORDER BY ALL",
    "SELECT name, mixture, epoch_us(created_at) AS made, snapshot, parents, note, spec FROM mixtures ORDER BY made",
    "SELECT tag, mixture, mixture_id('production') AS meant FROM mixture_tags",
    "FROM mixture('production')",
    "FROM composition('even') ORDER BY ALL",
    "FROM epochs('tilted', steps := 8, batch_size := 6)",
    "SELECT run_id, kind, status, mixture FROM runs ORDER BY kind",
    "SELECT * FROM run_draws ORDER BY ALL",
    "SELECT * FROM weight_history ORDER BY step, collection",
]
LEARNED = "SELECT name, mixture, parents, note, spec FROM mixtures WHERE run_id IS NOT NULL ORDER BY name"

NAMES = [a + b for a in ("Bel", "Dor", "Kel", "Mar", "Nis", "Tor", "Vel", "Zan") for b in ("ama", "esk", "idu", "oria")]
GOODS = ("rope", "cheese", "lamps", "paper", "salt", "boats", "drums", "wool")
# Collection -> rows, how a query asks and how a passage answers.
KINDS = {
    "rivers": (30, "Which sea does the river {a} reach after it has left the hills of {b}?",
               "The {a} rises in the hills of {b}, passes {n} villages and reaches the sea of {c}."),
    "crafts": (24, "Who makes the best {g} between {a} and {b}, and for how long already?",
               "People of {a} have made {g} for {n} years and carry it to the market of {b} by way of {c}."),
    "letters": (36, "What did {a} write to {b} about the {g}?",
                "{a} wrote to {b} in year {n}: the {g} came late, and {c} will not pay for it."),
}  # fmt: skip


def main() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    import mixture

    if not head.startswith(OLD) or dirty or Path(mixture.__file__).resolve().parents[1] != Path.cwd().resolve():
        sys.exit(f"run this in a clean checkout of {OLD}, with PYTHONPATH set to it")
    with tempfile.TemporaryDirectory(prefix="old-") as scratch:
        make(Path(scratch))


def make(scratch: Path) -> None:
    begun, killed = scratch / "begun", scratch / "killed"
    begun.mkdir()
    _write_rows(begun / "raw")
    _write_suite(begun / SUITE)
    _make_store(begun)
    shutil.copytree(begun, killed)
    for name, step in KILLED_IN.items():
        _run(killed, COMMANDS[name], kill=step)
    expected: dict[str, Any] = {"made by": OLD, "machine": machine(), "commands": COMMANDS, "learned": LEARNED}
    copied = _copy(killed, scratch / "asked")
    asked = ASKED | {"show by the beginning of an id": ["show", _ask(copied, ["show", "tilted"])["id"][:5]]}
    expected["asked"] = {
        name: {"words": words, "answer": lasting(_ask(copied, words))} for name, words in asked.items()
    }
    expected["sql"] = {query: _sql(copied, query) for query in QUERIES}
    batches = ["export", "tilted", "--batches", "8", "--batch-size", "6", "--out", "batches.jsonl"]
    _ask(copied, batches)
    rows = [json.loads(line) for line in (copied / "batches.jsonl").read_text("utf-8").splitlines()]
    expected["batches"] = {"words": batches, "rows": rows}
    copied = _copy(killed, scratch / "written")
    expected["written"] = [{"words": words, "answer": lasting(_ask(copied, words))} for words in WRITING]
    results = {}
    for name in COMMANDS:
        again, whole = _copy(killed, scratch / f"{name}-again"), _copy(begun, scratch / f"{name}-whole")
        results[name] = _result(name, again)
        unkilled = _result(name, whole) | {"runs": results[name]["runs"]}  # of another store
        for key in unkilled:
            assert unkilled[key] == results[name][key], f"{name}: a kill changes {key}"
    drawn = {row["collection"]: 0 for row in results["learn"]["history"]}
    for row in results["learn"]["history"]:
        drawn[row["collection"]] += row["num_examples"]
    for name, (size, *_) in KINDS.items():
        assert size % 6 == 0 and drawn[name] <= size, f"{name}: a batch spans two epochs"
    (killed / "expected").mkdir()
    for name, out in (("train", HALF), ("folder", "trained")):
        trained = scratch / f"{name}-again" / out / "model.safetensors"
        shutil.copy(trained, killed / "expected" / f"{name}.safetensors")
    expected["results"] = results
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    (HERE / "expected.json").write_text(text + "\n", "utf-8")
    with tarfile.open(HERE / "old.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(killed.iterdir()):
            archive.add(path, path.name, filter=_anonymous)


def _write_rows(folder: Path) -> None:
    """The collections as JSON lines: query, pos, neg."""
    folder.mkdir()
    for name, (count, ask, answer) in KINDS.items():
        random = Random(name)
        rows = []
        for number in range(count):
            a, b, c = random.sample(NAMES, 3)
            known = {"a": a, "b": b, "c": c, "g": random.choice(GOODS), "n": 12 + 7 * number}
            rows.append({"query": ask.format(**known), "pos": [answer.format(**known)]})
        passages = [row["pos"][0] for row in rows]
        lines = []
        for row in rows:
            others = random.sample([text for text in passages if text != row["pos"][0]], 3)
            lines.append(json.dumps(row | {"neg": others}))
        if name == "rivers":
            near = rows[3] | {"query": rows[3]["query"].replace("?", " ?!"), "neg": [passages[9]]}
            lines += [lines[5], json.dumps(near), '{"query": "a row that ends in the mid']
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _write_suite(folder: Path) -> None:
    """A suite in BEIR layout: six questions like those of `rivers`, and ten passages."""
    (folder / "qrels").mkdir(parents=True)
    _, ask, answer = KINDS["rivers"]
    random = Random("suite")
    facts = []
    for number in range(10):
        a, b, c = random.sample(NAMES, 3)
        facts.append({"a": a, "b": b, "c": c, "n": 13 + number})
    corpus = [{"_id": f"d{n}", "text": answer.format(**known)} for n, known in enumerate(facts)]
    queries = [{"_id": f"q{n}", "text": ask.format(**known)} for n, known in enumerate(facts[:6])]
    for file, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(6))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", "utf-8")


def _make_store(folder: Path) -> None:
    for words in (
        ["ingest", *(f"raw/{name}.jsonl" for name in KINDS)],
        ["dedup"],
        ["create", "even", "--uniform"],
        ["create", "tilted", "--from", "even", "--set", "rivers=0.5"],
        ["create", "long", "--where", "query LIKE '%Kel%'"],
        ["tag", "tilted", "production"],
        ["export", "tilted", "--materialised", FOLDER],
    ):
        _ask(folder, words)
    # The tiny model of the folder: a training in it builds it.
    steps = COMMANDS["folder"].index("--steps") + 1
    _run(folder, [*COMMANDS["folder"][:steps], "1", *COMMANDS["folder"][steps + 1 :]])
    shutil.rmtree(folder / "trained")


def _result(name: str, folder: Path) -> dict[str, Any]:
    """What a command prints and makes when it is run to its end in `folder`."""
    printed = json.loads(_run(folder, COMMANDS[name]))
    found: dict[str, Any] = {"printed": printed}
    if name == "learn":
        run = printed["run_id"]
        found["printed"] = lasting(printed)
        found["history"] = _sql(folder, "SELECT * FROM weight_history ORDER BY step, collection")
        found["mixtures"] = _sql(folder, LEARNED)
        found["embedded"] = embedded(folder / STORE)
        found["proxy"] = digest(folder / STORE / "runs" / run / "step-8" / "trained.safetensors")
    else:
        out = folder / (HALF if name == "train" else "trained")
        record = json.loads((out / "training.json").read_text("utf-8"))
        kept = ("run_id", "final_step", "drawn", "evaluations", "query_scores", "losses")
        found |= {"record": {key: record[key] for key in kept}, "model": digest(out / "model.safetensors")}
    if name == "train":
        found["best"] = digest(out / "best" / "model.safetensors")
    found["runs"] = _sql(folder, "SELECT run_id, kind, status, mixture FROM runs ORDER BY kind, status")
    return found


def _copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def _ask(folder: Path, words: list[str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "--store", STORE, *words, "--json"], cwd=folder, env=_environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{words}: {done.stderr}")
    return json.loads(done.stdout)


def _sql(folder: Path, query: str) -> Any:
    return _ask(folder, ["sql", query])


def _run(folder: Path, command: list[str], kill: int = 0) -> str:
    """Run a command that trains, in a process of its own; what it printed. `kill`: the step in which it dies."""
    done = subprocess.run(
        [sys.executable, str(HERE / "make.py"), "child", str(kill), *command], cwd=folder, env=_environment(),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode != (-signal.SIGKILL if kill else 0):
        sys.exit(f"{command} ended with {done.returncode}")
    return done.stdout


def _environment() -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("MIXTURE_")}
    return given | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TZ": "UTC"}


def _child(kill: int, module: str, *words: str) -> None:
    """`python -m module words`, with a smaller tiny-qwen2, and a SIGKILL in the middle of a step: of a fine-tuning,
    or of tDRO's loop where its reference is trained before."""
    from trainers import base_model, loop, tiny

    def small(texts: Any, folder: Path, *, seed: int) -> Any:
        prompt = "Instruct: Given a query, retrieve relevant passages that answer the query\nQuery: "
        return tiny.build_tiny([*texts, *[prompt] * 50], folder, seed=seed, vocabulary=400, hidden=16)

    descend = loop.TrainingLoop.descend

    def deadly(self: Any, *given: Any) -> None:
        learning = self.folder.name != "checkpoints"
        if self.step + 1 == kill and learning == ("learn-weights" in words):
            os.kill(os.getpid(), signal.SIGKILL)
        descend(self, *given)

    base_model.build_tiny, loop.TrainingLoop.descend = small, deadly
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _child(int(sys.argv[2]), *sys.argv[3:])
    else:
        main()

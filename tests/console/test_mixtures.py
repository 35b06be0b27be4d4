"""`mixture create` and `mixture select`: each way to make a mixture, with its parents and its note."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mixture import Store
from mixture.console.mixtures import LISTED
from mixture.store.write import insert_rows

WEIGHTS = {"easy": 0.7, "hard": 0.2, "middle": 0.1}


def _run(store: Store, *arguments: str) -> Any:
    result = CliRunner().invoke(app, ["--store", str(store.work), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _weights(made: Any) -> dict[str, float]:
    return {c["collection"]: c["weight"] for c in made["components"]}


@pytest.fixture
def learned(small_store: Store) -> Any:
    """A mixture named `learned` with `WEIGHTS`, and one named `equal`."""
    file = small_store.work.parent / "weights.json"
    file.write_text(json.dumps(WEIGHTS))
    _run(small_store, "create", "equal")
    return _run(small_store, "create", "learned", "--weights", str(file))


def test_unimax_caps_the_repeats(small_store: Store) -> None:
    made = _run(small_store, "create", "capped", "--unimax", "2", "--budget", "100", "--collection", "easy",
                "--collection", "hard")  # fmt: skip
    assert _weights(made) == {"easy": 0.5, "hard": 0.5}
    assert made["note"] == "UniMax, 2 epochs at most in 100 examples"


SELECTIONS = [
    (["--top", "70"], {"easy": 0.5, "hard": 0.5}, "top 70 % of learned:1"),
    (["--temperature", "inf"], dict.fromkeys(WEIGHTS, 1 / 3), "learned:1 at temperature inf"),
    (["--floor", "0.2"], {"easy": 0.6, "hard": 0.2, "middle": 0.2}, "learned:1 with a floor of 0.2"),
    (["--loss-reweight"], dict.fromkeys(WEIGHTS, 1 / 3), "losses weighed as learned:1"),
]


def test_select_from_one(small_store: Store, learned: Any) -> None:
    for options, weights, note in SELECTIONS:
        made = _run(small_store, "select", "learned", *options, "--name", "new")
        assert _weights(made) == pytest.approx(weights)
        assert (made["parents"], made["note"]) == ([learned["id"]], note)
    loss_weights = {c["collection"]: c["loss_weight"] for c in made["components"]}
    assert loss_weights == pytest.approx({name: 3 * weight for name, weight in WEIGHTS.items()})


def test_select_from_two(small_store: Store, learned: Any) -> None:
    equal = _run(small_store, "show", "equal")
    for blend in ("equal:0.3", "equal:1:0.3"):
        made = _run(small_store, "select", "learned", "--blend", blend, "--name", "blended")
        assert _weights(made) == pytest.approx({name: 0.7 * weight + 0.1 for name, weight in WEIGHTS.items()})
        assert (made["parents"], made["note"]) == ([learned["id"], equal["id"]], "0.7 of learned:1, 0.3 of equal:1")
    made = _run(small_store, "select", "equal", "--reweight", "learned", "--name", "again")
    assert _weights(made) == pytest.approx(WEIGHTS)
    assert (made["parents"], made["note"]) == ([equal["id"], learned["id"]], "equal:1 with the weights of learned:1")


MISTAKES = [
    (["create", "x", "--unimax", "2"], "--unimax EPOCHS and --budget EXAMPLES go together"),
    (["create", "x", "--budget", "2"], "go together"),
    (["create", "x", "--unimax", "2", "--budget", "9", "--uniform"], "give one of --uniform"),
    (["create", "x", "--unimax", "0", "--budget", "9"], "epoch cap is 0"),
    (["select", "learned", "--name", "x"], "give one of --top"),
    (["select", "learned", "--name", "x", "--top", "50", "--floor", "0.1"], "give one of --top"),
    (["select", "learned", "--name", "x", "--loss-reweight", "--top", "50"], "give one of --top"),
    (["select", "learned", "--name", "x", "--temperature", "0"], "temperature is 0"),
    (["select", "learned", "--name", "x", "--floor", "0.5"], "floor is 0.5; allowed: 0 to 0.333"),
    (["select", "learned", "--name", "x", "--blend", "equal"], "as tdro:0.3 or tdro:2:0.3"),
    (["select", "learned", "--name", "x", "--blend", "equal:half"], "as tdro:0.3 or tdro:2:0.3"),
    (["select", "learned", "--name", "x", "--blend", "equal:3"], "share of a blend is 3"),
    (["select", "learned", "--name", "x", "--blend", "equl:0.5"], "did you mean 'equal'"),
]


def test_mistakes_get_a_plain_line(small_store: Store, learned: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, message in MISTAKES:
        with pytest.raises(SystemExit) as caught:
            app(["--store", str(small_store.work), *arguments])
        err = capfd.readouterr().err
        assert caught.value.code == 2
        assert message in " ".join(err.split())
        assert "Traceback" not in err


@pytest.mark.parametrize("command", [["list"], ["show", "learned"], ["diff", "learned", "equal"]])
def test_a_look_loads_nothing_slow(small_store: Store, learned: Any, command: list[str]) -> None:
    """pandas comes with a parameter of a query or a time with a zone, and takes longer than all the rest."""
    script = (
        "import sys, atexit; from cli import app\n"
        "atexit.register(lambda: print({'pandas', 'torch', 'huggingface_hub'} & set(sys.modules)))\n"
        f"app(['--store', {str(small_store.work)!r}, *{command!r}])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert "learned:1" in printed
    assert printed.endswith("set()\n")


def test_a_long_list_is_cut_for_people_and_whole_as_json(small_store: Store) -> None:
    rows = [{"mixture": f"{n:012x}", "name": f"m{n}", "version": 1, "spec": "{}", "created_at": datetime.now(UTC)}
            for n in range(LISTED + 7)]  # fmt: skip
    insert_rows(small_store, "mixtures", rows)
    printed = CliRunner().invoke(app, ["--store", str(small_store.work), "list"])
    assert printed.stdout.count("m1") >= 10
    assert sum(f"{n:012x}" in printed.stdout for n in range(LISTED + 7)) == LISTED
    assert printed.stderr == "7 older ones; --json prints all\n"
    assert len(_run(small_store, "list")) == LISTED + 7

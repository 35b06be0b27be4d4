"""Datacards: the built-in ones say what the paper says, and a broken one says all that is wrong with it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import app
from mixture import Store, jobs
from mixture.cards import DataCard, Source, card_for, check_cards, load_card, load_cards, render_card
from mixture.console.cards import card_of
from mixture.errors import UsageError

PAPER = Path(os.environ.get("MIXTURE_PAPER", Path(__file__).parents[3] / "shared" / "paper"))
LANGUAGES = {
    "English": "en",
    "Chinese": "zh",
    "16 languages": "ar bn en es fa fi fr hi id ja ko ru sw te th zh",
    "11 languages": "ar bn en fi id ja ko ru sw te th",
}
# The collections whose own negatives the release keeps; the other 16 are mined (shared/paper/README.md, 7).
PROVIDED = {
    "AllNLI", "dureader", "miracl", "mr_tydi_combined", "msmarco", "nq", "quora_duplicates_triplets", "t2ranking",
    "trivia",
}  # fmt: skip
NAMES = [
    "agnews", "AllNLI", "altlex", "amazon_review_2018", "cnn_dailymail", "codesearchnet", "dureader",
    "eli5_question_answer", "gooaq_pairs", "hotpotqa", "medmcqa", "miracl", "mr_tydi_combined", "msmarco", "nq",
    "quora_duplicates_triplets", "searchQA_top5_snippets", "sentence-compression", "SimpleWiki", "squad_pairs",
    "stackexchange_duplicates_title-body", "t2ranking", "trivia", "xsum", "yahoo_answers_title_answer",
]  # fmt: skip
TWO_PROMPTS = {
    "AllNLI", "altlex", "amazon_review_2018", "medmcqa", "miracl", "mr_tydi_combined", "nq",
    "quora_duplicates_triplets", "searchQA_top5_snippets", "SimpleWiki", "squad_pairs", "trivia",
}  # fmt: skip
SYMMETRIC = {"AllNLI", "altlex", "quora_duplicates_triplets", "SimpleWiki", "stackexchange_duplicates_title-body"}
CARD = """---
pretty_name: Our tickets
language: [en, zh-Hant]
license: cc-by-4.0
mixture:
  name: {name}
  prompts:
    - Given a ticket, retrieve the article that solves it
---

Tickets of our support desk.
"""


@pytest.fixture(scope="module")
def cards() -> dict[str, DataCard]:
    return load_cards()


def test_the_cards_agree_with_the_paper(cards: dict[str, DataCard]) -> None:
    table = PAPER / "collections.csv"
    if not table.exists():
        pytest.skip(f"{table} is not here; set MIXTURE_PAPER to the folder that holds collections.csv")
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert set(cards) == {row["name"] for row in rows}
    for row in rows:
        card = cards[row["name"]]
        assert card.name_in_release == row["name_in_release"]
        assert card.citation == row["citation"]
        assert card.category == row["category"]
        assert " ".join(card.language) == LANGUAGES[row["language"]]
        assert card.deduped_size == int(row["deduped_size"])
        assert card.prompts == tuple(prompt for prompt in (row["prompt_1"], row["prompt_2"]) if prompt)


def test_there_are_25_cards_with_37_prompts(cards: dict[str, DataCard]) -> None:
    assert set(cards) == set(NAMES)
    assert {name for name, card in cards.items() if len(card.prompts) == 2} == TWO_PROMPTS
    assert sum(len(card.prompts) for card in cards.values()) == 37
    assert sum(card.deduped_size or 0 for card in cards.values()) == 11_067_280
    assert {name for name, card in cards.items() if card.symmetric} == SYMMETRIC
    for name, card in cards.items():
        assert card.path.stem == card.name == name
        assert card.text.startswith(f"# {card.pretty_name}\n")


def test_every_card_says_where_the_rows_come_from(cards: dict[str, DataCard]) -> None:
    assert {name for name, card in cards.items() if "mined by the tDRO authors" not in card.negatives} == PROVIDED
    for name, card in cards.items():
        assert card.source is not None
        assert card.source.hub_id.count("/") == 1
        assert card.source.url.startswith("http")
        # A fact without the place where it was read is not to be believed.
        assert any(word in card.text for word in ("README", "the card", "page")), name
        sentences = card.text.split("\n\n", 1)[1].replace("\n", " ").split(". ")
        assert 3 <= len(sentences) <= 7, name
        # The hub wants a name and a link where the licence has no id of its own.
        assert (card.license == "other") == bool(card.license_name) == bool(card.license_link)
    assert cards["medmcqa"].source == Source(
        hub_id="openlifescienceai/medmcqa",
        files=("data/train-00000-of-00001.parquet",),
        columns={"query": "question", "positive": "exp"},
        url="https://medmcqa.github.io",
    )


def test_no_card_carries_another_cards_description(cards: dict[str, DataCard], tmp_path: Path) -> None:
    assert check_cards() == cards
    copied = cards["xsum"].text.split("\n\n", 1)[1]
    text = CARD.format(name="tickets").replace("Tickets of our support desk.", f"# Our own title\n\n{copied.upper()}")
    (tmp_path / "tickets.md").write_text(text, encoding="utf-8")
    (tmp_path / "other.md").write_text(CARD.format(name="other"), encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        check_cards(tmp_path)
    faults = str(raised.value).splitlines()
    assert len(faults) == 2
    assert f"{cards['xsum'].path}: carries the description of 'tickets'" in faults[0]
    assert f"{tmp_path / 'tickets.md'}: carries the pretty_name of 'other'" in faults[1]


def test_a_card_is_found_by_either_name(cards: dict[str, DataCard]) -> None:
    assert card_for("amazon_review_2018", cards) is card_for("amazon_review_2018_1m", cards)
    with pytest.raises(UsageError, match="no datacard 'agnew'; did you mean 'agnews'"):
        card_for("agnew", cards)


def test_optional_keys_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "tickets.md"
    path.write_text(CARD.format(name="tickets"), encoding="utf-8")
    assert load_card(path) == DataCard(
        name="tickets",
        name_in_release="tickets",
        pretty_name="Our tickets",
        language=("en", "zh-Hant"),
        license="cc-by-4.0",
        category="",
        citation="",
        symmetric=False,
        prompts=("Given a ticket, retrieve the article that solves it",),
        deduped_size=None,
        negatives="unknown",
        source=None,
        text="Tickets of our support desk.",
        path=path,
    )


def test_the_users_cards_win(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(CARD.format(name="tickets"), encoding="utf-8")
    (tmp_path / "b.md").write_text(CARD.format(name="nq"), encoding="utf-8")
    cards = load_cards(tmp_path)
    assert len(cards) == 26
    assert cards["nq"].pretty_name == "Our tickets"
    assert card_for("tickets", cards).path == tmp_path / "a.md"


def test_a_broken_card_reports_all_its_faults_at_once(tmp_path: Path) -> None:
    path = tmp_path / "broken.md"
    path.write_text(
        "---\nlanguage: [English]\nlicense: ''\nmixture:\n  name: broken\n  prompt: [x]\n  symmetric: sometimes\n"
        "  prompts: [3]\n  deduped_size: -3\n  colour: red\n  license: mit\n"
        "  source:\n    hub: a/b\n    hub_id: a b\n    files: one.jsonl\n    columns: {anchor: q}\n---\n",
        encoding="utf-8",
    )
    with pytest.raises(UsageError) as raised:
        load_card(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    for fault in (
        "pretty_name is missing",
        "language is ['English']; it must be a list of BCP-47 codes",
        "license is ''; it must be a text such as cc-by-4.0",
        "mixture.symmetric is 'sometimes'; it must be true or false",
        "mixture.prompts is [3]; it must be a list",
        "mixture.deduped_size is -3; it must be a whole number",
        "mixture.colour is no known key; there are: name, name_in_release",
        "mixture.license is no known key",
        "mixture.source.hub is no known key; did you mean 'hub_id'?",
        "mixture.source.hub_id is 'a b'; it must be owner/name on the Hugging Face hub, or unknown",
        "mixture.source.files is 'one.jsonl'; it must be a list of paths",
        "mixture.source.columns is {'anchor': 'q'}; it must be a mapping of query, positive, negative, label",
    ):
        assert fault in message
    assert "mixture.prompt is no known key; did you mean 'prompts'?" in message
    # One fault a key, in our words.
    assert [message.count(f"{key} is ") for key in ("; language", "mixture.prompts", "mixture.source.columns")] == [
        1
    ] * 3
    assert "pydantic" not in message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# no front matter\n", "mixture is missing"),
        ("---\nmixture: nq\n---\n", "mixture is 'nq'; it must be a mapping"),
        ("---\na: [1\n---\n", "not valid YAML"),
        ("---\n- a\n---\n", "not valid YAML"),
    ],
)
def test_a_card_without_readable_front_matter(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "broken.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        load_card(path)
    assert fault in str(raised.value)
    assert "mixture.name" not in str(raised.value)


def test_all_faulty_cards_of_a_folder_are_reported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.md").write_text("nothing\n", encoding="utf-8")
    (tmp_path / "c.md").write_text(CARD.format(name="tickets"), encoding="utf-8")
    (tmp_path / "d.md").write_text(CARD.format(name="tickets"), encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        load_cards(tmp_path)
    message = str(raised.value)
    assert f"{tmp_path / 'a.md'}: " in message
    assert f"{tmp_path / 'b.md'}: " in message
    assert f"mixture.name 'tickets' is already the name of {tmp_path / 'c.md'}" in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read this datacard: No such file"):
        load_card(tmp_path / "none.md")
    with pytest.raises(UsageError, match="is not a folder"):
        load_cards(tmp_path / "none")


def test_cards_do_not_import_torch() -> None:
    code = "import sys, mixture.cards; mixture.cards.load_cards(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_yaml_reads_an_unquoted_no_as_false(tmp_path: Path) -> None:
    path = tmp_path / "norsk.md"
    path.write_text(CARD.format(name="norsk").replace("[en, zh-Hant]", "[no]"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"language is \[False\]; it must be .* YAML needs quotes around 'no'"):
        load_card(path)
    path.write_text(CARD.format(name="norsk").replace("[en, zh-Hant]", "['no']"), encoding="utf-8")
    assert load_card(path).language == ("no",)


def test_a_rendered_card_is_read_back_equal(cards: dict[str, DataCard], tmp_path: Path) -> None:
    odd = cards["medmcqa"].model_copy(
        update={"language": ("no", "zh-Hant"), "citation": "D'Ávila: “a” # b", "prompts": ("- x: 'y'", "no", "1")}
    )
    for number, card in enumerate([*cards.values(), odd]):
        path = tmp_path / f"{number}.md"
        path.write_text(render_card(card), encoding="utf-8")
        assert load_card(path) == card.model_copy(update={"path": path})


def test_a_card_is_a_plain_dictionary(cards: dict[str, DataCard]) -> None:
    body = json.loads(json.dumps(cards["hotpotqa"].model_dump(mode="json")))
    assert body["language"] == ["en"]
    assert (body["source"]["config"], body["source"]["files"]) == ("triplet", [])


def test_cards_of_the_benchmarks_are_in_order() -> None:
    assert len(check_cards(Path(__file__).parents[2] / "benchmarks" / "cards")) == 36


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`run(*arguments)` -> (exit code, standard output, standard error), in a folder without a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIXTURE_STORE", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            app(["cards", *arguments])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def test_the_command_checks_cards(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert run("check") == (0, "25 cards ok\n", "")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.md").write_text("nothing\n")
    (tmp_path / "own" / "b.md").write_text(CARD.format(name="b").replace("prompts", "promts"))
    code, out, err = run("check", "--cards", "own")
    assert (code, out) == (2, "")
    assert "own/a.md: " in err and "mixture.promts is no known key; did you mean 'prompts'?" in err
    code, out, _ = run("--json")
    assert [row["name"] for row in json.loads(out)] == sorted(NAMES, key=str.lower)


def test_the_command_shows_declared_beside_measured(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, write_collection: Callable[..., Path]
) -> None:
    code, out, _ = run("agnews")
    assert code == 0 and "declared" in out and "measured" not in out
    assert run("agnews", "--store", "nowhere")[0] == 2
    assert json.loads(run("agnews", "--json")[1])["measured"] is None

    with Store.open(tmp_path / "mixture-store", create=True) as store:
        jobs.ingest(store, [str(write_collection(tmp_path / "raw", "news", rows=30))], card="agnews")
    plain = "agnews: the card declares 1,157,745 examples after deduplication, the store holds 30\n"
    code, out, _ = run("agnews")
    assert code == 0 and out.endswith(plain)
    body = json.loads(run("agnews", "--json")[1])
    assert body["measured"]["num_examples"] == 30
    assert body["measured"]["negatives_by_miner"] == {"provided": {"negatives": 120, "examples": 30}}
    assert body["differences"] == [plain.strip()]
    assert json.loads(run("xsum", "--json")[1])["measured"] is None


def test_the_command_writes_a_first_card(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    rows = [
        {"query": "hvor", "pos": ["her"], "neg": ["der", "hist"], "language": "no"},
        {"query": "where is it", "pos": ["here", "there"], "language": "english"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"query": "cut')
    code, out, err = run("new", "tickets", "--from", "t.jsonl", "--out", "own", "--json")
    assert (code, err, json.loads(out)[0]["file"]) == (0, "", "own/tickets.md")
    card = load_cards(tmp_path / "own")["tickets"]
    assert (card.language, card.license, card.deduped_size) == (("no",), "unknown", None)
    assert "provided" in card.negatives
    text = " ".join(card.text.split())
    assert "files 1, rows 3, unreadable rows 1." in text
    # Queries of 4 and 11 characters; positives of 3, 4 and 5; two negatives in one of two rows.
    assert "query: mean 8, 95 % have at most 11; of a positive: mean 4, 95 % have at most 5." in text
    assert "Rows with negatives: 50%; negatives for each row: 1.0 on average." in text
    code, _, err = run("new", "tickets", "--from", "t.jsonl", "--out", "own")
    assert (code, "is not overwritten" in err) == (2, True)


def test_a_draft_passes_the_check_once_its_author_has_said_what_it_cannot(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_text('["where", "here"]\n')
    assert run("new", "tickets", "--from", "t.jsonl", "--out", "own")[0] == 0
    code, _, err = run("check", "--cards", "own")
    assert (code, len(err.splitlines())) == (2, 2)
    assert "own/tickets.md: mixture.prompts is still the stand-in of the draft; write the task's own" in err
    assert "own/tickets.md: the text is still that of the draft; write what query and positive are" in err
    file = tmp_path / "own" / "tickets.md"
    file.write_text(file.read_text().replace("Given a query, retrieve relevant passages", "Find the ticket's answer"))
    code, _, err = run("check", "--cards", "own")
    assert code == 2 and "stand-in" not in err and "text is still that of the draft" in err
    before, _, after = file.read_text().partition("Write here")
    file.write_text(f"{before}Tickets of one helpdesk.\n\nCounted{after.partition('Counted')[2]}")
    assert run("check", "--cards", "own") == (0, "26 cards ok\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "tickets"], "--from FILE_OR_FOLDER"),
        (["agnews", "--from", "t.jsonl"], "mixture cards new NAME"),
        (["new", "check", "--from", "t.jsonl"], "cannot be the name of a card"),
        (["new", "a/b", "--from", "t.jsonl"], "cannot be the name of a card"),
        (["new", "t", "--from", "none.jsonl"], "no such file or folder: none.jsonl"),
        (["new", "t", "--from", "bad.jsonl"], "none of its 1 rows can be used; line 1: "),
    ],
)
def test_mistakes_get_one_plain_line(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "t.jsonl").write_text('["a", "b"]\n')
    (tmp_path / "bad.jsonl").write_text('{"query": "a"}\n')
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1
    assert not list(tmp_path.glob("*.md"))


def test_the_command_says_where_a_collection_without_a_card_is_shown() -> None:
    with pytest.raises(UsageError, match=r"no datacard 'helpdesk'.*For a collection of the store: mixture status"):
        card_of("helpdesk", load_cards())


def test_a_card_may_name_tasks_of_mteb(tmp_path: Path) -> None:
    front = "pretty_name: Tickets\nlanguage: en\nlicense: unknown\nmixture:\n  name: tickets\n  prompts: []\n"
    file = tmp_path / "tickets.md"
    file.write_text(f"---\n{front}  mteb: [NQ, T2Retrieval]\n---\n\n# Tickets\n")
    card = load_card(file)
    assert card.mteb == ("NQ", "T2Retrieval")
    file.write_text(render_card(card))
    assert load_card(file).mteb == card.mteb
    for wrong in ("NQ", "[1]", "['N Q']"):
        file.write_text(f"---\n{front}  mteb: {wrong}\n---\n\n# Tickets\n")
        with pytest.raises(UsageError, match=r"mixture\.mteb is .*; it must be a list of names of mteb's tasks"):
            load_card(file)


def test_the_built_in_cards_name_tasks_that_mteb_has() -> None:
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (extra dev)")
    named = {task for card in load_cards().values() for task in card.mteb}
    known = {task.metadata.name for task in mteb.get_tasks(tasks=sorted(named))}
    assert len(named) >= 9
    assert named == known

"""Datacards: the built-in ones say what the paper says, and a broken one says all that is wrong with it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixture.cards import DataCard, card_for, load_card, load_cards
from mixture.errors import UsageError

PAPER = Path(os.environ.get("MIXTURE_PAPER", Path(__file__).parents[2] / "shared" / "paper"))
LANGUAGES = {
    "English": "en",
    "Chinese": "zh",
    "16 languages": "ar bn en es fa fi fr hi id ja ko ru sw te th zh",
    "11 languages": "ar bn en fi id ja ko ru sw te th",
}
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
    assert len(cards) == 25
    assert sum(len(card.prompts) for card in cards.values()) == 37
    assert {name for name, card in cards.items() if card.symmetric} == SYMMETRIC
    for name, card in cards.items():
        assert card.path.stem == card.name == name
        assert card.license == "unknown"
        assert card.text.startswith(f"# {card.pretty_name}\n")


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
        "  prompts: []\n  deduped_size: -3\n  colour: red\n---\n",
        encoding="utf-8",
    )
    with pytest.raises(UsageError) as raised:
        load_card(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    for fault in (
        "pretty_name is missing",
        "language is ['English']; it must be a list of BCP-47 codes",
        "license is ''; it must be a text",
        "mixture.symmetric is 'sometimes'; it must be true or false",
        "mixture.prompts is []; it must be a list",
        "mixture.deduped_size is -3; it must be a whole number",
        "mixture.prompt is no known key",
        "mixture.colour is no known key",
    ):
        assert fault in message


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

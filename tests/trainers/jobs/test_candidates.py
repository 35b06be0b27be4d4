"""Files of prompts: what stands in a line, what JSON is for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixture import Store
from mixture.errors import UsageError
from trainers.jobs.candidates import candidates_of, read_prompts
from trainers.model.template import Template


def test_a_line_is_a_prompt_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffquery: \r\n\n  find me \n为这个句子：\n".encode())
    assert list(read_prompts(file)) == [(1, "query: "), (3, "  find me "), (4, "为这个句子：")]


def test_line_breaks_are_for_json(tmp_path: Path) -> None:
    texts = ["Instruct: Find it\nQuery: ", "query: "]
    (tmp_path / "p.json").write_text(json.dumps(texts))
    (tmp_path / "p.jsonl").write_text(json.dumps(texts[0]) + "\n\n" + json.dumps({"prompt": texts[1], "id": 3}) + "\n")
    assert list(read_prompts(tmp_path / "p.json")) == [(1, texts[0]), (2, texts[1])]
    assert list(read_prompts(tmp_path / "p.jsonl")) == [(1, texts[0]), (3, texts[1])]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "a\nInstruct: x\\nQuery: \n", r"p.txt:2 has \\n, which would be two letters"),
        ("p.txt", "\n  \n", "p.txt holds no prompt"),
        ("p.json", "[]", "p.json holds no prompt"),
        ("p.json", '{"prompt": "a"}', "p.json holds no list"),
        ("p.json", "[", "p.json is not valid JSON"),
        ("p.json", '["a", 3]', "p.json, text 2 is 3; allowed: a list of texts"),
        ("p.jsonl", '"a"\nb\n', "p.jsonl:2 is not valid JSON"),
        ("p.jsonl", '{"text": "a"}\n', r"p.jsonl:1 is \{'text': 'a'\}"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_with_its_place(
    small_store: Store, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        candidates_of(small_store, [str(tmp_path / name)], "no-model")


def test_what_cannot_be_read_is_refused(small_store: Store, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    for given, reason in (("p.txt", "it is no text in UTF-8"), ("none.txt", "No such file"), (".", "Is a directory")):
        with pytest.raises(UsageError, match=f"cannot read these `candidates`: {reason}.*or cards"):
            candidates_of(small_store, [str(tmp_path / given)], "no-model")


def test_without_any_there_is_none_alone(small_store: Store) -> None:
    found = candidates_of(small_store, [], "no-model")
    assert found.sources == {"": ["no prompt"]}


def test_a_template_without_a_place_makes_one_of_all_cards(
    small_store: Store, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model))
    model.prompts = {"query": "query: "}
    model.save(str(tmp_path / "e5"), create_model_card=False)
    found = candidates_of(small_store, ["cards"], str(tmp_path / "e5"))
    assert list(found.sources) == ["", "query: "]
    assert "has no place for a prompt" in caplog.text


def test_a_prompt_with_braces_is_a_candidate_and_no_template(
    small_store: Store, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model))
    model.prompts = {"query": "{ask}: "}
    model.save(str(tmp_path / "braced"), create_model_card=False)
    found = candidates_of(small_store, ["cards"], str(tmp_path / "braced"))
    assert found.template == Template() and len(found.sources) > 15

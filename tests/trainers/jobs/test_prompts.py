"""The job and the command that choose a prompt: its scores are those of `evaluate`, each corpus is encoded once, what
was done is kept, and the report is of other queries."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

import trainers
from cli import app
from mixture import Store
from mixture.errors import UsageError
from mixture.suites.halves import half_of
from mixture.suites.suite import load_suite
from trainers.jobs.prompt_choice import AS_IT_IS, PromptChoice
from trainers.model.template import Template, fault_of

from ..conftest import kill_at

pytest.importorskip("pytrec_eval")
# The first one has words that all relevant documents have and no other.
PROMPTS = ["badan bafis ", "kefis logor ", "Instruct: Given a query, retrieve passages\nQuery: "]


def write(folder: Path, words: list[str], queries: int, seed: int) -> Path:
    """A suite in which each query shares some words with its document, and as many with another one."""
    random = Random(seed)
    (folder / "qrels").mkdir(parents=True)
    others = [word for word in words if word not in PROMPTS[0]]
    asked = [random.sample(others, 6) for _ in range(queries)]
    texts = [" ".join(query[:3] + PROMPTS[0].split() * 2 + random.choices(others, k=1)) for query in asked]
    texts += [" ".join(query[1:5] + random.choices(others, k=3)) for query in asked]
    for name, key, rows in (("queries", "q", [" ".join(query) for query in asked]), ("corpus", "d", texts)):
        lines = (json.dumps({"_id": f"{key}{n}", "text": text}) + "\n" for n, text in enumerate(rows))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(queries)))
    return folder


@pytest.fixture
def suites(tmp_path: Path, words: list[str]) -> list[Path]:
    return [write(tmp_path / "dev" / name, words, 24, seed) for seed, name in enumerate(("desk", "shop"))]


@pytest.fixture
def other(tmp_path: Path, words: list[str]) -> Path:
    return write(tmp_path / "test" / "bank", words, 20, 7)


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    (tmp_path / "mine.json").write_text(json.dumps(PROMPTS))
    return tmp_path / "mine.json"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many texts of each kind the model was given."""
    from trainers.jobs import encode as module

    count: Counter[str] = Counter()
    plain = module.encode

    def counted(encoder: Any, texts: list[str], *rest: Any, kind: str, **options: Any) -> Any:
        count[kind] += len(texts)
        return plain(encoder, texts, *rest, kind=kind, **options)

    monkeypatch.setattr(module, "encode", counted)
    return count


@pytest.mark.parametrize("model", ["tiny_model", "static_model"])
def test_scores_are_those_of_evaluate_to_the_last_digit(
    small_store: Store, request: pytest.FixtureRequest, suites: list[Path], other: Path, candidates: Path, model: str,
    encoded: Counter[str],
) -> None:  # fmt: skip
    folder = request.getfixturevalue(model)
    found = trainers.prompts(small_store, folder, suites, candidates=candidates, report=other)
    asked = {half: sum(half_of(query) == half for one in suites for query in load_suite(one).queries)
             for half in ("learn", "report")}  # fmt: skip
    chosen = found.chosen.prompt
    assert chosen == PROMPTS[0] or model == "tiny_model"
    reported = 0 if chosen == "" else 2
    assert found.encoded == {"passages": 96 + 20 * reported, "queries": 4 * asked["learn"] + 20 * reported}
    assert encoded == {"passage": found.encoded["passages"], "query": found.encoded["queries"]}
    assert {one.prompt for one in found.prompts} == {"", *PROMPTS}
    changed = set()
    for one in found.prompts:
        results = trainers.evaluate(small_store, folder, suites, prompt=one.prompt, half="learn")
        assert one.scores == {result.suite: result.metrics["ndcg@10"] for result in results}
        changed.add(tuple(one.scores.values()))
        (kept,) = small_store.rows("SELECT query_values FROM prompt_scores WHERE suite = 'desk/learn' AND prompt = ?",
                                   [one.prompt])  # fmt: skip
        assert kept["query_values"] == [results[0].per_query[query]["ndcg@10"] for query in results[0].queries]
    assert len(changed) > 1  # a prompt changes what is found
    for gain in found.gains:
        (after,) = trainers.evaluate(small_store, folder, other, prompt=chosen)
        (before,) = trainers.evaluate(small_store, folder, other, prompt="")
        assert (gain.score, gain.baseline) == pytest.approx((after.metrics["ndcg@10"], before.metrics["ndcg@10"]))


def test_the_best_by_each_objective_is_chosen_and_none_is_the_reference(
    small_store: Store, static_model: Path, suites: list[Path], candidates: Path
) -> None:
    by: dict[str, PromptChoice] = {}
    for objective in ("worst", "mean", "least"):
        found = by[objective] = trainers.prompts(small_store, static_model, suites, candidates=candidates,
                                                 objective=objective)  # fmt: skip
        values = {one.prompt: getattr(one, {"mean": "gain"}.get(objective, objective)) for one in found.prompts}
        assert list(values.values()) == sorted(values.values(), reverse=True)
        assert values[found.chosen.prompt] == max(values.values()) >= values[""] == 0
    none = next(one for one in by["worst"].prompts if not one.prompt)
    for one in by["worst"].prompts:
        gains = [one.scores[suite] - none.scores[suite] for suite in one.scores]
        assert one.least == pytest.approx(min(gains)) and one.gain == pytest.approx(sum(gains) / 2)
        assert one.least <= one.worst <= one.gain + 1e-12
        assert sum(one.weights.values()) == pytest.approx(1)
    raw = trainers.prompts(small_store, static_model, suites, candidates=candidates, relative=False, radius=5)
    for one in raw.prompts:
        assert one.worst == pytest.approx(min(one.scores.values()))
    assert len({found.choice for found in [*by.values(), raw]}) == 4


def test_a_second_call_and_other_choices_encode_nothing_again(
    small_store: Store, static_model: Path, suites: list[Path], candidates: Path, encoded: Counter[str]
) -> None:
    first = trainers.prompts(small_store, static_model, suites, candidates=candidates)
    encoded.clear()
    again = trainers.prompts(small_store, static_model, suites, candidates=candidates)
    assert (again.prompts, again.gains, again.choice) == (first.prompts, first.gains, first.choice)
    assert not encoded and not any(again.encoded.values())
    rows = small_store.rows("SELECT count(*) AS n, count(DISTINCT (score, round)) AS d FROM prompt_scores")
    assert rows[0]["n"] == rows[0]["d"]
    trainers.prompts(small_store, static_model, suites, candidates=candidates, objective="least")
    assert set(encoded) <= {"query", "passage"}
    learned = small_store.rows("SELECT choice, count(*) AS n FROM prompt_scores WHERE round = 1 GROUP BY choice")
    assert [row["n"] for row in learned] == [8, 8]  # each choice has its rows
    assert [row["n"] for row in small_store.rows("SELECT count(*) AS n FROM prompt_choices GROUP BY choice")] == [4, 4]
    runs = small_store.rows("SELECT run_id, status, result FROM runs WHERE kind = 'prompts'")
    assert {row["status"] for row in runs} == {"finished"} and len(runs) == 2
    assert {"run_id": first.choice, "status": "finished", "result": first.chosen.prompt} in runs


def test_a_killed_call_goes_on(
    small_store: Store, static_model: Path, suites: list[Path], candidates: Path, start: Callable[..., Any],
    encoded: Counter[str],
) -> None:  # fmt: skip
    code = """
import trainers
from mixture import Store
from trainers.jobs import prompt_scores

prompt_scores.WRITTEN_EVERY = 0
scored = []
plain = prompt_scores.PromptScores._score

def score(self, part, text, progress):
    scored.append(part.title)
    if len(scored) == 7:
        pipe.send("seven")
        import time; time.sleep(300)
    return plain(self, part, text, progress)

prompt_scores.PromptScores._score = score
with Store.open(store) as lake:
    trainers.prompts(lake, model, suites, candidates=candidates)
"""
    names = {"store": str(small_store.work), "model": str(static_model), "suites": list(map(str, suites)),
             "candidates": str(candidates)}  # fmt: skip
    kill_at(start, code, names, "seven")
    assert [row["n"] for row in small_store.rows("SELECT count(*) AS n FROM prompt_scores")] == [6]
    found = trainers.prompts(small_store, static_model, suites, candidates=candidates)
    shop = sum(half_of(query) == "learn" for query in load_suite(suites[1]).queries)
    # Of the first suite nothing is left to do but the report, of the second two prompts.
    reported = sum(half_of(query) == "report" for one in suites for query in load_suite(one).queries)
    assert encoded == {"passage": 96, "query": 2 * shop + 2 * reported}
    assert found.chosen.prompt == PROMPTS[0]


def test_halving_asks_few_queries_of_all_and_all_of_few(
    small_store: Store, static_model: Path, words: list[str], tmp_path: Path, encoded: Counter[str]
) -> None:
    suites = [write(tmp_path / "large" / name, words, 100, seed) for seed, name in enumerate(("desk", "shop"))]
    (tmp_path / "many.txt").write_text("".join(f"badan bafis {word} \n" for word in words[9:21]))
    options: dict[str, Any] = {"candidates": tmp_path / "many.txt", "first_queries": 10}
    found = trainers.prompts(small_store, static_model, suites, **options)
    whole = {one.prompt for one in found.prompts if one.dropped is None}
    learn = [sum(half_of(query) == "learn" for query in load_suite(one).queries) for one in suites]
    assert "" in whole and found.prompts[0].dropped is None
    assert {one.num_queries for one in found.prompts if one.dropped is None} == {sum(learn)}
    dropped = [one for one in found.prompts if one.dropped is not None]
    assert dropped and {one.dropped for one in dropped} <= {"surely worse", "worse half"}
    assert all(one.num_queries < sum(learn) for one in dropped)
    assert [one.num_queries for one in dropped] == sorted((one.num_queries for one in dropped), reverse=True)
    rounds = {
        row["round"]: row["n"]
        for row in small_store.rows(
            "SELECT round, count(*) AS n FROM prompt_scores WHERE suite = 'desk/learn' GROUP BY round ORDER BY round"
        )
    }
    assert rounds[1] == 13 and rounds[2] <= 8 and list(rounds.values()) == sorted(rounds.values(), reverse=True)
    assert encoded["passage"] == 400  # however many rounds
    # What went on to all queries is scored as `evaluate` does, in the suite's order.
    (best,) = trainers.evaluate(small_store, static_model, suites[0], prompt=found.chosen.prompt, half="learn")
    assert found.chosen.scores["desk/learn"] == best.metrics["ndcg@10"]
    again = trainers.prompts(small_store, static_model, suites, **options)
    assert again.prompts == found.prompts
    at_once = trainers.prompts(small_store, static_model, suites, candidates=tmp_path / "many.txt")
    assert len({one.num_queries for one in at_once.prompts}) == 1 and len(at_once.prompts) == 13


def test_without_other_suites_the_other_half_is_reported_on(
    small_store: Store, static_model: Path, suites: list[Path], candidates: Path
) -> None:
    found = trainers.prompts(small_store, static_model, suites, candidates=candidates)
    assert found.suites == ("desk/learn", "shop/learn") and found.half == "learn"
    assert found.reported_on == ("desk/report", "shop/report")
    assert found.chosen.prompt == PROMPTS[0]
    (mean,) = [gain for gain in found.gains if gain.suites == "all"]
    results = {text: trainers.evaluate(small_store, static_model, suites, prompt=text, half="report")
               for text in ("", found.chosen.prompt)}  # fmt: skip
    means = {text: sum(one.metrics["ndcg@10"] for one in of_text) / 2 for text, of_text in results.items()}
    assert (mean.score, mean.baseline) == pytest.approx((means[found.chosen.prompt], means[""]))
    assert mean.low is not None and mean.high is not None and mean.low <= mean.gain <= mean.high
    assert mean.gain == pytest.approx(mean.score - mean.baseline)
    kept = small_store.rows("SELECT suites, gain, against FROM prompt_gains ORDER BY suites")
    assert [row["suites"] for row in kept] == ["all", "desk/report", "shop/report"]
    assert kept[0]["gain"] == mean.gain and kept[0]["against"] == "no prompt"


@pytest.fixture
def prompted_model(static_model: Path, tmp_path: Path) -> Path:
    """The model with a prompt of its own, and one for suites called shop."""
    model = SentenceTransformer(str(static_model))
    model.prompts = {"query": "kefis logor ", "shop": "badan bafis ", "document": "mulim: "}
    model.save(str(tmp_path / "prompted"), create_model_card=False)
    return tmp_path / "prompted"


def test_the_models_own_prompts_are_candidates_and_a_baseline(
    small_store: Store, prompted_model: Path, suites: list[Path], other: Path
) -> None:
    found = trainers.prompts(small_store, prompted_model, suites, report=other)
    sources = {one.prompt: one.sources for one in found.prompts}
    assert sources == {"": ("no prompt",), "kefis logor ": ("the model's own",), "badan bafis ": ("the model's own",)}
    for one in found.prompts:  # documents have theirs all the while
        results = trainers.evaluate(small_store, prompted_model, suites, prompt=one.prompt, half="learn")
        assert one.scores == {result.suite: result.metrics["ndcg@10"] for result in results}
    assert found.chosen.prompt == "badan bafis "
    assert [(gain.suites, gain.against) for gain in found.gains] == [("bank", "no prompt"), ("bank", "the model's own")]
    (own,) = trainers.evaluate(small_store, prompted_model, other)
    assert found.gains[1].baseline == pytest.approx(own.metrics["ndcg@10"])


def test_equal_texts_are_one_candidate_and_scored_once(
    small_store: Store, tiny_model: Path, suites: list[Path], tmp_path: Path, encoded: Counter[str]
) -> None:
    asked = "Given a question, retrieve Wikipedia passages that answer the question"
    text = Template().before_query(asked)
    (tmp_path / "a.json").write_text(json.dumps([text, "", text]))
    (tmp_path / "b.jsonl").write_text(f"{json.dumps(text)}\n{json.dumps({'prompt': text})}\n")
    found = trainers.prompts(small_store, tiny_model, suites, candidates=[tmp_path / "a.json", tmp_path / "b.jsonl"])
    (one,) = [one for one in found.prompts if one.prompt]
    assert one.sources == ("a.json:1", "a.json:3", "b.jsonl:1", "b.jsonl:2")
    learn = sum(half_of(query) == "learn" for suite in suites for query in load_suite(suite).queries)
    assert small_store.rows("SELECT sum(num_queries) AS n FROM prompt_scores WHERE round = 1")[0]["n"] == 2 * learn
    assert encoded["passage"] == 48 * 2


def test_prompts_of_cards_stand_in_the_models_template_and_symmetric_ones_are_left_out(
    small_store: Store, tiny_model: Path, suites: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    small_store.transaction(
        lambda c: c.execute("""UPDATE collections SET prompts = ['Find it'],
        is_symmetric = (collection = 'hard') WHERE collection IN ('easy', 'hard')""")
    )
    found = trainers.prompts(small_store, tiny_model, suites[0], candidates="cards")
    sources = {one.prompt: one.sources for one in found.prompts}
    assert sources["Instruct: Find it\nQuery: "] == ("card easy",)
    nq = "Instruct: Given a question, retrieve Wikipedia passages that answer the question\nQuery: "
    assert "card nq" in sources[nq]
    assert not any("quora" in source or source == "card hard" for some in sources.values() for source in some)
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert "quora_duplicates_triplets" in said and "hard" in said and "encoded anew" in said


def test_a_prompt_that_cuts_queries_off_is_said(
    small_store: Store, tiny_model: Path, suites: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = SentenceTransformer(str(tiny_model))
    model.max_seq_length = 40
    model.save(str(tmp_path / "short"), create_model_card=False)
    (tmp_path / "long.txt").write_text("badan " * 38 + "\nbadan \n")
    with caplog.at_level(logging.WARNING):
        trainers.prompts(small_store, tmp_path / "short", suites[0], candidates=tmp_path / "long.txt")
    said = [record.getMessage() for record in caplog.records if "cut off" in record.getMessage()]
    learn = sum(half_of(query) == "learn" for query in load_suite(suites[0]).queries)
    assert said and said[0].startswith(f"{learn} of {learn} queries of desk/learn have more than the model's 40 tokens")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"half": "report"}, "`half` is report, which is kept for the report"),
        ({"half": "whole"}, "`half` is 'whole'; allowed: learn, all"),
        ({"half": "all"}, "`half` is all, which leaves no queries to report on"),
        ({"objective": "best"}, "`objective` is 'best'; allowed: worst, mean, least"),
        ({"radius": -1}, "`radius` is -1"),
        ({"first_queries": 9}, "`first_queries` is 9; allowed: 10 or more, or 0"),
        ({"model": "bm25"}, "`model` is 'bm25', a ranking by words"),
        ({"model": "bm25+static"}, r"`model` is 'bm25\+static', a fusion"),
        ({"model": "nobody/nothing"}, "no model loads from 'nobody/nothing': it has none of modules.json"),
        ({"model": "./nowhere"}, "no model folder './nowhere'"),
        ({"candidates": "no.txt"}, "no.txt: cannot read these `candidates`"),
        ({"report": "dev"}, "`report` has desk, which `suite` has too"),
        ({"report": "nowhere"}, "no folder"),
        ({"out": "dev"}, "is not empty; name a new folder in `out`"),
        ({"suites": "altlex"}, "`suite` has altlex/learn, of altlex, whose card says symmetric"),
    ],
)
def test_mistakes_are_said_before_the_work(
    small_store: Store, tiny_model: Path, suites: list[Path], words: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "altlex", words, 20, 0)
    monkeypatch.setattr("trainers.jobs.encode.load_encoder", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        trainers.prompts(small_store, **({"model": tiny_model, "suites": suites} | options))
    assert not small_store.rows("SELECT * FROM prompt_scores") and not small_store.rows(
        "SELECT * FROM runs WHERE kind = 'prompts'")  # fmt: skip


def test_suites_of_one_family_are_no_others(
    small_store: Store, static_model: Path, words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    german, spanish, other = (write(tmp_path / name, words, 12, 1) for name in ("faq-de", "faq-es", "bank"))
    trainers.prompts(small_store, static_model, german, report=[spanish, other])
    (said,) = [record.getMessage() for record in caplog.records if "one family" in record.getMessage()]
    assert said.startswith("faq-es may have the questions")


def test_whole_suites_may_be_chosen_on_where_others_are_reported_on(
    small_store: Store, static_model: Path, suites: list[Path], other: Path, candidates: Path
) -> None:
    found = trainers.prompts(small_store, static_model, suites, candidates=candidates, half="all", report=other)
    assert (found.suites, found.half, found.reported_on) == (("desk", "shop"), None, ("bank",))
    assert {one.num_queries for one in found.prompts} == {48}


def test_a_prompt_that_was_trained_with_beats_random_sentences(
    small_store: Store, tiny_model: Path, words: list[str], tmp_path: Path
) -> None:
    """A planted one: queries of the training all stood behind it."""
    from mixture import registry
    from mixture.store.materialise import materialise

    from ..conftest import write_suite

    parts = registry.pin(small_store, ["middle"])
    spec = registry.weighted(parts, {"middle": 1.0})
    registry.save(small_store, spec, "mix")
    planted = "velgor stanat velgor stanat velgor stanat: "
    settings = trainers.FinetuneSettings(steps=60, batch_size=16, negatives=2, learning_rate=2e-3, temperature=0.05,
                                         query_template=planted + "{query}")  # fmt: skip
    trained = trainers.train(small_store, "mix", tiny_model, out=tmp_path / "model", settings=settings)
    suite = write_suite(materialise(small_store, spec), tmp_path / "suites" / "middle", 40)
    random = Random(0)
    others = [" ".join(random.choices(words, k=6)) + ": " for _ in range(5)]
    (tmp_path / "p.json").write_text(json.dumps(others))
    found = trainers.prompts(small_store, trained.model, suite, candidates=tmp_path / "p.json", objective="mean")
    scores = {one.prompt: one.mean for one in found.prompts}
    assert found.chosen.prompt == planted and found.chosen.sources == ("the model's own",)
    assert scores[planted] > max(scores[text] for text in others) + 0.02
    assert found.gains[0].gain > 0


def test_a_training_knows_the_template_that_is_named_for_a_card() -> None:
    assert fault_of(AS_IT_IS, "query") is None
    assert Template(AS_IT_IS).before_query("query: ") == "query: "


def run(store: Store, *arguments: Any) -> Any:
    return CliRunner().invoke(app, ["--store", str(store.work), "prompts", *map(str, arguments)])


def test_the_command_shows_candidates_the_chosen_one_by_suite_and_the_report(
    small_store: Store, static_model: Path, suites: list[Path], other: Path, candidates: Path, tmp_path: Path
) -> None:
    asked = [static_model, "--suite", suites[0].parent, "--candidates", candidates, "--report", other]
    body = json.loads(run(small_store, *asked, "--json").stdout)
    assert body["chosen"] == body["prompts"][0]["prompt"] and len(body["prompts"]) == 4
    assert body["reported_on"] == ["bank"] and body["suites"] == ["desk/learn", "shop/learn"]
    shown = run(small_store, *asked, "--out", tmp_path / "copy")
    assert shown.exit_code == 0, shown.output
    assert f"chosen: {PROMPTS[0]!r} (mine.json:1)" in shown.stdout
    assert "weight in the worst case" in shown.stdout and "for a datacard: prompts: [" in shown.stdout
    for gain in body["gains"]:
        assert f"{100 * gain['score']:.2f}, {100 * gain['gain']:+.2f} [{100 * gain['low']:+.2f}" in shown.stdout
    assert (tmp_path / "copy" / "modules.json").is_file()
    refused = run(small_store, static_model, "--suite", suites[0], "--half", "report")
    assert refused.exit_code == 2 and "--half is report, which is kept for the report" in refused.stderr
    assert "name the suites" in run(small_store, static_model).stderr


def test_what_is_kept_says_all_that_decides_a_score(
    small_store: Store, tiny_model: Path, static_model: Path, suites: list[Path]
) -> None:
    """Another model and another corpus are other scores."""
    trainers.prompts(small_store, tiny_model, suites)
    (first,) = small_store.rows("SELECT count(DISTINCT score) AS n FROM prompt_scores")
    trainers.prompts(small_store, static_model, suites)
    corpus = suites[0] / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + json.dumps({"_id": "more", "text": "badan kefis"}) + "\n")
    trainers.prompts(small_store, tiny_model, suites)
    (now,) = small_store.rows("SELECT count(DISTINCT score) AS n FROM prompt_scores")
    assert (first["n"], now["n"]) == (2, 5)

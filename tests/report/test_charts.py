"""The charts: each compiles and draws, whatever its names; the colours can be told from the page."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pytest
import vl_convert

from mixture import Store, registry
from mixture.report.build import picture
from mixture.report.charts import MOST_BARS, charts, losses
from mixture.report.facts import Facts, gather
from mixture.report.findings import findings
from mixture.report.lines import LABELLED, trajectories
from mixture.report.page import render
from mixture.report.palette import DARK, LIGHT, SERIES
from mixture.report.tables import alike_table
from mixture.store.write import insert_rows
from tests.report.conftest import FORMULA, IMAGE, SCRIPT, START

EVERY = ("weights", "trajectories", "losses", "measurements", "ablation", "language", "category", "license", "epochs",
         "removed", "scores")  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_every_chart_draws(store: Store, name: str) -> None:
    chart = charts(gather(store, registry.resolve(store, "learned")))[name]
    assert "var(--" in json.dumps(chart.spec)
    svg = picture(chart, "svg").decode()
    assert "var(--" not in svg and chart.title.split()[0] in svg
    assert "<script" not in svg and "<img" not in svg
    if name in ("weights", "epochs", "losses"):
        assert "&lt;img src=x" in svg and "&lt;/script&gt;" in svg and "=HYPERLINK" in svg


def test_a_picture_is_a_picture(store: Store) -> None:
    chart = charts(gather(store, registry.resolve(store, "learned")))["weights"]
    assert picture(chart, "png").startswith(b"\x89PNG")


def test_which_charts_a_mixture_has(store: Store) -> None:
    def names(ref: str) -> tuple[str, ...]:
        return tuple(charts(gather(store, registry.resolve(store, ref))))

    assert names("learned") == EVERY
    assert names("elsewhere") == ("weights", "epochs")
    assert names("alone") == ("weights", "language", "category", "license", "epochs", "removed")


def test_an_ablation_is_drawn_from_the_most_harmful_on(store: Store) -> None:
    facts = gather(store, registry.resolve(store, "learned"))
    assert facts.ablation is not None
    assert [row.collection for row in facts.ablation.rows] == [FORMULA, "forum", "wiki", IMAGE]  # newest alone
    drawn = charts(facts)["ablation"].spec["data"]["values"]
    assert [(row["name"], *(round(row[key], 9) for key in ("effect", "low", "high"))) for row in drawn] == [
        (FORMULA, -2.0, -3.0, -1.0), ("forum", 0.5, -1.0, 2.0), ("wiki", 4.0, 3.0, 5.0)]  # fmt: skip
    assert (drawn[0]["says"], drawn[0]["interval"]) == ("at chance, harmful", "−3.00 to −1.00")
    said = [one.text for one in findings(facts) if one.section == "ablation"]
    assert said == [
        f"After training on {FORMULA}, the passages of rows held out are found hardly better than by chance: noise, or"
        " too hard for the model. Read some rows.",
        f"Scores rise without {FORMULA}.",
    ]
    assert gather(store, registry.resolve(store, "alone")).ablation is None


def test_losses_on_held_out_rows_are_drawn_from_the_newest_training(store: Store) -> None:
    mixture = registry.resolve(store, "alone")
    assert gather(store, mixture).held_out is None
    losses = {
        "aaaa00000001": {"wiki": (9.0, 9.0, 9.0)},
        "aaaa00000002": {"wiki": (2.0, 1.0, 1.5), IMAGE: (2.5, 1.2, 0.5)},
    }
    insert_rows(store, "evaluations", [
        {"model": "m", "mixture": mixture.spec.id, "run_id": run, "suite": f"{name}/held out", "metric": "holdout_loss",
         "value": value, "num_queries": 12, "num_documents": 60, "corpus": "held out rows", "step": step,
         "evaluated_at": START + timedelta(hours=place)}
        for place, (run, found) in enumerate(losses.items())
        for name, values in found.items() for step, value in zip((0, 50, 100), values, strict=True)
    ])  # fmt: skip
    facts = gather(store, mixture)
    assert facts.held_out is not None and facts.evaluation is None  # a loss is no score
    assert (facts.held_out.run_id, facts.held_out.steps) == ("aaaa00000002", 100)
    drawn = charts(facts)["held_out"]
    rows = [(row["name"], row["first"], row["last"], row["lowest"]) for row in drawn.spec["data"]["values"]]
    assert rows == [("wiki", 2.0, 1.5, "1, step 50"), (IMAGE, 2.5, 0.5, "0.5, step 100")]
    assert "&lt;img src=x" in picture(drawn, "svg").decode()
    (said,) = [one for one in findings(facts) if "held-out" in one.text]
    assert said.warns and "of wiki was lower before" in said.text
    page = render(facts, charts(facts))
    assert "Loss on held-out rows, nats" in page and IMAGE not in page


def test_names_are_data_and_never_part_of_an_expression(store: Store) -> None:
    for chart in charts(gather(store, registry.resolve(store, "learned"))).values():
        compiled = vl_convert.vegalite_to_vega(chart.spec)
        rest = json.dumps([compiled["marks"], compiled.get("signals"), compiled.get("scales"), compiled.get("axes")])
        for name in (SCRIPT, IMAGE, FORMULA):
            assert json.dumps(name)[1:-1] not in rest


def test_a_hundred_collections_stay_readable(hundred: Store) -> None:
    drawn = charts(gather(hundred, registry.resolve(hundred, "hundred")))
    spec = drawn["weights"].spec
    assert spec["height"] >= 100 * 13 and spec["encoding"]["x"]["axis"]["orient"] == "top"
    lines = drawn["trajectories"].spec
    assert len(lines["layer"][2]["data"]["values"]) == LABELLED
    assert len(drawn["trajectories"].pickable) == 100
    assert len(json.dumps(drawn["trajectories"].spec)) < 400_000


def _learned(store: Store) -> Facts:
    return gather(store, registry.resolve(store, "learned"))


def test_lines_begin_at_no_less_than_0_and_those_that_cover_others_are_dashed(store: Store) -> None:
    facts = _learned(store)
    assert facts.learning is not None
    spec = charts(facts)["trajectories"].spec
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert 0 <= low < 0.05 and high > 0.4
    assert not any(row["dashed"] for row in spec["data"]["values"])
    # wiki takes forum's way: one lies upon the other.
    ways = {p.step: p for p in facts.learning.points if p.collection == "forum"}
    points = tuple(replace(ways[p.step], collection="wiki") if p.collection == "wiki" else p
                   for p in facts.learning.points)  # fmt: skip
    chart = trajectories(replace(facts.learning, points=points))
    assert {row["name"] for row in chart.spec["data"]["values"] if row["dashed"]} == {"wiki"}
    assert chart.spec["data"]["values"][-1]["name"] == "wiki"  # drawn last, so above
    assert [key.label for key in chart.keys] == ["lies upon another line"]
    colours = {row["name"]: row["tone"] for row in chart.spec["data"]["values"]}
    assert len(set(colours.values())) == len(colours)


def test_a_loss_of_almost_nothing_is_not_drawn_as_0(store: Store) -> None:
    facts = _learned(store)
    assert facts.learning is not None
    assert "scale" not in charts(facts)["losses"].spec["encoding"]["x"]
    tiny = replace(facts.learning.losses[0], proxy_loss=1e-7)
    chart = losses(replace(facts.learning, losses=(tiny, *facts.learning.losses[1:])))
    assert chart is not None
    assert chart.spec["encoding"]["x"]["scale"]["type"] == "log"
    assert chart.spec["data"]["values"][0]["shown"] == "1e-07"
    assert picture(chart, "png").startswith(b"\x89PNG")


def test_the_smallest_values_of_a_dimension_become_one_bar(hundred: Store) -> None:
    from mixture.report.charts import composition
    from mixture.report.facts import Part

    facts = gather(hundred, registry.resolve(hundred, "hundred"))
    parts = tuple(Part("language", f"l{i:02}", (20 - i) / 210, 20 - i, 1) for i in range(20))
    chart = composition(replace(facts, composition=parts), "language", "Language")
    assert chart is not None
    rows = chart.spec["data"]["values"]
    assert len(rows) == MOST_BARS and rows[-1]["name"] == "7 others"
    assert sum(row["weight"] for row in rows) == pytest.approx(1) == sum(row["examples"] for row in rows)


def _linear(colour: str) -> npt.NDArray[np.float64]:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _contrast(a: str, b: str) -> float:
    low, high = sorted(float(_linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(colours: dict[str, str]) -> None:
    # WCAG 2.2: 1.4.3 for text (labels of lines are text), 1.4.11 for marks.
    for role, colour in colours.items():
        least = {"page": 0, "panel": 0, "line": 0, "grid": 0, "context": 3}.get(role, 4.5)
        assert _contrast(colour, colours["page"]) >= least, role


# What a reader without one kind of cone sees (Machado, Oliveira and Fernandes 2009, severity 1), on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _lab(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """CIE L*a*b*, where a distance of 10 is plain to see."""
    t = np.cbrt(XYZ @ np.clip(linear, 0.0, 1.0) / (0.95047, 1.0, 1.08883))
    return np.array([116 * t[1] - 16, 500 * (t[0] - t[1]), 200 * (t[1] - t[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_are_told_apart(colours: dict[str, str], kind: str) -> None:
    for roles in (("context", *SERIES), ("context", "accent", "warn", "series-3")):
        for a, b in itertools.combinations(roles, 2):
            seen = [_lab(np.asarray(BLINDNESS[kind]) @ _linear(colours[role])) for role in (a, b)]
            assert np.linalg.norm(seen[0] - seen[1]) > 20, (a, b)


def test_which_collections_teach_alike_is_drawn_where_a_run_took_products(store: Store) -> None:
    products = {("forum", "forum"): 4.0, ("wiki", "wiki"): 1.0, ("forum", "wiki"): 1.0, ("forum", IMAGE): -3.0,
                ("wiki", IMAGE): 5.0, (IMAGE, IMAGE): 9.0, (SCRIPT, SCRIPT): -1.0, (SCRIPT, "wiki"): 1.0}  # fmt: skip
    both = {**products, **{(other, one): value for (one, other), value in products.items()}}
    insert_rows(store, "collection_products", [
        {"run_id": run, "collection": one, "other": other, "product": value}
        for run in ("aaaa00000001", "aaaa00000002") for (one, other), value in both.items()
    ])  # fmt: skip
    facts = gather(store, registry.resolve(store, "learned"))
    chart = charts(facts)["alike"]
    cells = {(row["name"], row["other"]): row["cosine"] for row in chart.spec["data"]["values"]}
    # 5 over a length of 3: estimates may be off, a cosine is not. What has no length has no cell.
    assert cells == {("forum", "wiki"): 0.5, ("wiki", "forum"): 0.5, ("forum", IMAGE): -0.5, (IMAGE, "forum"): -0.5,
                     ("wiki", IMAGE): 1.0, (IMAGE, "wiki"): 1.0}  # fmt: skip
    assert [key.role for key in chart.keys] == ["accent", "warn"]
    svg = picture(chart, "svg").decode()
    assert "&lt;img src=x" in svg and "<img" not in svg
    assert chart.says == f"Square of 4 collections; most alike are {IMAGE} and wiki, 1.00."
    assert facts.learning is not None
    assert alike_table(facts.learning).rows[0][2] == 1.0
    page = render(facts, charts(facts))
    assert "Which collections teach alike" in page
    assert "alike" not in charts(gather(store, registry.resolve(store, "alone")))


def test_of_one_step_no_lines_are_drawn(store: Store) -> None:
    facts = gather(store, registry.resolve(store, "learned"))
    assert facts.learning is not None
    last = tuple(p for p in facts.learning.points if p.step == facts.learning.num_steps)
    short = replace(facts, learning=replace(facts.learning, points=last))
    assert "trajectories" in charts(facts)
    assert "trajectories" not in charts(short)
    render(short, charts(short))

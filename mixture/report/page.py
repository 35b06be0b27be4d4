"""One HTML file of a report's charts and tables: styles, scripts and data inside, nothing fetched."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from mixture.report import tables
from mixture.report.charts import DIMENSIONS, Chart
from mixture.report.facts import Facts
from mixture.report.findings import figures, findings, summary
from mixture.report.learning import without_folder
from mixture.report.palette import DARK, LIGHT
from mixture.report.tables import Table
from mixture.report.wording import percent

TEMPLATES = resources.files("mixture.report") / "templates"
# Vega's own functions are parsed, not compiled, so that the page needs no permission to evaluate text.
SNIPPET = "window.vegaEmbed = vegaEmbed;"
# Settings of a run that its section shows, in this order; the rest is in the table runs of the store.
TELLING = ("algorithm", "measurement", "steps", "batch_size", "learning_rate", "weights_learning_rate", "temperature",
           "reference_floor", "min_weight", "max_epochs", "negatives", "seed", "proxy", "reference")  # fmt: skip


# When a collection's measurement is high, by the measurement of tDRO or the algorithm.
MEASURED = {
    "relative": "This one (relative) is high where the proxy loses on rows that the reference has not solved. "
                "Those may be hard rows, or noise.",
    "relative_group": "This one (relative_group) is high where the reference has learned what the proxy has not. "
                      "It stays near 1 where both lose alike, as on noise.",
    "excess": "This one is high where the proxy loses more than the reference. Chance gives noise a part of that.",
    "influence": "This one is high where a few steps on the collection bring the target more than on the others.",
}  # fmt: skip
UNREFERENCED = "This one looks at the proxy model alone, so noise is high too."


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    return str(vl_convert.javascript_bundle(SNIPPET))


def render(facts: Facts, charts: Mapping[str, Chart]) -> str:
    """The page of a mixture."""
    return filled(
        "report.html",
        charts,
        named=f"{facts.mixture.name}-{facts.mixture.version}",
        facts=facts,
        summary=summary(facts),
        figures=figures(facts),
        findings=findings(facts),
        tables=_tables(facts),
        dimensions=DIMENSIONS,
        settings=_settings(facts),
        measured=_measured(facts),
        without_folder=without_folder,
    )


def filled(template: str, charts: Mapping[str, Chart], *, named: str, **given: Any) -> str:
    """A page of what is `given`. Every text of the store goes through the template's escaping or through JSON, never
    into a script.

    named: what the names of the page's CSV files begin with
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mixture.report", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda share: unbroken(percent(share))
    environment.filters["unbroken"] = unbroken
    environment.filters["csv_link"] = csv_link
    environment.filters["word_parts"] = lambda text: re.split(r"(?<=[_/-])", text)
    scripts = [library(), (TEMPLATES / "page.js").read_text("utf-8")]
    return environment.get_template(template).render(
        **given,
        named=named,
        charts=charts,
        specs={name: chart.spec for name, chart in charts.items()},
        light=LIGHT,
        dark=DARK,
        # Our own files, and the library: none of them holds a text of the store.
        style=Markup((TEMPLATES / "style.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_hash(script) for script in scripts],
    )


def unbroken(text: str) -> str:
    """A number stays on the line of its percent sign."""
    return text.replace(" %", "\u00a0%")


def csv_link(table: Table) -> str:
    """The table as a link that holds it."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(table.csv().encode()).decode()


def _hash(script: str) -> str:
    """What the page's content security policy knows a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _tables(facts: Facts) -> dict[str, Table]:
    found = {
        "weights": tables.weights_table(facts),
        "collections": tables.collections_table(facts),
        "prompts": tables.prompts_table(facts),
        "epochs": tables.epochs_table(facts),
        "removed": tables.removed_table(facts),
        "reasons": tables.reasons_table(facts),
    }
    found |= {name: tables.composition_table(facts, name, title) for name, title in DIMENSIONS.items()}
    learned = facts.learning
    if learned is not None and learned.steps_shown > 1:
        found |= {"trajectories": tables.trajectories_table(learned), "points": tables.points_table(learned)}
    if learned is not None and not learned.target:
        found["losses"] = tables.losses_table(learned)
    if learned is not None:
        found["alike"] = tables.alike_table(learned)
    if facts.ablation is not None:
        found["ablation"] = tables.ablation_table(facts.ablation)
    if facts.held_out is not None:
        found["held_out"] = tables.held_out_table(facts.held_out)
    if facts.evaluation is not None:
        against = facts.against.reference if facts.against else None
        found["scores"] = tables.scores_table(facts.evaluation, facts.mixture.reference, against)
        found["tests"] = tables.tests_table(facts.evaluation)
    return found


def _measured(facts: Facts) -> str:
    """A sentence on the measurement that drove the weights."""
    given = facts.learning.settings if facts.learning is not None else {}
    by_algorithm = {"tdro": given.get("measurement") or "relative", "doremi": "excess",
                    "influence": "influence"}  # fmt: skip
    return MEASURED.get(by_algorithm.get(given.get("algorithm") or "tdro", ""), UNREFERENCED)


def _settings(facts: Facts) -> list[tuple[str, Any]]:
    """The settings of the run that learned the weights, those that were given."""
    if facts.learning is None:
        return []
    given = facts.learning.settings
    return [(name.replace("_", " "), given[name]) for name in TELLING if given.get(name) not in (None, "", 0)]

"""What stands out in a mixture: sentences for the top of its report, each with the section that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mixture.report.facts import Component, Facts
from mixture.report.scores import FEWEST_SUITES, SIGNIFICANT, Evaluation, PairedTest, Score
from mixture.report.wording import count, metric_name, minus, percent, short, some

# A collection `FAR` times above or below an equal share is named. Nearer than `NEAR` is within a quarter.
FAR, NEAR = 2.0, 1.25
# Weights that still move by more than this share of the draws in the last tenth of a run are not settled; it is what
# `learn-weights` says too.
RESTLESS = 0.02
# A collection of which ingest and cleaning took more than this share is named.
MUCH_TAKEN = 0.10
UNDECLARED = ("unknown", "other")


@dataclass(frozen=True)
class Finding:
    """`section` is the id of a section of the page. `warns`: something to look into before training."""

    text: str
    section: str
    warns: bool = False


@dataclass(frozen=True)
class Figure:
    """A number for the top of the page: its name, the number, and what to hold it against."""

    name: str
    value: str
    beside: str


def findings(facts: Facts) -> list[Finding]:
    """What to know first: the scores, then warnings, then the rest."""
    found = [*_availability(facts), *_licenses(facts), *_repeats(facts), *_learning(facts), *_weights(facts),
             *_taken_out(facts)]  # fmt: skip
    found += [*_ablation(facts), *_held_out(facts)]
    return [*_scores(facts), *sorted(found, key=lambda finding: not finding.warns)]


def figures(facts: Facts) -> list[Figure]:
    """Four to six numbers that describe the mixture."""
    parts = facts.present
    top = parts[0]
    found = [
        Figure("Collections", f"{len(parts)}",
               f"as concentrated as {facts.effective:.1f} equally weighted ones" if len(parts) > 1 else "alone"),
        Figure("Heaviest", percent(top.weight or 0.0), top.collection),
    ]  # fmt: skip
    if facts.num_examples is not None:
        found.append(Figure("Examples", short(facts.num_examples), f"{facts.steps * facts.batch_size:,} drawn in "
                            f"{count(facts.steps, 'step')} of\u00a0{facts.batch_size:,}"))  # fmt: skip
    if facts.distance is not None and facts.against is not None:
        found.append(Figure("Draws moved", percent(facts.distance), f"compared with {facts.against.reference}"))
    languages = [part for part in facts.composition if part.dimension == "language"]
    known = [part for part in languages if part.value != "unknown"]
    if known:
        found.append(Figure("Languages", f"{len(known)}",
                            f"{languages[0].value} has {percent(languages[0].weight)}"))  # fmt: skip
    if facts.evaluation is not None:
        metric = facts.evaluation.metrics[0]
        rows = facts.evaluation.of(metric)
        mean = sum(row.value for row in rows) / len(rows)
        paired = [(row.value, row.against) for row in rows if row.against is not None]
        beside = f"mean of {count(len(rows), 'suite')}" if len(rows) > 1 else f"on {rows[0].suite}"
        if len(paired) == len(rows) and facts.against is not None:
            moved = sum(a - b for a, b in paired) / len(rows)
            beside += f", {minus(f'{100 * moved:+.1f}')} compared with {facts.against.reference}"
        found.append(Figure(metric_name(metric), f"{100 * mean:.1f}", beside))
    return found


def _weights(facts: Facts) -> Iterator[Finding]:
    parts = facts.present
    if len(parts) < 2:
        return
    equal = 1 / len(parts)
    top, last = parts[0], parts[-1]
    heaviest, lightest = top.weight or 0.0, last.weight or 0.0
    if heaviest >= FAR * equal:
        yield Finding(f"{top.collection} takes {percent(heaviest)} of the draws, {heaviest / equal:.1f} times an "
                      f"equal share.", "weights")  # fmt: skip
    if lightest <= equal / FAR:
        light = sum((c.weight or 0.0) <= equal / FAR for c in parts)
        yield Finding(f"{count(light, 'collection')} {'has' if light == 1 else 'have'} less than half an equal share; "
                      f"the lightest is {last.collection} with {percent(lightest)}.", "weights")  # fmt: skip
    half, total = 0, 0.0
    while total < 0.5:
        total += parts[half].weight or 0.0
        half += 1
    if half <= len(parts) / 3:
        yield Finding(f"Half of the draws come from {half} of {len(parts)} collections.", "weights")
    if lightest < heaviest < FAR * equal and lightest > equal / FAR:
        even = heaviest < NEAR * equal and lightest > equal / NEAR
        said = "within a quarter of" if even else "between half and twice"
        yield Finding(f"All weights are {said} an equal share ({percent(equal)}): from {percent(lightest)} to "
                      f"{percent(heaviest)}.", "weights")  # fmt: skip
    yield from _moved(facts)


def _moved(facts: Facts) -> Iterator[Finding]:
    if facts.against is None or not facts.distance:
        return
    both = [c for c in facts.present if c.against is not None and c.against > 0]
    up = max(both, key=lambda c: (c.weight or 0.0) - (c.against or 0.0), default=None)
    down = min(both, key=lambda c: (c.weight or 0.0) - (c.against or 0.0), default=None)
    if up is None or down is None or up is down:
        return
    yield Finding(
        f"Compared with {facts.against.reference}, {up.collection} gains most ({_from_to(up)}) and {down.collection} "
        f"loses most ({_from_to(down)}).", "weights",
    )  # fmt: skip


def _from_to(part: Component) -> str:
    return f"{percent(part.against or 0.0)} → {percent(part.weight or 0.0)}"


def _availability(facts: Facts) -> Iterator[Finding]:
    if held := facts.forgotten:
        total = sum(held.values())
        yield Finding(f"It holds {count(total, 'row')} that {'was' if total == 1 else 'were'} forgotten "
                      f"({some(list(held))}): nothing trains on it any more.", "collections", True)  # fmt: skip
    if facts.missing:
        text = (f"This store lacks {len(facts.missing)} of the {len(facts.present)} collections "
                f"({some(facts.missing)}): the mixture cannot be trained from it.")  # fmt: skip
        yield Finding(text, "collections", True)
    changed = [c.collection for c in facts.present
               if c.num_today is not None and c.num_examples is not None and c.num_today != c.num_examples]  # fmt: skip
    if changed:
        yield Finding(f"{count(len(changed), 'collection')} changed in the store since the mixture was made "
                      f"({some(changed)}).", "collections", True)  # fmt: skip
    sliced = {c.collection for c in facts.mixture.spec.components}
    dropped = [c.collection for c in facts.components if c.weight is None and c.collection not in sliced]
    if dropped and facts.against is not None:
        yield Finding(f"{count(len(dropped), 'collection')} of {facts.against.reference} "
                      f"{'is' if len(dropped) == 1 else 'are'} left out: {some(dropped)}.", "weights")  # fmt: skip


def _licenses(facts: Facts) -> Iterator[Finding]:
    # Of collections that the store lacks no licence is known; that they are missing is said already.
    held = [c for c in facts.present if c.num_today is not None]
    unclear = [c for c in held if c.license is None or c.license in UNDECLARED]
    if unclear:
        yield Finding(f"{_drawn(unclear)} whose licence is unknown or none of the standard ones.", "composition", True)
    closed = [c for c in held if c.license is not None and "nc" in c.license.lower().split("-")]
    if closed:
        yield Finding(f"{_drawn(closed)} under a licence that forbids commercial use.", "composition", True)


def _drawn(parts: list[Component]) -> str:
    share = percent(sum(c.weight or 0.0 for c in parts))
    return f"{share} of the draws come from {count(len(parts), 'collection')}"


def _repeats(facts: Facts) -> Iterator[Finding]:
    repeated = [row for row in facts.epochs if row.epochs is not None and row.epochs > 1]
    if repeated:
        most = repeated[0]
        yield Finding(f"{facts.steps:,} steps of {facts.batch_size:,} repeat {len(repeated)} of {len(facts.epochs)} "
                      f"collections, {most.collection} most: {most.epochs:,.1f} epochs.", "epochs", True)  # fmt: skip


def _learning(facts: Facts) -> Iterator[Finding]:
    learned = facts.learning
    if learned is None:
        return
    if learned.status != "finished":
        yield Finding(f"The run {learned.run_id} that learned the weights is {learned.status}.", "learning", True)
    if learned.drift is not None and learned.drift[0] > RESTLESS and learned.drift[0] > learned.drift[1] / 2:
        yield Finding(f"The weights still moved by {percent(learned.drift[0])} of the draws in the last tenth of the "
                      f"run: more steps would change them.", "learning", True)  # fmt: skip
    if learned.hard_for_both:
        yield Finding(f"{some([*learned.hard_for_both])} gained weight although the reference is hardly ahead of "
                      "the proxy there. Noise looks like that: read some rows.", "learning", True)  # fmt: skip
    if learned.repeated and learned.forecast:
        yield Finding(f"The proxy went through {some(list(learned.repeated))} up to "
                      f"{max(learned.repeated.values()):.3g} times. What it comes to know by heart, noise included, is "
                      "forecast to fall.", "learning", True)  # fmt: skip
    elif learned.repeated:
        yield Finding(f"The reference went through {some(list(learned.repeated))} up to "
                      f"{max(learned.repeated.values()):.0f} times. What it knows by heart, noise included, looks "
                      "solved.", "learning", True)  # fmt: skip
    if learned.target:
        whole = [name.split("/")[0] for name in learned.target]
        yield Finding(f"The weights were learned towards {some(list(learned.target))}: compare on the other "
                      f"half of the queries, report; scores on all of {some(whole)} would flatter them.",
                      "learning")  # fmt: skip
        for line in learned.lines:
            yield Finding(f"{line[0].upper()}{line[1:]}.", "learning")
    elif not learned.forecast and all(loss.reference_loss is None for loss in learned.losses):
        yield Finding("The weights were learned without a reference: they may have gone to what cannot be learned.",
                      "learning", True)  # fmt: skip
    for bound, names in (("the floor held up", learned.at_floor), ("the epoch cap held down", learned.at_cap)):
        if names:
            yield Finding(f"While learning, {bound} {some(list(names))}.", "learning")


def _held_out(facts: Facts) -> Iterator[Finding]:
    found = facts.held_out
    if found is not None and (risen := [row.collection for row in found.rows if row.has_risen]):
        yield Finding(f"The loss on held-out rows of {some(risen)} was lower before the newest training ended: take "
                      "fewer steps, or final=best.", "scores", True)  # fmt: skip


def _ablation(facts: Facts) -> Iterator[Finding]:
    if (found := facts.ablation) is None:
        return
    if names := found.named("at chance"):
        yield Finding(f"After training on {some(names)}, the passages of rows held out are found hardly better than by "
                      "chance: noise, or too hard for the model. Read some rows.", "ablation", True)  # fmt: skip
    if names := found.named("harmful"):
        yield Finding(f"Scores rise without {some(names)}.", "ablation", True)


def _taken_out(facts: Facts) -> Iterator[Finding]:
    read = sum(row.rows_read for row in facts.taken_out)
    gone = sum(row.total for row in facts.taken_out)
    if not read or not gone:
        return
    worst = max((row for row in facts.taken_out if row.rows_read), key=lambda row: row.total / row.rows_read)
    share = worst.total / worst.rows_read
    named = f"; {worst.collection} lost the largest share, {percent(share)} of its rows" if share > MUCH_TAKEN else ""
    yield Finding(f"{gone:,} of {read:,} rows read were left out as damaged, repeated or test data{named}.",
                  "removed")  # fmt: skip


def _scores(facts: Facts) -> Iterator[Finding]:
    found = facts.evaluation
    if found is None:
        return
    if (judged := facts.verdict) is not None:
        yield Finding(f"Trained alike, {judged.num_seeds} models each ({judged.model}, {count(judged.steps, 'step')}), "
                      f"it is {judged.says}.", "scores")  # fmt: skip
    metric = found.metrics[0]
    scores = found.of(metric)
    other = facts.against.reference if facts.against is not None else None
    paired = [(s.value, s.against) for s in scores if s.against is not None]
    shown = paired or [(s.value, 0.0) for s in scores]
    mean = 100 * sum(value for value, _ in shown) / len(shown)
    said = f"{metric_name(metric)} is {mean:.1f}" + (f" on average over {len(shown)} suites" if len(shown) > 1 else "")
    if not paired or other is None:
        yield Finding(f"{said}.", "scores")
        return
    moved = sum(a - b for a, b in paired) / len(paired)
    way = f"{100 * abs(moved):.1f} points {'higher' if moved > 0 else 'lower'} than" if moved else "the same as"
    yield Finding(f"{said}, {way} with {other}.{_between_suites(found.tests.get(metric), len(paired))}", "scores")
    yield from _by_queries(found, metric, other)
    yield from _without_own([s for s in scores if s.against is not None], metric, other)


def _without_own(scores: list[Score], metric: str, other: str) -> Iterator[Finding]:
    """What the difference is on suites whose collection is in the mixture, and on the others."""
    own, others = ([s for s in scores if s.own is wanted] for wanted in (True, False))
    if not own:
        return
    said = f"{count(len(own), 'suite')} {'is' if len(own) == 1 else 'are'} of collections that the mixture holds"
    if others:
        by = (sum(s.value - (s.against or 0.0) for s in part) / len(part) for part in (own, others))
        moved = [minus(f"{100 * value:+.1f}") for value in by]
        said += f": {moved[0]} points there, {moved[1]} on the {len(others)} of other data"
    else:
        said += ", and none is of other data"
    yield Finding(f"{said} ({metric_name(metric)} compared with {other}).", "scores")


def _between_suites(test: PairedTest | None, suites: int) -> str:
    """Whether other suites might say the opposite, by the one test that the interval and p are of."""
    if test is None:
        few = f"{count(suites, 'suite')} {'is' if suites == 1 else 'are'} too few"
        return f" {few} to tell it from chance between suites: that takes {FEWEST_SUITES}."
    if not test.difference:
        return ""
    verdict = "is more than chance between suites" if test.p <= SIGNIFICANT else "may be chance between suites"
    interval = minus(f"{100 * test.low:+.1f} to {100 * test.high:+.1f}")
    return f" That {verdict} (permutation test: 95 % interval {interval}, p\u00a0=\u00a0{test.p:.2g})."


def _by_queries(found: Evaluation, metric: str, other: str) -> Iterator[Finding]:
    tests = [(s.suite, s.test, s.adjusted) for s in found.of(metric) if s.test is not None and s.adjusted is not None]
    if not tests:
        return
    better = [suite for suite, test, p in tests if p <= SIGNIFICANT and test.difference > 0]
    worse = [suite for suite, test, p in tests if p <= SIGNIFICANT and test.difference < 0]
    said = [f"{word} on {some(suites)}" for word, suites in (("is higher", better), ("is lower", worse)) if suites]
    rest = len(tests) - len(better) - len(worse)
    if rest:
        said.append(f"may differ by chance between queries on {rest} of {count(len(tests), 'suite')}")
    yield Finding(f"Suite by suite, {metric_name(metric)} compared with {other} {'; '.join(said)} (paired t-test over "
                  "the queries, adjusted for the number of suites).", "scores")  # fmt: skip


def summary(facts: Facts) -> str:
    """One sentence that says what the mixture is."""
    parts = facts.present
    slices = sum(c.slice is not None for c in facts.mixture.spec.components)
    counts = ((len(parts) - slices, "collection"), (slices, "slice"))
    said = " and ".join(count(number, thing) for number, thing in counts if number)
    if facts.num_examples is not None:
        said += f" with {count(facts.num_examples, 'example')}"
    learned = facts.learning
    if learned is not None and learned.own:
        how = str(learned.settings.get("algorithm") or "tdro")
        seeds = f", the mean of {learned.num_seeds} seeds" if learned.num_seeds > 1 else ""
        said += f", weighted by {'tDRO' if how == 'tdro' else how} "
        said += f"towards {count(len(learned.target), 'set')} of queries" if learned.target else (
            f"in {count(learned.num_steps, 'step')}")  # fmt: skip
        said += seeds
    elif max(c.weight or 0.0 for c in parts) == min(c.weight or 0.0 for c in parts) and len(parts) > 1:
        said += ", equally weighted"
    return said + "."

"""The phases of a training: mixtures that it draws from one after the other, under one schedule. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mixture.errors import UsageError
from mixture.holdout import hold_out_of_all
from mixture.materialised import ComponentData, MaterialisedMixture
from mixture.sampling import BatchPlan
from mixture.specs import Component, MixtureSpec
from mixture.weights import normalise
from trainers.settings import S, TrainingSettings

if TYPE_CHECKING:
    from trainers.finetune.config import FinetuneSettings

T = TypeVar("T")


class Phase(NamedTuple):
    """A mixture, and how many steps draw from it."""

    mixture: MaterialisedMixture
    steps: int


@dataclass(frozen=True)
class Phases:
    """What a training draws from. With one phase it is a plain training on that mixture.

    parts:   the phases in order
    streams: for each phase, component -> the number of the first phase that has it with the same rows. Such components
             share one stream of rows (`BatchPlan`), which goes on from phase to phase

    Rows are the same where the digests are, or else the example ids: other negatives or prompts change nothing in it.
    """

    parts: tuple[Phase, ...]
    streams: tuple[dict[str, int], ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[MaterialisedMixture, int]]) -> Phases:
        """Phases from pairs of a mixture and its steps."""
        mixtures = [mixture for mixture, _ in parts]
        streams = [
            {name: next(n for n, other in enumerate(mixtures) if _same_rows(other, mixture, name))
             for name in mixture.components}
            for mixture in mixtures
        ]  # fmt: skip
        return cls(tuple(Phase(*part) for part in parts), tuple(streams))

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.parts)

    @property
    def ends(self) -> list[int]:
        """The step that each phase ends before."""
        return list(accumulate(phase.steps for phase in self.parts))

    def at(self, step: int) -> int:
        """The number of the phase that draws the batch of `step`; both from 0."""
        return next(number for number, end in enumerate(self.ends) if step < end)

    @property
    def begin(self) -> set[int]:
        """The steps that begin a phase, but for the first phase's."""
        return set(self.ends[:-1])

    @property
    def specs(self) -> list[MixtureSpec]:
        """Of the mixtures in order, each once."""
        return list({phase.mixture.spec.id: phase.mixture.spec for phase in self.parts}.values())

    @property
    def mixture_id(self) -> str | None:
        """The id of the mixture, where all phases have the same one."""
        return self.specs[0].id if len(self.specs) == 1 else None

    @property
    def by_id(self) -> list[dict[str, Any]]:
        """mixture (its id) and steps of each phase."""
        return [{"mixture": phase.mixture.spec.id, "steps": phase.steps} for phase in self.parts]

    @property
    def record(self) -> dict[str, Any]:
        """mixture: its spec, None where phases have several; phases: spec and steps of each, of several alone."""
        specs = [json.loads(phase.mixture.spec.to_json()) for phase in self.parts]
        mixture = specs[0] if self.mixture_id else None
        if len(specs) == 1:
            return {"mixture": mixture}
        told = [{"mixture": spec, "steps": phase.steps} for spec, phase in zip(specs, self.parts, strict=True)]
        return {"mixture": mixture, "phases": told}

    @property
    def components(self) -> list[Component]:
        """All contents, by name and digest: the last phase's where several have one."""
        return list({(c.name, c.digest): c for phase in self.parts for c in phase.mixture.spec.components}.values())

    @property
    def whole(self) -> MaterialisedMixture:
        """All components as one mixture, weighed by the steps. Where phases have several contents of a name, it is the
        last one's."""
        last = self.parts[-1].mixture
        if len(self.specs) == 1:
            return last
        weights: dict[str, float] = {}
        for mixture, steps in self.parts:
            for name, weight in mixture.spec.weights.items():
                weights[name] = weights.get(name, 0.0) + weight * steps
        found = {c.name: c for phase in self.parts for c in phase.mixture.spec.components}
        spec = MixtureSpec(tuple(replace(found[n], weight=w) for n, w in normalise(weights).items()))
        parts = {name: part for phase in self.parts for name, part in phase.mixture.components.items()}
        return MaterialisedMixture(last.folder, spec, {c.name: parts[c.name] for c in spec.components})

    @property
    def overshadowed(self) -> list[MaterialisedMixture]:
        """Of each phase the components whose prompts `whole` has not."""
        whole = self.whole.components
        return [
            replace(phase.mixture, components=parts)
            for phase in self.parts
            if (parts := {name: part for name, part in phase.mixture.components.items()
                          if part.prompts != whole[name].prompts})
        ]  # fmt: skip

    def title(self, number: int) -> str:
        """What stands before the figures of a phase, from 0; empty where there is one only."""
        return f"phase {number + 1} of {len(self.parts)}, " if len(self.parts) > 1 else ""

    def settings(self, given: S) -> S:
        """The settings with as many steps as the phases have."""
        return replace(given, steps=self.steps)

    def hold_out(self, share: float) -> tuple[Phases, dict[str, ComponentData]]:
        """The phases without the rows that are held out, and these rows by component (`mixture.holdout`)."""
        kept, out = hold_out_of_all([phase.mixture for phase in self.parts], share)
        parts = (phase._replace(mixture=mixture) for phase, mixture in zip(self.parts, kept, strict=True))
        return replace(self, parts=tuple(parts)), out

    def changed(self, work: Callable[[MaterialisedMixture], MaterialisedMixture]) -> Phases:
        """The phases with what `work` makes of each mixture; it leaves the rows as they are."""
        return replace(self, parts=tuple(phase._replace(mixture=work(phase.mixture)) for phase in self.parts))

    def plans(self, settings: TrainingSettings) -> list[BatchPlan]:
        """The plan of each phase. It takes steps of the whole training."""
        plans: list[BatchPlan] = []
        for number, (phase, streams) in enumerate(zip(self.parts, self.streams, strict=True)):
            before: dict[str, int] = {}
            shared_before: dict[str, int] = {}
            for plan, end, earlier in zip(plans, self.ends, self.streams, strict=False):
                counts, shared = plan.counts(end), plan.shared_counts(end)
                same = [name for name, stream in streams.items() if earlier.get(name) == stream]
                before |= {name: counts[name] for name in same}
                shared_before |= {name: shared[name] for name in same}
            mixture = phase.mixture
            plans.append(BatchPlan(
                mixture.spec.weights, mixture.sizes, settings.batch_size, settings.seed, positives=mixture.positives(),
                batch_sizes={name: settings.of(name).batch_size for name in mixture.sizes},
                first=([0, *self.ends])[number], before=before, shared_before=shared_before,
            ))  # fmt: skip
        return plans

    def drawn(self, history: Sequence[dict[str, Any]], settings: FinetuneSettings) -> list[dict[str, Any]]:
        """What the steps of a history drew from each component, over all phases: a row for each stream.

        digest, num_examples: of the last phase that draws its rows
        examples_drawn:       rows in its batches; a batch may leave out a row that would repeat a positive
        epochs:               how far its order was gone through, rows left out included; a batch holds no row twice
        phases:               the numbers of those that have it, from 1; where there are several
        """
        found: dict[tuple[str, int], dict[str, Any]] = {}
        having: dict[tuple[str, int], list[int]] = {}
        for number, (phase, streams) in enumerate(zip(self.parts, self.streams, strict=True), 1):
            for c in phase.mixture.spec.components:
                key = c.name, streams[c.name]
                having.setdefault(key, []).append(number)
                if c.weight > 0 or key not in found:
                    found[key] = {
                        "collection": c.name, "slice_of": None if c.slice is None else c.collection,
                        "selection": c.selection, "digest": c.digest, "num_examples": phase.mixture.sizes[c.name],
                        "batches": 0, "examples_drawn": 0, "epochs": 0.0,
                    }  # fmt: skip
        for step in history:
            name = step["collection"]
            row = found[name, self.streams[self.at(step["step"] - 1)][name]]
            row["batches"] += 1
            row["examples_drawn"] += step["examples"]
            if settings.batching == "mixed":
                row["epochs"] = row["examples_drawn"] / row["num_examples"]
            else:
                row["epochs"] = row["batches"] * min(1.0, settings.of(name).batch_size / row["num_examples"])
        several = len(self.parts) > 1
        return [row | ({"phases": having[key]} if several else {}) for key, row in found.items()]


def as_phases(data: MaterialisedMixture | Phases, settings: TrainingSettings) -> Phases:
    """What to train on as phases: a mixture is the one phase, of as many steps as the settings have."""
    return data if isinstance(data, Phases) else Phases.of([(data, settings.steps)])


def checked(phases: Sequence[tuple[T, int]]) -> list[tuple[T, int]]:
    """Pairs of a mixture and a number of steps. Raises `UsageError` for anything else, and for none."""
    for phase in phases:
        if not isinstance(phase, tuple) or len(phase) != 2 or type(phase[1]) is not int or phase[1] < 1:
            raise UsageError(f"a phase is {phase!r}; it must be (mixture, steps), with 1 step or more")
    if not phases:
        raise UsageError("there is no phase; give (mixture, steps), one or more")
    return list(phases)


def read_phases(
    texts: Sequence[str], *, mixture: str | None = None, steps: int | None = None, assigned: Sequence[str] = ()
) -> list[tuple[str, int]]:  # fmt: skip
    """Phases as they are typed: a mixture's reference, a colon and the steps. A reference may have a colon too.

    mixture, steps, assigned: what else was typed; settings as name=value. Raises `UsageError` for another form, and
    where one of these says what phases say.

    >>> read_phases(["uniform:800", "tdro:2:200"])
    [('uniform', 800), ('tdro:2', 200)]
    """
    found = []
    for text in texts:
        reference, _, number = text.rpartition(":")
        if not reference or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise UsageError(f"`phase` is {text!r}; write a mixture, a colon and its steps, 1 or more, as tdro:200")
        found.append((reference, int(number)))
    if found and mixture is not None:
        raise UsageError("`phase` names the mixtures; leave `mix` out")
    if found and (steps is not None or any(text.partition("=")[0].strip() == "steps" for text in assigned)):
        raise UsageError("`phase` says how many steps there are; leave `steps` out")
    return found


def _same_rows(a: MaterialisedMixture, b: MaterialisedMixture, name: str) -> bool:
    if name not in a.components:
        return False
    one, two = a.components[name], b.components[name]
    digests = ({c.name: c.digest for c in mixture.spec.components}[name] for mixture in (a, b))
    return len(set(digests)) == 1 or (
        one.num_examples == two.num_examples and one.example_ids().equals(two.example_ids())
    )

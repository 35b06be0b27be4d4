"""What a mixture is: its canonical form and its id. Pure: no store, no files."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mixture.errors import UsageError
from mixture.weights import normalise

SCHEMA_VERSION = 1
ID_DIGITS = 12
SUM_TOLERANCE = 1e-9
# The averages of learned weights, and what the history of a run calls them.
WEIGHT_COLUMNS = {"current": "weight", "mean": "mean_weight", "ema": "ema_weight"}


@dataclass(frozen=True)
class Part:
    """What of a collection training reads.

    selection: id of the set of examples that a slice is (`mixture.registry.slices`); None for all
    miners:    whose negatives, those of the first one first; None for all that there are, in order of miner
    """

    collection: str
    selection: str | None = None
    miners: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Component:
    """A collection in a mixture, or a slice of one. `weight` is its sampling probability α; `loss_weight` scales its
    loss.

    slice:     what the slice is called within its collection, such as language=zh; None for a whole collection
    selection, miners: as in `Part`

    >>> Component("xquad", "0" * 64, 0.5, slice="language=zh", selection="1" * 64).name
    'xquad[language=zh]'
    """

    collection: str
    digest: str
    weight: float
    loss_weight: float = 1.0
    slice: str | None = None
    selection: str | None = None
    miners: tuple[str, ...] | None = None

    @property
    def part(self) -> Part:
        return Part(self.collection, self.selection, self.miners)

    @property
    def name(self) -> str:
        """What weights, histories and batches call it; no two components of a mixture have the same."""
        return self.collection if self.slice is None else f"{self.collection}[{self.slice}]"


@dataclass(frozen=True)
class MixtureSpec:
    """Collections with weights, immutable. Weights are in [0, 1] and sum to 1.

    The id is the first 12 hexadecimal digits of the SHA-256 of the canonical JSON: components in order of name, floats
    in their shortest exact form. So the order in which components are given, and the machine, do not matter.

    >>> a = Component("a", "0" * 64, 0.25)
    >>> b = Component("b", "1" * 64, 0.75)
    >>> MixtureSpec((a, b)).id == MixtureSpec((b, a)).id
    True
    """

    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        if not self.components:
            raise UsageError("a mixture needs at least one collection")
        names = [c.name for c in self.components]
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise UsageError(f"collections named twice in a mixture: {', '.join(repeated)}")
        for c in self.components:
            if not (math.isfinite(c.weight) and 0.0 <= c.weight <= 1.0):
                raise UsageError(f"weight of {c.name!r} is {c.weight}; allowed: 0 to 1")
            if not (math.isfinite(c.loss_weight) and c.loss_weight >= 0.0):
                raise UsageError(f"loss weight of {c.name!r} is {c.loss_weight}; allowed: 0 or more")
            if (c.slice is None) != (c.selection is None):
                raise UsageError(f"component {c.name!r}: a slice needs both a name and a selection of examples")
            if c.miners is not None and len(set(c.miners)) != max(1, len(c.miners)):
                raise UsageError(
                    f"component {c.name!r}: its miners are {list(c.miners)}; allowed: one or more, each once"
                )
        total = math.fsum(c.weight for c in self.components)
        if abs(total - 1.0) > SUM_TOLERANCE:
            raise UsageError(f"the weights of a mixture sum to {total!r}; they must sum to 1")
        # -0.0 is a weight of 0, and must not make another id.
        plain = (replace(c, weight=c.weight + 0.0, loss_weight=c.loss_weight + 0.0) for c in self.components)
        object.__setattr__(self, "components", tuple(sorted(plain, key=lambda c: c.name)))

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self._canonical().encode()).hexdigest()[:ID_DIGITS]

    @property
    def weights(self) -> dict[str, float]:
        return {c.name: c.weight for c in self.components}

    def _canonical(self) -> str:
        parts = [
            {"collection": c.collection, "digest": c.digest, "loss_weight": float(c.loss_weight),
             "weight": float(c.weight)}
            # Keys that only some have: a mixture of whole collections, with all negatives, keeps the id it always had.
            | ({} if c.slice is None else {"slice": c.slice, "selection": c.selection})
            | ({} if c.miners is None else {"miners": list(c.miners)})
            for c in self.components
        ]  # fmt: skip
        return json.dumps({"components": parts}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def to_json(self) -> str:
        """Readable JSON with the schema version and the id; `from_json` checks both."""
        body = json.loads(self._canonical())
        return json.dumps({"schema_version": SCHEMA_VERSION, "id": self.id} | body, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> MixtureSpec:
        try:
            body: dict[str, Any] = json.loads(text)
            version = body["schema_version"]
            if version != SCHEMA_VERSION:
                raise UsageError(f"mixture JSON of schema version {version}; this toolkit reads {SCHEMA_VERSION}")
            spec = cls(tuple(map(_component, body["components"])))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"not a mixture's JSON: {error}") from error
        if body.get("id", spec.id) != spec.id:
            raise UsageError(f"the JSON says mixture {body['id']} but its content is {spec.id}: it was edited")
        return spec

    def with_weights(self, weights: Mapping[str, float]) -> MixtureSpec:
        """The same collections with these weights (any positive scale); every collection must be named."""
        if set(weights) != set(self.weights):
            odd = sorted(set(weights) ^ set(self.weights))
            raise UsageError(f"weights and collections of the mixture differ in {', '.join(odd)}")
        scaled = normalise(weights)
        return MixtureSpec(tuple(replace(c, weight=scaled[c.name]) for c in self.components))


def _component(part: Mapping[str, Any]) -> Component:
    miners = part.get("miners")
    if miners is not None and not isinstance(miners, list):
        raise TypeError(f"miners are {miners!r}; allowed: a list of names")
    return Component(**{**part, "miners": None if miners is None else tuple(map(str, miners))})

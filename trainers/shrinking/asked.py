"""What a smaller model is asked to be. Loads no torch: mistakes are said before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixture.arguments import Name
from mixture.errors import UsageError
from trainers.model.names import known_model
from trainers.shrinking.architecture import architecture_of


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which layers are to be left.

    kept:       these; None: `num_left` that a search finds
    num_layers: of the whole model
    width:      the share of inner channels that are left
    keep_last:  so many last layers that a search leaves alone; None: as suits the pooling
    rows:       of each collection, to measure on
    """

    model: str
    kept: tuple[int, ...] | None
    num_left: int
    num_layers: int
    width: float
    keep_last: int | None
    rows: int

    @property
    def searched(self) -> bool:
        return self.kept is None


def checked(
    model: Name, layers: int | None, first: bool, keep: Sequence[int] | None, keep_last: int | None, width: float,
    rows: int,
) -> Asked:  # fmt: skip
    """What `trainers.shrink` is given, checked as far as the model's files tell. Raises `UsageError`."""
    name = known_model(model)
    known = architecture_of(name)
    number = known.num_layers
    if not 0 < width <= 1:
        raise UsageError(f"`width` is {width:g}; allowed: above 0, to 1")
    if rows < 2:
        raise UsageError(f"`rows` is {rows}; allowed: 2 or more")
    if keep_last is not None and not 0 <= keep_last < number:
        raise UsageError(f"`keep_last` is {keep_last}; allowed: 0 to {number - 1}")
    most = number if width < 1 else number - 1
    if sum((layers is not None, keep is not None)) != 1 and not (width < 1 and keep is None):
        raise UsageError("say in `layers` how many layers are left, or in `keep` which")
    if first and layers is None:
        raise UsageError("`first` keeps the first layers; say in `layers` how many")
    if layers is not None and not 1 <= layers <= most:
        raise UsageError(f"`layers` is {layers}; allowed: 1 to {most}, since {name!r} has {number} layers")
    if layers is not None:
        kept = tuple(range(layers)) if first or layers == number else None
        return Asked(model=name, kept=kept, num_left=layers, num_layers=number, width=width, keep_last=keep_last,
                      rows=rows)  # fmt: skip
    wanted = tuple(range(number)) if keep is None else tuple(keep)
    if not wanted or wanted != tuple(sorted(set(wanted))) or wanted[0] < 0 or wanted[-1] >= number:
        raise UsageError(f"`keep` is {','.join(map(str, wanted))}; allowed: layers from 0 to {number - 1} in ascending "
                         "order, each once")  # fmt: skip
    if len(wanted) > most:
        raise UsageError(f"`keep` names all {number} layers, so that none would go")
    if missing := set(known.fixed) - set(wanted):
        raise UsageError(f"`keep` lacks layer {min(missing)}, which a model of the architecture {known.kind} must have")
    return Asked(model=name, kept=wanted, num_left=len(wanted), num_layers=number, width=width, keep_last=keep_last,
                  rows=rows)  # fmt: skip

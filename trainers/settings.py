"""Settings: frozen dataclasses, read from a TOML recipe and overridden by options. Unknown keys are errors."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from mixture.errors import UsageError, unknown_name

S = TypeVar("S", bound="TrainingSettings")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What fine-tuning and tDRO share. Values are the paper's (Table 6), but for batch size and steps: see below."""

    steps: int = 1000
    batch_size: int = 64  # the paper: 2048, on 8 GPUs
    learning_rate: float = 1e-4
    warmup_steps: int = 100  # at most a tenth of the steps
    min_learning_rate_ratio: float = 0.1
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    temperature: float = 0.002
    negatives: int = 7
    max_query_tokens: int = 128
    max_passage_tokens: int = 512
    tokens_per_pass: int = 16_384  # padded tokens in a micro-batch, on each rank
    gradient_cache: bool = True  # keep activations of one micro-batch only; False: of the whole batch
    lora_rank: int = 0  # 0: all parameters are trained; the paper: 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    bf16: bool = False
    checkpoint_every: int = 100
    seed: int = 42

    def __post_init__(self) -> None:
        faults = [f"{name} is {getattr(self, name)}; allowed: {rule}" for name, rule in self._violations()]
        if faults:
            raise UsageError("; ".join(faults))

    def _violations(self) -> list[tuple[str, str]]:
        """All values out of range at once, as (name, what is allowed)."""
        at_least_one = ("steps", "batch_size", "negatives", "max_query_tokens", "max_passage_tokens",
                        "tokens_per_pass", "checkpoint_every")  # fmt: skip
        above_zero = ("learning_rate", "temperature", "max_gradient_norm")
        not_negative = ("warmup_steps", "weight_decay", "lora_rank", "lora_alpha", "seed")
        below_one = ("min_learning_rate_ratio", "lora_dropout")
        return (
            [(n, "1 or more") for n in at_least_one if getattr(self, n) < 1]
            + [(n, "above 0") for n in above_zero if not 0 < getattr(self, n) < math.inf]
            + [(n, "0 or more") for n in not_negative if not 0 <= getattr(self, n) < math.inf]
            + [("seed", "0 to 2**32 - 1")] * (self.seed >= 2**32)
            + [(n, "0 to 1") for n in below_one if not 0 <= getattr(self, n) <= 1]
        )

    @property
    def num_warmup_steps(self) -> int:
        return min(self.warmup_steps, self.steps // 10)


def resolve(kind: type[S], recipe: Path | None, options: Mapping[str, Any], assignments: Sequence[str] = ()) -> S:
    """Settings from a recipe's TOML, overridden by the options that are not None, and these by `name=value` texts.

    Raises `UsageError` for a missing or broken file, an unknown key (naming the nearest), or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        try:
            values = tomllib.loads(recipe.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"recipe {recipe}: {error}") from error
    values |= {name: value for name, value in options.items() if value is not None}
    values |= dict(map(_assignment, assignments))
    hints = typing.get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise unknown_name("setting", name, known)
        values[name] = _typed(name, value, hints[name])
    return kind(**values)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text!r}; write name=value")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value


def _typed(name: str, value: Any, wanted: Any) -> Any:
    allowed = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not any(type(value) is kind for kind in allowed):
        names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
        raise UsageError(f"setting {name} is {value!r}; it must be of type {names}")
    return value


def run_id(kind: str, mixture: str, settings: TrainingSettings, **more: str) -> str:
    """The identity of a run: the same command finds its own checkpoints again. 12 hexadecimal digits."""
    body = {"kind": kind, "mixture": mixture, "settings": asdict(settings), **more}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]

"""Settings: frozen dataclasses, read from a TOML recipe and overridden by options. Unknown keys are errors."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from mixture.errors import UsageError, unknown_name
from mixture.weights import USUAL_BATCH, USUAL_STEPS
from trainers.model.template import AUTO, fault_of
from trainers.recipes import read_recipe

S = TypeVar("S", bound="TrainingSettings")
CHOICES = {
    "pooling": ("auto", "mean", "cls", "last"),
    "attention": ("auto", "flash_attention_2", "sdpa", "eager"),
}

# The learning rate where none is named, but for static models.
RATE = 1e-4
# Settings that change nothing in what a run makes: it goes on when they are changed.
# Other token budgets change the last bits; a run that ran out of memory must be able to go on with smaller ones.
BOOKKEEPING = frozenset({"checkpoint_every", "keep_checkpoints", "tracker", "tokens_per_pass", "tokens_kept"})


def setting(default: Any, does: str) -> Any:
    """The field of a setting, and what it does, as tables of settings say it."""
    return field(default=default, metadata={"does": does})


def default_of(f: Field[Any]) -> Any:
    """The default of a dataclass's field."""
    return f.default if f.default_factory is MISSING else f.default_factory()


def later(default: Any, does: str = "") -> Any:
    """The field of a setting that the first runs did not have: at its default it stays out of run ids, so that a run
    from before is found again."""
    return field(default=default, metadata={"later": True, "does": does})


def tables(does: str) -> Any:
    """As `later`, of a setting that holds tables, none by default; its class checks them."""
    return field(default_factory=dict, metadata={"later": True, "does": does})


class Checked:
    """A dataclass that refuses values out of range, all at once."""

    def __post_init__(self) -> None:
        faults = [f"{name} is {self.value_of(name)}; allowed: {rule}" for name, rule in self.violations()]
        if faults:
            raise UsageError("; ".join(faults))

    def value_of(self, name: str) -> Any:
        """The value of a setting, as a fault shows it."""
        return getattr(self, name)

    def violations(self) -> list[tuple[str, str]]:
        """All values out of range, as (name, what is allowed)."""
        return []


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Checked):
    """What fine-tuning and tDRO share. Values are the paper's (Table 6), but for the batch size."""

    renamed: ClassVar[Mapping[str, str]] = {}  # former name -> name; run ids are hashed from the former

    steps: int = setting(USUAL_STEPS, "training steps")
    batch_size: int = setting(USUAL_BATCH, "examples in a step; the paper's is 2048, on 8 GPUs")
    learning_rate: float | None = setting(
        None, "peak learning rate of the model; none: as suits it, 1e-4, or 0.01 for a static model"
    )
    warmup_steps: int = setting(100, "steps in which the rate rises to its peak; at most a tenth of the steps")
    min_learning_rate_ratio: float = setting(0.1, "the last learning rate, as a share of the peak")
    weight_decay: float = setting(0.1, "AdamW's, on matrices alone")
    max_gradient_norm: float = setting(1.0, "longer gradients are scaled down to this norm")
    temperature: float = setting(0.002, "scores are divided by it in the loss")
    negatives: int = setting(7, "hard negatives that an example brings")
    query_template: str = later(
        AUTO,
        "what the model sees of a query: auto (its own prompts, or else instruct), instruct, none, or a text such as "
        '"query: {query}"; {prompt} in it is the collection\'s prompt',
    )
    passage_template: str = later(
        AUTO, 'the same of a passage: auto (with query_template=auto its own, or else none), none, "passage: {passage}"'
    )
    max_query_tokens: int = setting(128, "tokens of a query, prompt included; the rest is cut off")
    max_passage_tokens: int = setting(512, "tokens of a passage; the rest is cut off")
    symmetric_prompts: bool = setting(False, "prompts on the passages too, in collections whose card says symmetric")
    pooling: str = setting("auto", "auto (the model's own), mean, cls or last")
    attention: str = setting("auto", "auto, flash_attention_2, sdpa or eager")
    bidirectional: bool = later(
        False, "tokens of a model that reads from left to right see those to their right too; false: as the model came"
    )
    tokens_per_pass: int = setting(0, "padded tokens in a micro-batch, on each rank; 0: as suits the device")
    tokens_kept: int = setting(0, "padded tokens whose activations are kept at once, on each rank; 0: as many as fit")
    lora_rank: int = setting(0, "LoRA's rank, 8 in the paper; 0: all parameters are trained")
    lora_alpha: int = setting(32, "LoRA's scale, divided by its rank")
    lora_dropout: float = setting(0.1, "LoRA's dropout")
    lora_merge: bool = setting(True, "false: the model is saved as an adapter of the model it started from")
    four_bit: bool = later(False, "with lora_rank: the frozen weights are kept in 4 bits, as in QLoRA")
    activation_checkpointing: bool = setting(
        False, "keep no activations inside a layer: less memory, a third more time"
    )
    bf16: bool = setting(False, "compute in bfloat16")
    fsdp: bool = setting(False, "under torchrun: each rank holds a slice of the model")
    checkpoint_every: int = setting(100, "steps between checkpoints")
    keep_checkpoints: int = setting(1, "how many of the newest checkpoints are kept")
    tracker: str = setting(
        "auto", "none, tensorboard, wandb, ... (accelerate's); auto: tensorboard where it is installed"
    )
    seed: int = setting(42, "seed of batches and models")

    def violations(self) -> list[tuple[str, str]]:
        at_least_one = ("steps", "batch_size", "negatives", "max_query_tokens", "max_passage_tokens",
                        "checkpoint_every", "keep_checkpoints")  # fmt: skip
        above_zero = ("learning_rate", "temperature", "max_gradient_norm")
        not_negative = ("tokens_per_pass", "tokens_kept", "warmup_steps", "weight_decay", "lora_rank", "lora_alpha",
                        "seed")  # fmt: skip
        below_one = ("min_learning_rate_ratio", "lora_dropout")
        return (
            [(n, "1 or more") for n in at_least_one if getattr(self, n) < 1]
            + [(n, "above 0") for n in above_zero if (v := getattr(self, n)) is not None and not 0 < v < math.inf]
            + [(n, "0 or more") for n in not_negative if not 0 <= getattr(self, n) < math.inf]
            + [("seed", "0 to 2**32 - 1")] * (self.seed >= 2**32)
            + [(n, "0 to 1") for n in below_one if not 0 <= getattr(self, n) <= 1]
            + [("lora_merge", "true with bidirectional: an adapter's folder cannot say how its model reads")]
            * (self.bidirectional and self.lora_rank > 0 and not self.lora_merge)
            + [("four_bit", "false without lora_rank: weights in 4 bits are not trained")]
            * (self.four_bit and self.lora_rank == 0)
            + [("four_bit", "false with fsdp")] * (self.four_bit and self.fsdp)
            + [("lora_merge", "true with four_bit: an adapter would be loaded on weights that it was not trained on")]
            * (self.four_bit and not self.lora_merge)
            + [(n, ", ".join(names)) for n, names in CHOICES.items() if getattr(self, n) not in names]
            + [
                (f"{kind}_template", fault)
                for kind in ("query", "passage")
                if (fault := fault_of(getattr(self, f"{kind}_template"), kind))
            ]
        )

    def of(self, collection: str) -> Self:
        """These settings as they are for the batches of a collection."""
        return self

    @property
    def longest(self) -> int:
        """The most tokens that a text may have."""
        return max(self.max_query_tokens, self.max_passage_tokens)

    @property
    def num_warmup_steps(self) -> int:
        return min(self.warmup_steps, self.steps // 10)

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides what a run makes, by the names that run ids are hashed from."""
        former = {name: old for old, name in self.renamed.items()}
        found = {
            former.get(f.name, f.name): value
            for f in fields(self)
            if f.name not in BOOKKEEPING
            and ((value := getattr(self, f.name)) != default_of(f) or not f.metadata.get("later"))
        }
        # The first runs had a number there; `fitted` puts one there for the model.
        return found | ({"learning_rate": RATE} if self.learning_rate is None else {})


def resolve(kind: type[S], recipe: str | Path | None, options: Mapping[str, Any], assignments: Sequence[str] = ()) -> S:
    """Settings from a recipe (`recipes.read_recipe`), overridden by the options that are not None, and these by
    `name=value` texts.

    Raises `UsageError` for a missing or broken recipe, an unknown key (naming the nearest), or a value of the wrong
    type.
    """
    values = {} if recipe is None else read_recipe(recipe)
    values |= {name: value for name, value in options.items() if value is not None}
    for name, value in map(_assignment, assignments):
        values[name] = _merged(values.get(name), value)
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    for name, value in values.items():
        if name in kind.renamed:
            raise UsageError(f"the setting {name} is called {kind.renamed[name]}")
        if name not in known:
            raise unknown_name("setting", name, known)
        if known[name].default_factory is MISSING:
            values[name] = typed(name, value, hints[name])
    return kind(**values)


def table(settings: TrainingSettings) -> list[dict[str, Any]]:
    """All settings as rows: name, value, default, and what the setting does."""
    return [
        {"setting": f.name, "value": getattr(settings, f.name), "default": default_of(f), "does": f.metadata["does"]}
        for f in fields(settings)
    ]


# NAME.OTHER.SETTING=VALUE: an entry of a setting that holds tables; OTHER may hold dots and equals signs.
IN_TABLE = re.compile(r"([a-z_]+)\.(.+?)\.([a-z_]+)\s*=(.*)", re.DOTALL)


def _merged(before: Any, value: Any) -> Any:
    """A value in place of the one before; of tables, entry by entry."""
    if not (isinstance(before, Mapping) and isinstance(value, Mapping)):
        return value
    return {**before, **{name: _merged(before.get(name), one) for name, one in value.items()}}


def _assignment(text: str) -> tuple[str, Any]:
    found = IN_TABLE.fullmatch(text.strip())
    if found:
        name, entry, setting_name, value = found.groups()
        return name, {entry: dict([_assignment(f"{setting_name}={value}")])}
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"setting {text!r}; write name=value")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value


def typed(name: str, value: Any, wanted: Any) -> Any:
    """A setting's value as the type that it must have. Raises `UsageError` for another."""
    if typing.get_origin(wanted) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"setting {name} is {value!r}; it must be a list, as [...]")
        return tuple(typed(name, item, typing.get_args(wanted)[0]) for item in value)
    if value == "none" and type(None) in typing.get_args(wanted):
        return None
    allowed = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not any(type(value) is kind for kind in allowed):
        names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
        raise UsageError(f"setting {name} is {value!r}; it must be of type {names}")
    return value


def run_id(kind: str, mixture: str, settings: TrainingSettings, **more: str) -> str:
    """The identity of a run: the same command finds its own checkpoints again. 12 hexadecimal digits."""
    body = {"kind": kind, "mixture": mixture, "settings": settings.deciding, **more}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]

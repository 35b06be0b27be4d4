"""Settings of learning weights: flat names, whose values only their own learner reads, and ids that older runs have."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from mixture.errors import UsageError
from trainers.learning import config
from trainers.learning.config import LearningSettings
from trainers.learning.learners import LEARNERS, GroupDro, LearnerOptions
from trainers.settings import resolve, run_id

# As they were when all options were fields of one class: stores have runs by these ids.
IDS = [
    (None, {}, "b6aa6e681e88"),
    ("paper", {}, "0768a8356824"),
    ("laptop", {"seed": 44, "seeds": 3, "average": "all", "reference_cache_mb": 1}, "95e97676eb15"),
    (None, {"measurement": "relative_group", "weights_max_norm": 2.0}, "b0769b86c577"),
    (None, {"measurement": "excess"}, "89d342770973"),
    (None, {"measurement": "loss", "min_weight": 0.01}, "e7e201f6cb97"),
    (
        None,
        {"reference_floor": 0.001, "weights_learning_rate": 0.1, "max_epochs": 4.0, "epoch_budget": 6400},
        "6dc2f81b484c",
    ),
    (None, {"algorithm": "groupdro"}, "1d86b536e7d0"),
    (None, {"algorithm": "doremi", "smoothing": 0.05}, "66cee30e5c6b"),
    (None, {"algorithm": "cgd"}, "a94d5ca5c87c"),
    ("laptop", {"algorithm": "cgd", "exponent": 0.25, "cgd_memory": 0.1}, "06c1050b3d83"),  # was called memory
    (None, {"algorithm": "cvar", "fraction": 0.5, "newest": 0.2}, "ec2d5e3a3328"),
    (None, {"algorithm": "cvar", "unit": "example", "fraction": 0.1}, "f792df85aa99"),
    (None, {"algorithm": "chi2", "radius": 0.5, "average": "ema"}, "131fd78fd9be"),
]


@pytest.mark.parametrize(("recipe", "options", "known"), IDS)
def test_run_ids_are_those_of_older_runs(recipe: str | None, options: dict[str, Any], known: str) -> None:
    settings = resolve(LearningSettings, recipe, options)
    assert run_id("tdro", "0123456789ab", settings.identity, proxy="p", reference="none") == known


def _with(monkeypatch: pytest.MonkeyPatch, option: str, kind: type, default: Any) -> Any:
    """`LearningSettings` as it is where there is another learner, with this option."""
    members = {"__annotations__": {option: kind}, option: default}
    own = dataclass(frozen=True, kw_only=True)(type("Own", (LearnerOptions,), members))
    monkeypatch.setitem(LEARNERS, "other", type("Other", (GroupDro,), {"name": "other", "Options": own}))
    spec = importlib.util.spec_from_file_location("config_made_anew", config.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module.LearningSettings


def test_another_learners_option_is_a_setting_that_enters_ids_where_it_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = _with(monkeypatch, "patience", int, 3)
    plain = resolve(kind, None, {})
    assert run_id("tdro", "0123456789ab", plain.identity, proxy="p", reference="none") == IDS[0][2]
    other = resolve(kind, None, {"algorithm": "other"}, ["patience=4"])
    assert other.options.patience == 4
    usual = resolve(kind, None, {"algorithm": "other"})
    assert run_id("tdro", "m", usual) != run_id("tdro", "m", other)
    with pytest.raises(UsageError, match=r"patience is 4; allowed: 3 with tdro, which does not read it \(other does\)"):
        resolve(kind, None, {"patience": 4})


@pytest.mark.parametrize(
    ("option", "kind", "default"),
    [("temperature", float, 1.0), ("min_weight", float, 0.1), ("smoothing", float, 0.5), ("radius", int, 1)],
)
def test_an_option_with_the_name_of_another_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: str, kind: type, default: Any
) -> None:
    with pytest.raises(UsageError, match=f"other.* (has|have) an option {option}, .*; rename it"):
        _with(monkeypatch, option, kind, default)


def test_a_former_name_says_the_new_one() -> None:
    with pytest.raises(UsageError, match="the setting memory is called cgd_memory"):
        resolve(LearningSettings, None, {"algorithm": "cgd"}, ["memory=0.1"])


def test_a_learner_gets_the_options_that_were_set() -> None:
    settings = LearningSettings(algorithm="doremi", smoothing=0.2, weights_learning_rate=0.3)
    learner = settings.learner(4)
    assert (learner.num_groups, learner.options.smoothing, learner.lr) == (4, 0.2, 0.3)  # type: ignore[attr-defined]
    assert settings.described == "doremi with smoothing=0.2"
    assert LearningSettings(batch_size=64).learner(2).options.reference_floor == 8e-4  # type: ignore[attr-defined]


def test_an_unknown_algorithm_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="algorithm is grupdro; allowed: cgd, chi2, cvar, doremi, drpruning, "):
        LearningSettings(algorithm="grupdro")


def test_sharding_is_refused_where_gradients_are_compared() -> None:
    with pytest.raises(UsageError, match="fsdp is True; allowed: false with cgd"):
        LearningSettings(algorithm="cgd", fsdp=True)

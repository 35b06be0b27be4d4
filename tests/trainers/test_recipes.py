"""The shipped recipes: the paper's table to the letter, and names that are looked up."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixture.errors import UsageError
from trainers.finetune import FinetuneSettings
from trainers.learning.config import LearningSettings
from trainers.model.fitting import fitted
from trainers.recipes import read_recipe, shipped
from trainers.settings import TrainingSettings, resolve

# Table 6 of arXiv 2408.10613, as far as both columns agree; "last token" pooling, "1k" steps and "1e-4" in our words.
TABLE_6 = {
    "pooling": "last", "batch_size": 2048, "max_query_tokens": 128, "max_passage_tokens": 512, "steps": 1000,
    "warmup_steps": 100, "learning_rate": 1e-4, "min_learning_rate_ratio": 0.1, "bf16": True, "temperature": 0.002,
    "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.1,
}  # fmt: skip
MODELS = ("qwen1.5-0.5b", "qwen1.5-1.8b", "qwen1.5-4b", "qwen1.5-7b", "mistral-7b", "llama3-8b")


def _values(settings: TrainingSettings, names: dict[str, object]) -> dict[str, object]:
    return {name: getattr(settings, name) for name in names}


@pytest.mark.parametrize("name", ["paper", *MODELS])
def test_fine_tuning_by_the_paper(name: str) -> None:
    settings = resolve(FinetuneSettings, name, {})
    assert _values(settings, TABLE_6) == TABLE_6
    assert settings.in_batch  # negative types: hard, in-batch and cross-batch
    assert (settings.seed, settings.negatives, settings.weight_decay) == (42, 7, 0.1)
    assert settings.num_warmup_steps == 100


def test_tdro_by_the_paper() -> None:
    settings = resolve(LearningSettings, "paper", {})
    assert _values(settings, TABLE_6) == TABLE_6
    assert (settings.algorithm, settings.measurement, settings.weights_learning_rate) == ("tdro", "relative", 0.02)


def test_models_differ_in_what_saves_memory_only() -> None:
    paper = read_recipe("paper")
    for name in MODELS:
        differs = {key for key, value in read_recipe(name).items() if paper.get(key) != value}
        assert differs <= {"activation_checkpointing"}
    assert read_recipe("llama3-8b")["activation_checkpointing"]


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_serves_both_commands(name: str) -> None:
    resolve(FinetuneSettings, name, {"steps": 3})
    assert resolve(LearningSettings, name, {"steps": 3}).steps == 3


def test_a_recipe_is_a_shipped_name_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('extends = "paper"\nbatch_size = 32\n')
    settings = resolve(FinetuneSettings, "mine.toml", {"steps": 7})
    assert (settings.batch_size, settings.steps, settings.lora_rank) == (32, 7, 8)
    assert resolve(FinetuneSettings, tmp_path / "mine.toml", {}) == resolve(FinetuneSettings, "mine.toml", {})
    with pytest.raises(UsageError, match=r"no recipe 'papier'; shipped: laptop, llama3-8b, .*paper.*name a TOML file"):
        read_recipe("papier")
    with pytest.raises(UsageError, match=r"recipe none\.toml: .*No such file"):
        read_recipe("none.toml")
    Path("broken.toml").write_text("steps = = 3")
    with pytest.raises(UsageError, match=r"recipe broken\.toml: "):
        read_recipe("broken.toml")
    Path("a.toml").write_text('extends = "b.toml"')
    Path("b.toml").write_text('extends = "a.toml"')
    with pytest.raises(UsageError, match=r"extends itself: a\.toml → b\.toml → a\.toml"):
        read_recipe("a.toml")
    Path("odd.toml").write_text("extends = 3")
    with pytest.raises(UsageError, match="extends is 3; it must name one recipe"):
        read_recipe("odd.toml")


def test_the_paper_is_what_the_defaults_are_but_for_size(tiny_model: Path) -> None:
    """Who sets nothing trains as the paper does, on what one machine holds."""
    plain = fitted(resolve(FinetuneSettings, None, {}), str(tiny_model))
    differs = {name for name in TABLE_6 if getattr(plain, name) != TABLE_6[name]}
    assert differs == {"pooling", "batch_size", "bf16", "lora_rank"}

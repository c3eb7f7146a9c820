"""Recipes: every fault at once, in words a person can act on; overrides; what is written reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmm_r1.config import Recipe, Stage
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.recipes import PROMPTS, dump_recipe, load_recipe, system_prompt

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
QUICKSTART = RECIPES / "quickstart.toml"
SMALL = """
name = "small"
[stage.first]
steps = 3
data = [{ source = "synthetic", domain = "text" }]
[stage.second]
from = "first"
steps = 2
data = [{ source = "synthetic", domain = "geometry" }]
"""


def faults(path: Path, *overrides: str) -> list[Fault]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.faults)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(RECIPES.rglob("*.toml")) if not p.name.startswith("study_")],
    ids=lambda p: str(p.relative_to(RECIPES)),
)
def test_shipped_recipes_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    """Catches a shipped recipe that is broken, and a run folder's recipe.toml that means something else."""
    recipe = load_recipe(path)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_quickstart_is_the_graph_of_the_paper() -> None:
    """Catches a control arm that starts from the wrong weights, or gets fewer rollouts than the method."""
    recipe = load_recipe(QUICKSTART)
    assert {name: stage.start for name, stage in recipe.stage.items()} == {
        "fre_text": "base",
        "mgt_geo": "fre_text",
        "fre_multi": "base",
        "direct_geo": "base",
        "shuffled_reward": "base",
    }
    assert recipe.stage["direct_geo"].episodes == recipe.stage["fre_text"].episodes + recipe.stage["mgt_geo"].episodes
    assert recipe.stage["shuffled_reward"].reward.shuffle
    assert recipe.evaluate.items >= 500


def test_3b_recipe_has_the_published_numbers() -> None:
    """Catches a slip against Table A7 of the paper."""
    stage = load_recipe(RECIPES / "lmm_r1_3b" / "fre_text.toml").stage["fre_text"]
    assert (stage.rollout.prompts, stage.rollout.siblings, stage.rollout.max_new_tokens) == (128, 16, 8192)
    assert (stage.rollout.temperature, stage.algorithm.kl_coef, stage.update.lr) == (1.0, 1e-3, 1e-6)
    assert stage.rollout.prompts * stage.rollout.siblings // stage.update.minibatches == 128


def test_overrides_reach_tables_lists_and_bare_words(tmp_path: Path) -> None:
    """Catches an override that is dropped, or lands beside its field."""
    recipe = load_recipe(
        write(tmp_path, SMALL),
        ["stage.second.update.lr=5e-7", "stage.first.data.0.domain=perception", "seed=7", 'evaluate.sets=["text"]'],
    )
    assert recipe.stage["second"].update.lr == 5e-7
    assert recipe.stage["first"].data[0].domain == "perception"
    assert (recipe.seed, recipe.evaluate.sets) == (7, ("text",))


def test_all_faults_come_at_once_with_line_field_and_near_match(tmp_path: Path) -> None:
    """Catches a recipe that has to be mended one run at a time."""
    text = SMALL.replace("steps = 3", 'stepz = "3"').replace('from = "first"', "from = 5")
    found = {f.field: f for f in faults(write(tmp_path, text))}
    assert found["stage.first.stepz"].message == "unknown key"
    assert found["stage.first.stepz"].remedy == 'did you mean "steps"?'
    assert found["stage.first.stepz"].row == 4
    assert found["stage.first.steps"].message == "is required"
    assert found["stage.second.from"].row == 7
    assert all(f.file.endswith("recipe.toml") for f in found.values())


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("engine.slots=nan", "engine.slots"),
        ("stage.first.update.lr=inf", "stage.first.update.lr"),
        ("stage.first.steps=2.5", "stage.first.steps"),
        ('stage.first.steps="3"', "stage.first.steps"),
        ("seed=true", "seed"),
        ("stage.second.from=frist", "stage.second.from"),
        ("stage.first.from=second", ""),
        ("stage.first.prompt=thnk", "stage.first.prompt"),
        ("evaluate.sets=['txt']", "evaluate.sets"),
        ("stage.first.data.0.families=['riddles']", "stage.first.data.0.families"),
        ("stage.first.data.0.source=problems", "stage.first.data.0"),
        ("stage.first.rollouts_of=['second']", "stage.first"),
        ("stage.first.update.minibatches=17", "stage.first"),
        ("stage.first.updat.lr=1e-5", "stage.first.updat"),
        ("name=a/b", "name"),
        ("engine=3", "engine"),
        ("stage.first.update.freeze=['tower']", "stage.first.update.freeze.0"),
        ("stage.first.update.freeze=['vision', 'merger', 'language']", "stage.first"),
        (
            "stage.first={ steps = 3, data = [{ domain = 'text' }], lora = {}, update = { freeze = ['language'] } }",
            "stage.first",
        ),
        ("stage.first.critic={ lr = 1e-5 }", "stage.first"),
        ("stage.first.algorithm.lam=0.9", "stage.first.algorithm.lam"),
        (
            "stage.first={ steps = 3, data = [{ domain = 'text' }], algorithm = { name = 'ppo' }, critic = { coef = 1.0 } }",
            "stage.first.critic",
        ),
        (
            "stage.first={ steps = 3, data = [{ domain = 'text' }], algorithm = { name = 'ppo' }, critic = { warmup = 3 } }",
            "stage.first.critic.warmup",
        ),
        (
            "stage.first={ steps = 3, data = [{ domain = 'text' }], algorithm = { name = 'dapo' }, update = { reference_reset = 2 } }",
            "stage.first.update.reference_reset",
        ),
    ],
)
def test_what_cannot_be_is_refused(override: str, field: str, tmp_path: Path) -> None:
    """Catches a wrong value that would reach training; TOML's nan, and text for numbers, are the quiet ones."""
    found = faults(write(tmp_path, SMALL), override)
    assert field in {f.field for f in found}, [str(f) for f in found]
    assert all("\n" not in str(f) for f in found)


@pytest.mark.parametrize("override", ["steps", "=3", "a..b=1", "stage.first.data.4.weight=1", "seed.x=1", "seed=[1,"])
def test_overrides_that_say_nothing(override: str, tmp_path: Path) -> None:
    """Catches a malformed --set that is ignored: the run would not be what was asked for."""
    assert any(f.file == f"--set {override}" for f in faults(write(tmp_path, SMALL), override))


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe", b"a" * 10, b"[" * 5000])
def test_broken_files_are_one_fault(text: bytes, tmp_path: Path) -> None:
    """Catches a traceback where a file is no TOML at all."""
    path = tmp_path / "recipe.toml"
    path.write_bytes(text)
    assert len(faults(path)) == 1
    assert len(faults(tmp_path / "absent.toml")) == 1


def test_prompt_profiles(tmp_path: Path) -> None:
    """Catches a recipe whose own profile does not win, and a 3B prompt that does not ask for the format."""
    recipe = load_recipe(write(tmp_path, SMALL + '[prompts]\nthink = "Ponder."\n'))
    assert system_prompt(recipe, "think") == "Ponder."
    assert system_prompt(recipe, "none") == ""
    for tag in ("<think>", "</think>", "<answer>", "</answer>", "$"):
        assert tag in PROMPTS["lmm_r1"]


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_survives_the_toml_writer(prompt: str, key: str) -> None:
    """Catches a quote, control character or newline that the writer does not escape."""
    import tomllib

    recipe = Recipe(
        name="x", prompts={key: prompt}, stage={"s": Stage.model_validate({"steps": 1, "data": [{"domain": "text"}]})}
    )
    assert tomllib.loads(dump_recipe(recipe))["prompts"] == {key: prompt}

"""Recipes: every fault at once, in words a person can act on; overrides; what is written reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmm_r1.check import check
from lmm_r1.config import Critic, Recipe, Stage
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.planning.assumptions import Setting
from lmm_r1.planning.gpus import gpu_named
from lmm_r1.planning.memory import memory_of
from lmm_r1.planning.shapes import shape_of
from lmm_r1.recipes import PROMPTS, dump_recipe, load_recipe, system_prompt

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
QUICKSTART = RECIPES / "quickstart.toml"
PUBLISHED = sorted((RECIPES / "lmm_r1_3b").glob("*.toml"))
HARDWARE = sorted((RECIPES / "lmm_r1_3b" / "hardware").glob("*.toml"))
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


def hardware_file(name: str) -> Path:
    return RECIPES / "lmm_r1_3b" / "hardware" / f"{name}.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(RECIPES.rglob("*.toml")) if not p.name.startswith("study_") and p not in HARDWARE],
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


#: Table A7 of the paper, and for the arms that it leaves out what their recipes say they take: (file, stage) -> prompts,
#: samples, replies of an optimiser step, steps, KL, learning rate, the critic's (None = no critic), the start.
TABLE_A7 = {
    ("fre_text", "fre_text"): (128, 16, 128, 40_300 // 128, 1e-3, 1e-6, 9e-6, "base"),
    ("fre_multi", "fre_multi"): (256, 16, 256, 2 * (65_118 // 256), 1e-3, 1e-6, 9e-6, "base"),
    ("mgt_geo", "mgt_geo"): (256, 16, 256, 2 * (16_810 // 256), 1e-3, 4e-7, 9e-6, "fre_text"),
    ("mgt_percereason", "mgt_percereason"): (256, 16, 256, 2 * (65_118 // 256), 1e-3, 4e-7, None, "fre_text"),
    ("mgt_sokoban", "mgt_sokoban"): (128, 16, 128, 4 * 11_500 // 128, 0.0, 1e-6, 5e-6, "fre_text"),
    ("direct_geo", "direct_geo"): (256, 16, 256, 2 * (16_810 // 256), 1e-3, 4e-7, 9e-6, "base"),
    ("direct_sokoban", "direct_sokoban"): (128, 16, 128, 4 * 11_500 // 128, 0.0, 1e-6, 5e-6, "base"),
    ("two_stage", "mgt_geo"): (256, 16, 256, 2 * (16_810 // 256), 1e-3, 4e-7, 9e-6, "fre_text"),
    ("two_stage", "direct_geo"): (256, 16, 256, 314 // 2 + 130, 1e-3, 4e-7, 9e-6, "base"),
}


@pytest.mark.parametrize(("file", "name"), TABLE_A7)
def test_3b_recipes_have_the_published_numbers(file: str, name: str) -> None:
    """Catches a slip against Table A7 of the paper."""
    recipe = load_recipe(RECIPES / "lmm_r1_3b" / f"{file}.toml")
    stage = recipe.stage[name]
    replies = stage.rollout.prompts * stage.rollout.siblings
    critic = (stage.critic or Critic()).lr if stage.algorithm.name == "ppo" else None
    assert (stage.rollout.temperature, stage.rollout.max_new_tokens, stage.update.warmup) == (1.0, 8192, 0.03)
    assert (
        stage.rollout.prompts, stage.rollout.siblings, replies // stage.update.minibatches, stage.steps,
        stage.algorithm.kl_coef, stage.update.lr, critic, stage.start,
    ) == TABLE_A7[file, name]  # fmt: skip
    if stage.start == "fre_text":
        assert recipe.stage["fre_text"] == load_recipe(RECIPES / "lmm_r1_3b" / "fre_text.toml").stage["fre_text"]


def test_sft_text_has_the_published_numbers() -> None:
    """Catches an arm of supervised learning with other data or another batch than the paper's."""
    stage = load_recipe(RECIPES / "lmm_r1_3b" / "sft_text.toml").stage["sft_text"]
    assert (stage.algorithm.name, stage.rollout.prompts, stage.update.minibatches) == ("sft", 256, 1)
    assert (stage.steps, stage.update.lr, stage.update.warmup) == (2 * (40_300 // 256), 5e-6, 0.03)


def test_the_two_stage_recipe_gives_its_control_arm_as_many_rollouts() -> None:
    """Catches a control arm that is only cheaper, not worse."""
    stages = load_recipe(RECIPES / "lmm_r1_3b" / "two_stage.toml").stage
    assert stages["direct_geo"].episodes == stages["fre_text"].episodes + stages["mgt_geo"].episodes == 1_175_552
    assert stages["direct_geo"].data == stages["mgt_geo"].data


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_3b_recipes_pass_their_check(path: Path) -> None:
    """Catches a 3B recipe that needs weights or data to be checked, or does not say how to get them."""
    report = check(path)
    assert report["ok"], report["errors"]
    assert "model.base" in {p["field"] for p in report["pending"]}
    assert all(p["remedy"] for p in report["pending"])


@pytest.mark.parametrize("hardware", HARDWARE, ids=lambda p: p.stem)
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_hardware_changes_the_machine_and_not_the_method(
    path: Path, hardware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a variant that a recipe does not take, that changes what is learned, or that a run folder does not keep."""
    full, changed = load_recipe(path), load_recipe(path, (), [hardware])
    assert load_recipe(write(tmp_path, dump_recipe(changed))) == changed
    for name, stage in changed.stage.items():
        theirs = full.stage[name]
        assert stage.model_copy(update={"lora": None, "update": theirs.update}) == theirs
        assert (stage.update.lr, stage.update.minibatches) == (theirs.update.lr, theirs.update.minibatches)
    assert changed.engine.max_context == full.engine.max_context
    machine = {name: getattr(full, name) for name in ("engine", "cluster", "stage")}
    assert changed.model_copy(update=machine) == full
    monkeypatch.setattr("lmm_r1.check.find_spec", lambda library: object())  # extras, which a plain test machine lacks
    assert check(path, overlays=[hardware])["ok"]


@pytest.mark.parametrize("name", ["one_80gb", "one_24gb"])
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_one_gpu_trains_adapters(path: Path, name: str) -> None:
    """Catches a variant for one GPU that would hold two whole models, optimiser states, or a cluster that takes no 4-bit weights."""
    full, small = load_recipe(path), load_recipe(path, (), [hardware_file(name)])
    four_bit = name == "one_24gb"
    for stage in small.stage.values():
        assert stage.lora is not None and stage.lora.four_bit == four_bit
        assert ("vision" in stage.update.freeze) == four_bit
    assert small.engine.slots < full.engine.slots and not small.cluster.address


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_eight_gpus_train_all_weights_beside_as_many_engines(path: Path) -> None:
    """Catches a variant for the published machine that leaves a GPU idle, learns less than all weights or another way than the
    recipe, and a share of the GPU for vLLM that ranks and engine, or engine and replies, do not both fit into."""
    full, big = load_recipe(path), load_recipe(path, (), [hardware_file("eight_80gb")])
    assert big.stage == full.stage
    cluster, engine = big.cluster, big.engine
    assert (cluster.address, cluster.ranks, cluster.engines, cluster.layout) == ("local", 8, 8, "colocated")
    assert engine.kind == "vllm" and engine.gpu_memory_utilization is not None
    setting = Setting(gpu=gpu_named("a100-80g"), gpus=8, engine="vllm")
    shape = shape_of(big.model.base)
    for stage in big.stage.values():
        memory = memory_of(big, stage, shape, setting)
        parts = memory.collect
        ranks = sum(
            parts[name] for name in ("weights", "master weights", "optimiser state", "reference model", "critic")
        )
        share = engine.gpu_memory_utilization * setting.gpu.memory
        # What remains of a GPU must do for the ranks, and the share for all else that sampling takes, its overhead included.
        assert ranks < setting.gpu.memory - share
        assert sum(parts.values()) - ranks < share
        assert sum(memory.learn.values()) < setting.gpu.memory


def test_overlays_merge_in_order_below_overrides(tmp_path: Path) -> None:
    """Catches an overlay that drops what it does not name, a "*" that misses a stage, and a --set that loses."""
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('[engine]\nslots = 4\n[stage."*".update]\nlr = 1e-4\nminibatches = 2\n', encoding="utf-8")
    second.write_text("[stage.second.update]\nlr = 1e-5\nwarmup = 0.5\n", encoding="utf-8")
    recipe = load_recipe(write(tmp_path, SMALL), ["stage.first.update.warmup=0.25"], [first, second])
    updates = {name: stage.update for name, stage in recipe.stage.items()}
    assert (recipe.engine.slots, recipe.engine.max_context) == (4, 1024)
    assert [(u.lr, u.minibatches, u.warmup) for u in updates.values()] == [(1e-4, 2, 0.25), (1e-5, 2, 0.5)]
    assert recipe.stage["second"].data[0].domain == "geometry"


def test_a_fault_of_an_overlay_names_it_and_its_line(tmp_path: Path) -> None:
    """Catches a fault that sends its reader to the recipe, where the key does not stand."""
    overlay = tmp_path / "small_gpu.toml"
    overlay.write_text('[engine]\nslotz = 4\n[stage."*".update]\nlr = "low"\n', encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, SMALL + "[stage.second.update]\nwarmup = 0.1\n"), (), [overlay])
    found = {fault.field: fault for fault in caught.value.faults}
    assert set(found) == {"engine.slotz", "stage.first.update.lr", "stage.second.update.lr"}
    assert {fault.file for fault in found.values()} == {str(overlay)}
    assert found["stage.second.update.lr"].row == 4
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(write(tmp_path, SMALL), (), [tmp_path / "absent.toml"])


def test_overrides_reach_tables_lists_and_bare_words(tmp_path: Path) -> None:
    """Catches an override that is dropped, or lands beside its field."""
    recipe = load_recipe(
        write(tmp_path, SMALL),
        ["stage.second.update.lr=5e-7", "stage.first.data.0.domain=perception", "seed=7", 'evaluate.sets=["text"]'],
    )
    assert recipe.stage["second"].update.lr == 5e-7
    assert recipe.stage["first"].data[0].domain == "perception"
    assert (recipe.seed, recipe.evaluate.sets) == (7, ("text",))


def test_ranks_take_adapters_and_no_4_bit_weights(tmp_path: Path) -> None:
    """Catches a recipe whose 4-bit weights stop a rank after everything has loaded, and adapters that are refused with them."""
    path = write(tmp_path, SMALL)
    assert load_recipe(path, ["cluster.address=local", "stage.first.lora={ rank = 4 }"]).stage["first"].lora is not None
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["cluster.address=local", "stage.first.lora={ rank = 4, four_bit = true }"])
    (fault,) = caught.value.faults
    assert "stage.first.lora.four_bit: 4-bit weights are not sharded" in str(fault) and "set it to false" in str(fault)


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
        (
            "stage.first={ steps = 3, data = [{ domain = 'text' }], lora = {}, update = { reference_reset = 2 } }",
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

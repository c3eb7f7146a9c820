"""The plan as a whole: time by phase, what does not fit and what would help, scaling, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmm_r1 import cli
from lmm_r1.errors import RecipeError
from lmm_r1.planning.assumptions import PACES, Setting, paces
from lmm_r1.planning.gpus import GPUS, gpu_named
from lmm_r1.planning.memory import memory_of
from lmm_r1.planning.phases import Clock
from lmm_r1.planning.planner import grown, plan, step_seconds
from lmm_r1.planning.shapes import shape_of
from lmm_r1.recipes import load_recipe, recipes_folder

B3 = recipes_folder() / "lmm_r1_3b"
FRE = B3 / "fre_text.toml"
EIGHT = Setting(gpu=gpu_named("a100-80g"))
ONE = replace(EIGHT, gpus=1, engine="embedded")


def clock(setting: Setting = EIGHT, *overrides: str, pace: str = "middle") -> Clock:
    recipe = load_recipe(FRE, overrides)
    return Clock(recipe, recipe.stage["fre_text"], shape_of(recipe.model.base), setting, PACES[pace])


def test_seconds_of_an_update_by_hand() -> None:
    """Catches a factor that is lost between tokens and seconds: one GPU, critic-free, text alone."""
    found = clock(
        ONE, "stage.fre_text.algorithm.name=reinforce_pp_baseline", "stage.fre_text.update.minibatches=1"
    ).update()  # fmt: skip
    # 128 prompts of 250 tokens, 16 replies of 800: 4 replies fit beside their prompt into a row of 4096, so 4 rows a prompt.
    rows, row = 128 * 4, 250 + 4 * 800
    linear = 36 * (2048 * 128 * 36 + 3 * 2048 * 11008)
    forward = 2 * row * linear + 4 * row**2 * 36 * 2048 + 2 * 4 * 800 * 151936 * 2048
    adam = 28 * 3_754_622_976 / 2039e9
    assert found.seconds == pytest.approx(rows * 4 * forward / (312e12 * PACES["middle"].train) + adam)
    assert found.bound == "arithmetic"


def test_seconds_of_sampling_by_hand() -> None:
    """Catches a cache that is not read, weights that are read once a reply, and a longest reply that nobody waits for."""
    found = clock(replace(ONE, reply_tokens=500, longest_tokens=2000), "engine.slots=64")
    assumed = PACES["middle"]
    assert found.assumed is assumed
    weights = 3_085_938_688 * 2
    step = (weights + 64 * (250 + 250) * 36_864) / 2039e9 / assumed.decode + assumed.step_embedded
    assert found.decode_step(64, 500) == pytest.approx(step)
    full, tail = 128 * 16 * 500 / 64, 2000 - 500
    drained = found.decode_step(64 * 500 / 2000, 250 + 1000)
    prompts = 128 * 250
    linear = 36 * (2048 * 128 * 36 + 3 * 2048 * 11008)
    read = 2 * prompts * linear + 4 * 128 * 250**2 / 2 * 36 * 2048 + 2 * 128 * 151936 * 2048
    expected = full * step + tail * drained + read / (312e12 * assumed.prefill)
    assert found.collect().seconds == pytest.approx(expected)


def test_a_bit_of_everything_costs_what_it_should() -> None:
    """Catches a phase that ignores the critic, the reference, frozen parts, adapters or recomputation."""
    ppo = clock(ONE)
    free = clock(ONE, "stage.fre_text.algorithm.name=reinforce_pp_baseline")
    bare = clock(ONE, "stage.fre_text.algorithm.name=reinforce_pp_baseline", "stage.fre_text.algorithm.kl_coef=0.0")
    once = clock(ONE, "stage.fre_text.algorithm.name=rloo", "stage.fre_text.algorithm.kl_coef=0.0")
    assert ppo.update().seconds > 1.5 * free.update().seconds
    assert ppo.anchor().seconds > free.anchor().seconds > bare.anchor().seconds > once.anchor().seconds == 0.0
    adapters = clock(ONE, "stage.fre_text.lora={}")
    plain = clock(ONE, "model.gradient_checkpointing=false")
    assert adapters.update().seconds == pytest.approx(0.75 * ppo.update().seconds, rel=0.02)
    assert plain.update().seconds == pytest.approx(0.75 * ppo.update().seconds, rel=0.02)
    pictures = "stage.fre_text.data.0.domain=geometry"
    frozen = clock(ONE, pictures, 'stage.fre_text.update.freeze=["vision", "merger"]')
    assert ppo.update().seconds < frozen.update().seconds < clock(ONE, pictures).update().seconds


def test_what_bounds_a_phase_moves_with_the_machines() -> None:
    """Catches a bound that is always the same word: it is what a reader acts on."""
    wide = replace(EIGHT, gpus=64)
    assert clock().update().bound == "arithmetic"
    assert clock(wide).update().bound == "weights and gradients on the way between GPUs"
    assert "32 rows of a minibatch for 64 ranks" in clock(replace(wide, shard=8)).update().bound
    assert clock(wide).collect().bound == "the longest reply"
    short = replace(ONE, longest_tokens=800)
    assert clock(short).collect().bound == "the engine's own time of a decode step"
    assert clock(replace(short, engine="vllm")).collect().bound == "memory bandwidth in decoding"


def test_running_ahead_hides_the_shorter_half() -> None:
    """Catches sampling ahead that costs as much as waiting, on GPUs of its own."""
    split = replace(EIGHT, layout="split", engines=4)
    phases = clock(split).phases()
    waiting, ahead = step_seconds(phases, split), step_seconds(phases, replace(split, ahead=1))
    saved = min(phases["collect"].seconds, phases["anchor"].seconds + phases["update"].seconds)
    assert waiting - ahead == pytest.approx(saved)
    with pytest.raises(RecipeError, match="cannot sample"):
        replace(EIGHT, gpus=1, layout="split")


def test_paces_are_a_range_and_sum_up() -> None:
    """Catches hours that are not those of their steps, and a slow pace that is faster."""
    found = plan(load_recipe(B3 / "two_stage.toml"), EIGHT, PACES, price=2.0)
    assert [stage.name for stage in found.stages] == ["fre_text", "mgt_geo", "direct_geo"]
    for stage in found.stages:
        assert stage.step["fast"] < stage.step["middle"] < stage.step["slow"]
        assert stage.step["middle"] == pytest.approx(sum(p.seconds for p in stage.phases["middle"].values()))
    assert found.stages[0].hours["middle"] == pytest.approx(found.stages[0].step["middle"] * 314 / 3600)
    assert found.hours["slow"] == pytest.approx(found.before["slow"] + sum(s.hours["slow"] for s in found.stages))
    assert found.cost is not None and found.cost["fast"] == pytest.approx(found.hours["fast"] * 16)
    assert found.fits and not any(stage.remedies for stage in found.stages)


def test_a_remedy_does_what_it_says() -> None:
    """Catches a knob that is named and, once turned in the recipe, does not save what was promised."""
    recipe = load_recipe(B3 / "mgt_geo.toml")
    found = plan(recipe, ONE, PACES).stages[1]
    assert found.name == "mgt_geo" and found.remedies
    shape, need = shape_of(recipe.model.base), found.memory.peak[1]
    turned = 0
    for remedy in found.remedies:
        assert remedy.spare == pytest.approx(ONE.gpu.memory - need + remedy.saves)
        if remedy.knob.startswith("--") or " and " in remedy.knob:
            continue
        changed = load_recipe(B3 / "mgt_geo.toml", [remedy.knob.replace(" = ", "=", 1)])
        after = memory_of(changed, changed.stage["mgt_geo"], shape, ONE).peak[1]
        assert need - after == pytest.approx(remedy.saves)
        turned += 1
    assert turned >= 5


def test_knobs_are_put_together_when_none_does_alone() -> None:
    """Catches a user who is told seven things that do not help, and not the two that do."""
    recipe = load_recipe(B3 / "fre_text.toml", ["stage.fre_text.lora={ four_bit = true }", "engine.slots=32"])
    found = plan(recipe, replace(ONE, gpu=gpu_named("rtx4090-24g")), PACES).stages[0].remedies
    assert all(remedy.spare < 0 and not remedy.knob.startswith("--") for remedy in found[:-1])
    assert " and " in found[-1].knob and found[-1].spare >= 0
    assert found[-1].knob.count("engine.slots") == 1  # its last value alone


def test_adapters_are_sharded_and_4_bit_weights_are_not() -> None:
    """Catches adapters that ranks are planned to hold whole, or not to gather, and remedies that no trainer has."""
    recipe = load_recipe(FRE, ["stage.fre_text.lora={}"])
    one, eight, split = (
        plan(recipe, setting, PACES).stages[0]
        for setting in (replace(ONE, engine="vllm"), EIGHT, replace(EIGHT, layout="split", engines=7))
    )
    assert split.memory.learn["weights"] == one.memory.learn["weights"] > 7e9
    assert eight.memory.collect["weights"] == pytest.approx(one.memory.collect["weights"] / 8)
    assert eight.memory.collect["weights"] < eight.memory.learn["weights"] < one.memory.learn["weights"] / 2
    assert eight.memory.learn["critic"] == pytest.approx(one.memory.learn["critic"] / 8)
    full = load_recipe(FRE, ["engine.slots=4096"])
    small = replace(EIGHT, gpu=gpu_named("rtx4090-24g"))
    wide = plan(full, small, PACES).stages[0].remedies
    assert any("lora" in remedy.knob for remedy in wide) and not any("four_bit" in remedy.knob for remedy in wide)
    adapted = plan(load_recipe(FRE, ["stage.fre_text.lora={}", "engine.slots=4096"]), small, PACES).stages[0].remedies
    assert any(remedy.knob.startswith("--gpus") for remedy in adapted)
    four_bit = load_recipe(FRE, ["stage.fre_text.lora={ four_bit = true }"])
    assert plan(four_bit, replace(EIGHT, layout="split", engines=7), PACES).stages[0].memory.learn["weights"] < 4e9
    with pytest.raises(RecipeError, match="4-bit weights are not sharded over 8 ranks"):
        plan(four_bit, EIGHT, PACES)


def test_a_grown_batch_keeps_the_replies() -> None:
    """Catches a table of growing machines that also trains on more."""
    recipe = load_recipe(FRE)
    larger = grown(recipe, 8).stage["fre_text"]
    assert (larger.rollout.prompts, larger.steps) == (1024, 39)
    assert larger.episodes == pytest.approx(recipe.stage["fre_text"].episodes, rel=0.01)


def test_published_baseline_lies_within_the_range() -> None:
    """Catches assumptions that drift away from the one published run of this size: EasyR1, 3B, 8 x H100, 120 s a step."""
    recipe = load_recipe(
        FRE,
        [
            "stage.fre_text.rollout={ prompts = 512, siblings = 5, max_new_tokens = 2048, max_prompt_tokens = 2048 }",
            "stage.fre_text.algorithm={ name = 'grpo', kl_coef = 1e-2 }", "stage.fre_text.data.0.domain=geometry",
            "stage.fre_text.update={ minibatches = 4, micro_tokens = 2700 }", "evaluate.sets=[]",
            "model.min_pixels=262144", "engine.slots=256",
        ],
    )  # fmt: skip
    setting = Setting(
        gpu=gpu_named("h100-80g"), reply_tokens=225, prompt_tokens=100, picture_tokens=350, share_prompts=False
    )
    found = plan(recipe, setting, PACES).stages[0]
    assert found.load.prompt + found.load.reply == pytest.approx(675)  # 1,800 tokens/s x 8 GPUs x 120 s / 2,560 samples
    assert found.step["fast"] < found.step["middle"] < 120 < found.step["slow"]


def test_assumptions_can_be_replaced_and_not_invented() -> None:
    """Catches a typing error that leaves the old assumption in place without a word."""
    assert {a.train for a in paces(["train=0.5"]).values()} == {0.5}
    for wrong in ("trian=0.5", "train", "train=fast", "train=0", "train=nan", "train=inf"):
        with pytest.raises(RecipeError, match="not an assumption"):
            paces([wrong])


def test_gpus_say_where_their_figures_come_from() -> None:
    """Catches a row without its source, or with the doubled FLOP/s of structured sparsity."""
    for gpu in GPUS.values():
        assert gpu.source and gpu.bandwidth < gpu.flops
    assert gpu_named("h100-80g").flops == 989e12


def test_the_command_writes_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table and a JSON that disagree, and a flag that does not arrive."""
    out = tmp_path / "plan.json"
    arguments = [
        "plan",
        str(B3 / "two_stage.toml"),
        "--gpus",
        "8",
        "--gpu",
        "h100-80g",
        "--price",
        "3",
        "--json",
        str(out),
    ]
    assert cli.run(arguments) == 0
    shown, record = capsys.readouterr().out, json.loads(out.read_text())
    assert all(
        word in shown for word in ("mgt_geo", "KV cache", "optimiser state", "whole recipe", "cost at 3", "fits")
    )
    assert record["fits"] is True and record["setting"]["gpu"]["name"] == "h100-80g"
    assert record["model"]["parameters"] == 3_754_622_976
    assert {"weights", "gradients", "activations", "logits", "critic", "overhead"} <= set(
        record["stages"][0]["memory"]["learn"]
    )
    assert cli.run([*arguments[:2], "--gpus", "8,64", "--grow-batch", "--shard", "8", "--json", str(out)]) == 0
    assert [found["setting"]["gpus"] for found in json.loads(out.read_text())] == [8, 64]
    assert "worth of a GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "tpu"], 'no GPU "tpu" (known: a100-40g'),
        (["--gpus", "0"], "whole numbers of at least 1"),
        (["--gpus", "8,x"], "whole numbers of at least 1"),
        (["--gpus", "8", "--shard", "3"], "no multiple of 3"),
        (["--assume", "speed=2"], "not an assumption of the plan"),
        (["--set", "model.base=somebody/other"], 'the sizes of "somebody/other" are not known'),
        (["--gpus", "1", "--layout", "split"], "cannot sample while others learn"),
        (["--set", "stage.fre_text.lora={ four_bit = true }"], "4-bit weights are not sharded over 8 ranks"),
    ],
)
def test_the_command_names_what_is_wrong(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, or a plan of something else than was asked for."""
    assert cli.run(["plan", str(FRE), *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_it_needs_no_torch() -> None:
    """Catches a plan that waits for torch, or builds the model that it only counts."""
    code = "import sys, lmm_r1.cli as c; r = c.run(['plan', sys.argv[1]]); print(r, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(FRE)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "0 False"

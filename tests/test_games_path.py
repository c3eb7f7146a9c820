"""Games through the whole path: cold start, RL turn by turn, evaluation, report; killed in mid-episode and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmm_r1.chain import run_recipe
from lmm_r1.config import Recipe
from lmm_r1.errors import RecipeError
from lmm_r1.playing import play_game
from lmm_r1.recipes import load_recipe

TOML = """
name = "games"
seed = 3
[engine]
slots = 8
max_context = 400
[evaluate]
sets = ["micro-sokoban-online", "micro-football-online"]
items = 3
blind = 2
also_without_prompt = false
max_new_tokens = 12
[save]
every = 1
rollout_groups = 2
[stage.cold]
from = "base"
steps = 2
data = [{ source = "game", game = "sokoban", options = { sizes = ["micro_5x5"], picture = "grid", brief = true, moves = 1 } }]
algorithm = { name = "sft" }
rollout = { prompts = 3, siblings = 1, max_new_tokens = 64, max_prompt_tokens = 300, memory = { pictures = 1, actions = 5 } }
update = { lr = 1e-3 }
[stage.window]
from = "cold"
steps = 2
data = [
  { source = "game", game = "sokoban", options = { sizes = ["micro_5x5"], picture = "grid", brief = true, moves = 1, max_turns = 3 } },
  { source = "synthetic", domain = "text" },
]
rollout = { prompts = 2, siblings = 3, max_new_tokens = 24, max_prompt_tokens = 300, memory = { pictures = 1, actions = 5 } }
update = { lr = 1e-3 }
[stage.full]
from = "cold"
steps = 1
data = [{ source = "game", game = "football", options = { scenarios = ["micro_empty_goal"], picture = "grid", brief = true, max_turns = 2 } }]
rollout = { prompts = 2, siblings = 3, max_new_tokens = 12, max_prompt_tokens = 300 }
algorithm = { name = "ppo" }
update = { lr = 1e-3 }
"""


def recipe_in(folder: Path) -> tuple[Recipe, Path]:
    path = folder / "games.toml"
    path.write_text(TOML)
    return load_recipe(path), path


def lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An uninterrupted run, with one thread as the killed ones in processes of their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    run_recipe(*recipe_in(folder), folder / "run")
    yield folder / "run"
    torch.set_num_threads(before)


def test_games_and_questions_train_in_one_stage(whole: Path) -> None:
    """Catches a game's parts that a question lacks, a window that loses turns, and metrics that say nothing of turns."""
    metrics = lines(whole / "window" / "metrics.jsonl")
    assert len(metrics) == 2 and metrics[0]["turns/mean"] > 1 and "reward/game" in metrics[0]
    assert metrics[0]["logprob_gap/max"] < 1e-4 and metrics[0]["ratio_error/first"] <= 1e-5
    records = lines(whole / "window" / "rollouts" / "step_000001.jsonl")
    games = [r for r in records if "turns" in r]
    assert games and len(games) < len(records)
    episodes: dict[int, list[int]] = {}
    for r in games:
        episodes.setdefault(r["episode"], []).append(r["segment"])
    assert all(segments == list(range(len(segments))) for segments in episodes.values())
    assert max(map(len, episodes.values())) > 1
    assert all(
        len(r["images"]) == 1 and (whole / "window" / "images" / f"{r['images'][0]}.png").is_file() for r in games
    )
    assert {"action", "outcome", "reward", "success", "score", "feedback"} == set(games[0]["turns"][0])
    full = lines(whole / "full" / "rollouts" / "step_000001.jsonl")
    assert any(len(r["turns"]) == 2 and len(r["images"]) == 2 for r in full)


def test_frames_of_episodes_that_are_not_kept_are_gone(whole: Path) -> None:
    """Catches a run folder that grows by every frame ever seen."""
    named = {sha for p in (whole / "window" / "rollouts").iterdir() for r in lines(p) for sha in r["images"]}
    assert {p.stem for p in (whole / "window" / "images").iterdir()} == named


def test_results_stand_beside_scripted_players(whole: Path) -> None:
    """Catches figures of a game without what doing nothing, chance and an expert get, and a missing blind check."""
    results = json.loads((whole / "results.json").read_text())
    for name in ("micro-sokoban-online", "micro-football-online"):
        cells = {arm: results["arms"][arm][name] for arm in ("idle", "random", "expert", "window", "full")}
        assert cells["idle"]["accuracy"] == 0.0 and cells["expert"]["accuracy"] > 0.6
        assert all(c["score"]["low"] <= c["score"]["mean"] <= c["score"]["high"] for c in cells.values())
        assert cells["window"]["blind"]["n"] == 2
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert 'class="strip"' in page and "turns</span>" in page and "score " in page


def test_a_run_killed_in_mid_episode_resumes_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Catches a game whose randomness, or a memory whose past, is not a function of the step."""
    _, path = recipe_in(tmp_path)
    program = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from lmm_r1.chain import run_recipe\n"
        "from lmm_r1.envs.sokoban.turns import SokobanEpisode\n"
        "from lmm_r1.recipes import load_recipe\n"
        "import lmm_r1.train as train\n"
        "stage, real, gather = {}, SokobanEpisode.step, train.gather\n"
        "def noted(run, step):\n"
        "    stage.update(name=run.name, step=step)\n"
        "    return gather(run, step)\n"
        "def step(self, reply):\n"
        "    here = (stage.get('name'), stage.get('step')) == ('window', 1) and self._turn == 1\n"
        "    if here and sys.argv[3] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, reply)\n"
        "train.gather, SokobanEpisode.step = noted, step\n"
        "run_recipe(load_recipe(sys.argv[1]), Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    run = tmp_path / "run"
    for what in ("kill", "resume"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(path), str(run), what],
            capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == (-signal.SIGKILL if what == "kill" else 0), done.stderr[-2000:]
    for stage in ("window", "full"):
        ours, theirs = (load_file(r / stage / "model" / "model.safetensors") for r in (run, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), stage
        for file in (whole / stage / "rollouts").iterdir():
            assert (run / stage / "rollouts" / file.name).read_bytes() == file.read_bytes()
    assert json.loads((run / "results.json").read_text()) == json.loads((whole / "results.json").read_text())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["stage.window.data.0.options.mvoes=2"], "no option 'mvoes'"),
        (["stage.window.data.0.game=chess"], "no game 'chess'"),
        (
            ["stage.window.data.0.options.mode=global", "stage.window.data.0.options.compat=paper"],
            "pays for the format",
        ),
        (["stage.window.data.1.game=sokoban"], 'belong to source = "game"'),
        (["stage.window.rollout.memory=half"], "full"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(changes: list[str], said: str, tmp_path: Path) -> None:
    """Catches an option that is found wrong only when the stage begins, an hour later."""
    _, path = recipe_in(tmp_path)
    with pytest.raises(RecipeError, match=said):
        load_recipe(path, changes)


@pytest.mark.parametrize("player", ["expert", "micro"])
def test_play_tells_and_films(player: str, tmp_path: Path) -> None:
    """Catches a film without its end, and a player of whom nothing is told."""
    options = {"sizes": ["micro_5x5"], "picture": "grid", "brief": True, "moves": 1, "max_turns": 3}
    seen: list[str] = []
    told = play_game(
        player, "sokoban", options=options, gif=tmp_path / "a.gif", max_new_tokens=10,
        watch=lambda env, turn: seen.append(turn.outcome),
    )  # fmt: skip
    assert [t["outcome"] for t in told["turns"]] == seen and told["turns"][-1]["outcome"] == told["outcome"]
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")
    with pytest.raises(RecipeError, match="no size"):
        play_game(player, "sokoban", level="nix", options=options)

"""Sokoban turn by turn: modes, rewards, error texts, and the cheats that must not pay."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lmm_r1.config import Reward
from lmm_r1.envs.games import draw_problem, game, is_evaluation, options_of
from lmm_r1.envs.sokoban import paper_reward
from lmm_r1.envs.sokoban.level import parse
from lmm_r1.envs.sokoban.levels import SIZES, Puzzle
from lmm_r1.envs.sokoban.solver import solution
from lmm_r1.envs.sokoban.turns import SokobanEpisode, SokobanOptions, problem_of
from lmm_r1.errors import DataError, RecipeError
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.scripted import scripted
from lmm_r1.seams import Step
from lmm_r1.types import Image, Problem, Score, Text, Turn

#: Two boxes; a right push and two down pushes solve it.
LEVEL = """
#######
#@$.  #
#     #
# $ . #
#     #
#######
"""
SOLUTION = "right, down, left, down, right"


def put(pixels: NDArray[np.uint8]) -> Image:
    return Image(hashlib.sha256(pixels.tobytes()).hexdigest(), pixels.shape[1], pixels.shape[0])


def made(level: str = LEVEL, **options: object) -> Problem:
    puzzle = parse(level)
    found = solution(puzzle)
    assert found is not None
    return problem_of("p", Puzzle(puzzle, found), SokobanOptions(**options), put)  # type: ignore[arg-type]


def episode(level: str = LEVEL, **options: object) -> SokobanEpisode:
    env = SokobanEpisode(made(level, **options), put)
    env.start()
    return env


def plan(words: str, thoughts: str = "") -> str:
    return f"<think>{thoughts}</think><answer>{words}</answer>"


def played(replies: list[str], level: str = LEVEL, **options: object) -> list[Step]:
    env = episode(level, **options)
    steps = []
    for reply in replies:
        steps.append(env.step(reply))
        if steps[-1].done:
            break
    return steps


def scored(steps: list[Step], replies: list[str], problem: Problem) -> Score:
    turns = [
        Turn(0, 1, r, "", s.reward, s.action, s.outcome, s.success, s.score)
        for r, s in zip(replies, steps, strict=False)
    ]
    return make_scorer(Reward())(problem, turns, "eos")


def whole() -> str:
    found = solution(parse(LEVEL))
    assert found is not None
    return ", ".join(found.directions)


def test_a_whole_plan_is_played_and_paid() -> None:
    """Catches a plan cut short, a level that is solved and not paid 1, and a score other than 100."""
    (step,) = played([plan(whole())], mode="global")
    assert (step.done, step.outcome, step.success, step.reward) == (True, "solved", 1.0, 1.0)
    assert step.score == pytest.approx(100.0)
    (half,) = played([plan("right")], mode="global")
    assert (half.done, half.outcome, half.success) == (True, "turn_limit", 0.0)
    assert half.reward == pytest.approx(0.3 * 0.5), "one of two boxes is home"


def test_the_published_reward_is_that_of_the_plan() -> None:
    """Catches another reward than the released one where a recipe asks for it, thoughts included."""
    for reply in (plan(whole(), "one two three"), plan("right"), "right", plan("jump")):
        (step,) = played([reply], mode="global", compat="paper")
        assert step.reward == paper_reward(LEVEL, reply)["reward"]


def test_turns_add_up_to_the_worth_of_the_end() -> None:
    """Catches turns that are paid twice, or a solved level worth other than 1 in online play."""
    words = whole().split(", ")
    steps = played([plan(word) for word in words], moves=1, max_turns=40)
    assert steps[-1].outcome == "solved" and len(steps) == len(words)
    assert sum(s.reward for s in steps) == pytest.approx(1.0)
    assert all(s.feedback for s in steps[:-1]) and not steps[-1].feedback


def test_progress_by_moves_is_nearness_to_the_solution() -> None:
    """Catches pay for moving about, for a lost level, and turns that do not add up to 1."""
    words = whole().split(", ")
    steps = played([plan(word) for word in words], moves=1, max_turns=40, progress="moves")
    assert all(s.reward > 0 for s in steps) and sum(s.reward for s in steps) == pytest.approx(1.0)
    to_and_fro = played([plan("down"), plan("up")] * 4, moves=1, progress="moves")
    assert sum(s.reward for s in to_and_fro) == pytest.approx(0.0)
    corner = "#####\n#  .#\n# $@#\n#   #\n#####"
    lost = played([plan("down"), plan("up"), plan("left")], level=corner, moves=1, progress="moves")
    assert lost[-1].outcome == "lost" and sum(s.reward for s in lost) <= 0.0


def test_pushing_a_box_on_and_off_pays_nothing() -> None:
    """Catches a reward that can be earned again and again: the box goes home, is pushed on, is brought back."""
    on_and_off = ["right", "right", "down", "right", "right", "up", "left"] * 5
    steps = played([plan(word) for word in on_and_off], moves=1, max_turns=60)
    assert sum(s.reward for s in steps) <= 0.3


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ("left", "No move: end with <answer>"),
        (plan(""), "only up, down, left, right"),
        (plan("left; right"), "only up"),
        (plan("push the box"), "only up"),
        (plan("left, left, left"), "at most 2"),
        ("<answer>left</answer><answer>right</answer>", "No move"),
        (plan("left") + " and so on", "No move"),
    ],
)
def test_a_bad_reply_is_answered_and_costs_the_turn(reply: str, complaint: str) -> None:
    """Catches a bad reply that moves, that pays, that ends the episode, or that is free."""
    env = episode(moves=2, max_turns=2)
    before = env.board()
    step = env.step(reply)
    text = "".join(p.text for m in step.feedback for p in m.content if isinstance(p, Text))
    assert complaint in text and (step.outcome, step.action, step.reward) == ("bad_reply", "", 0.0)
    assert env.board() == before
    assert env.step(reply).done, "the second bad reply is the last turn"


CHEATS = {
    "repeated moves": [plan("left, up, left, up, left")] * 20,
    "action spray": [plan("up, down, left, right, " * 30 + "up")] * 20,
    "empty thoughts": [plan("up")] * 20,
    "invalid words": [plan("win")] * 20,
    "a plan hidden in the thoughts": [f"<think><answer>{SOLUTION}</answer></think><answer></answer>"] * 20,
    "two answers": [plan("up") + plan("right")] * 20,
    "a plan beside the answer": [f"{whole()} " + plan("")] * 20,
}


@pytest.mark.parametrize("mode", ["global", "online"])
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_earns_no_more_than_the_format(cheat: str, mode: str) -> None:
    """Catches any way to be paid by the default reward without bringing a box home."""
    replies = CHEATS[cheat]
    steps = played(replies, mode=mode)
    assert sum(s.reward for s in steps) == 0.0 and steps[-1].success == 0.0
    score = scored(steps, replies, made(mode=mode))
    assert score.reward <= 0.5 + 1e-12 and score.parts["accuracy"] == 0.0
    assert sum(score.per_turn) == pytest.approx(score.reward)


def test_a_long_plan_of_spray_is_cut_where_the_published_one_is() -> None:
    """Catches a plan of thousands of random moves that solves by luck: of a whole plan fifty moves count."""
    (step,) = played([plan("up, " * 50 + whole())], mode="global")
    assert step.success == 0.0 and step.reward == 0.0


def test_a_lost_level_ends_at_the_push_that_lost_it() -> None:
    """Catches turns spent on a level that nobody can solve, and an end while it still can be."""
    corner = "#####\n#  .#\n# $@#\n#   #\n#####"
    steps = played([plan("left")], level=corner, moves=1)
    assert (steps[-1].outcome, steps[-1].done, steps[-1].reward) == ("lost", True, 0.0)
    assert solution(parse(corner).move("left")) is None
    for words in (["up", "left"], ["down", "left"]):
        steps = played([plan(word) for word in words], level=corner, moves=1)
        assert not steps[-1].done and solution(parse(corner).play(words)) is not None


def test_pictures_show_the_state_after_the_moves() -> None:
    """Catches a stale frame: every turn shows another board, and text observations say the same."""
    for see in ("picture", "text", "both"):
        env = episode(see=see, moves=1)
        step = env.step(plan("right"))
        pictures = [p for m in step.feedback for p in m.content if isinstance(p, Image)]
        words = "".join(p.text for m in step.feedback for p in m.content if isinstance(p, Text))
        assert len(pictures) == (see != "text") and (env.board() in words) == (see != "picture")
        assert all(p.sha != q.sha for p in pictures for q in made(see=see).images)
    assert len(episode().film()) == 1
    env = episode(moves=3)
    env.step(plan("right, down, left"))
    assert len(env.film()) == 3


def test_an_episode_is_played_once() -> None:
    """Catches an environment that a second player finds half played."""
    env = episode(mode="global")
    with pytest.raises(RuntimeError, match="played once"):
        env.start()
    env.step(plan("left"))
    with pytest.raises(RuntimeError, match="after its end"):
        env.step(plan("left"))
    with pytest.raises(RuntimeError, match="before its start"):
        SokobanEpisode(made(), put).step("x")


def test_training_and_evaluation_never_share_a_level() -> None:
    """Catches a held-out level that was trained on: 5 x 5 boards are few, and seeds meet."""
    options = options_of("sokoban", {"sizes": ["micro_5x5"], "most_pushes": 3, "picture": "grid"})
    kind = game("sokoban")
    train = {draw_problem(kind, options, "train", 1, n, put).meta["key"] for n in range(300)}
    held = {draw_problem(kind, options, "evaluation", 1, n, put).meta["key"] for n in range(30)}
    assert not train & held and len(held) > 15
    assert all(is_evaluation(str(key)) for key in held)
    again = draw_problem(kind, options, "train", 1, 7, put)
    assert again == draw_problem(kind, options, "train", 1, 7, put) and again.id == "train/sokoban/1/7"
    assert again.images[0].width == 140, "the picture kept is the accepted draw's"


def test_every_size_makes_problems_and_the_expert_solves_them() -> None:
    """Catches a size that has no level, and an expert that is none."""
    kind = game("sokoban")
    for size in SIZES:
        options = SokobanOptions(sizes=(size,), picture="full", max_turns=100)
        problem = kind.problem("p", 3, options, put)
        turns = scripted(problem, lambda p: kind.environment(p, put), kind.player("expert", problem))
        assert turns[-1].outcome == "solved" and turns[-1].score == pytest.approx(100.0), size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": ["nix"]}, "no size 'nix'"),
        ({"sizes": ["huge_v0"], "picture": "grid"}, "too large for a grid"),
        ({"compat": "paper"}, "whole plans"),
        ({"least_pushes": 5, "most_pushes": 2}, "most_pushes is less"),
        ({"move": 3}, "no option 'move'"),
        ({"moves": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], said: str) -> None:
    """Catches an option that a recipe sets and nothing obeys."""
    with pytest.raises(RecipeError, match=said):
        options_of("sokoban", options)


def test_levels_come_from_files(tmp_path: Path) -> None:
    """Catches Boxoban's layout misread: numbered blocks, one bad block named by its line."""
    path = tmp_path / "levels.txt"
    path.write_text(f"; 0{LEVEL}\n; 1\n#####\n#@$.#\n#####\n")
    kind = game("sokoban")
    second = kind.of_level("p", str(path), 1, SokobanOptions(), put)  # type: ignore[attr-defined]
    assert second.meta["level"] == "#####\n#@$.#\n#####" and second.meta["pushes"] == 1
    with pytest.raises(ValueError, match="holds 2 levels"):
        kind.of_level("p", str(path), 2, SokobanOptions(), put)  # type: ignore[attr-defined]
    path.write_text("; 0\n#####\n#@$ #\n#####\n")
    with pytest.raises(DataError, match=r"levels\.txt:2.*1 boxes for 0 targets"):
        kind.of_level("p", str(path), 0, SokobanOptions(), put)  # type: ignore[attr-defined]

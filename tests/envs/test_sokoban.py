"""Sokoban: the rules, exact solutions, levels from seeds, the published reward, and a default that cannot be milked."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from lmm_r1.envs.sokoban.game import (
    ACTIONS,
    Sokoban,
    best_sum,
    paper_reward,
    plan_of,
    plan_reward,
    repeats,
    rewards_of,
    score,
    solve,
)
from lmm_r1.envs.sokoban.level import DIRECTIONS, Level, parse
from lmm_r1.envs.sokoban.levels import SIZES, generate, puzzles
from lmm_r1.envs.sokoban.picture import full_picture, grid_picture
from lmm_r1.envs.sokoban.solver import WORDS, solution
from lmm_r1.errors import DataError

LINE = "#######\n#@ $ .#\n#######"
#: Two boxes; the nearest pairing in a straight line is not the one that works.
ROOM = "########\n#  .   #\n# $##  #\n#  @ $.#\n#      #\n########"
OPEN = "##########\n#        #\n# #  $.  #\n#  .$ @  #\n#   ## $ #\n#  .  $. #\n#        #\n#   ##   #\n#        #\n##########"


def fewest_pushes(level: Level) -> int | None:
    """By looking at every position: 0-1 breadth-first search over (boxes, player)."""
    waiting: deque[tuple[Level, int]] = deque([(level, 0)])
    seen = set()
    while waiting:
        here, pushes = waiting.popleft()
        if (here.boxes, here.player) in seen:
            continue
        seen.add((here.boxes, here.player))
        if here.solved:
            return pushes
        for direction in DIRECTIONS:
            after = here.move(direction)
            if after.boxes != here.boxes:
                waiting.append((after, pushes + 1))
            elif after is not here:
                waiting.appendleft((after, pushes))
    return None


def answered(*plan: str, thoughts: str = "go") -> str:
    return f"<think>{thoughts}</think><answer>{', '.join(plan)}</answer>"


def test_moves_pushes_and_walls() -> None:
    """Catches a box pulled, two boxes pushed at once, and a walk through a wall."""
    level = parse("#######\n#@$$ .#\n#.    #\n#######")
    assert level.move("right") is level and level.move("up") is level  # two boxes; a wall
    below = level.move("down")
    assert str(below).splitlines()[2] == "#+    #"  # on a target, which is still there
    assert str(below.move("up")) == str(level)
    pushed = parse("######\n#@$ .#\n######").move("right")
    assert str(pushed).splitlines()[1] == "# @$.#"
    assert pushed.move("left").move("left").boxes == pushed.boxes
    assert pushed.move("right").solved and str(pushed.move("right")).splitlines()[1] == "#  @*#"


@pytest.mark.parametrize("text", [LINE, ROOM, OPEN, "#####\n#+$ #\n#* .#\n#  $#\n#####"])
def test_text_reads_back(text: str) -> None:
    """Catches a state that loses a target under the player or under a box."""
    assert str(parse(text)) == text
    assert str(parse(f"\n{text}\n\n")) == text


def test_ragged_levels_are_read() -> None:
    """Catches levels whose rows end early or whose outside is left open, as many files have them."""
    level = parse("  ####\n###  #\n#@$. #\n######")
    assert level.height == 4 and level.width == 6 and solve(str(level)) == "R"


@pytest.mark.parametrize(
    "text",
    ["", "####\n#@.#\n####", "#####\n#@$@.#\n#####", "######\n#@$.x#\n######", "#@$.#", "#####\n#@$.\n#####", "#@$.#\n" * 70,
     "########\n#@$.#$.#\n########"],
)  # fmt: skip
def test_what_is_no_level_is_one_line(text: str) -> None:
    """Catches a crash, or a level that is played though it means nothing."""
    with pytest.raises(DataError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_solutions_by_hand() -> None:
    """Catches letters that are not the standard notation, and walks that are left out."""
    assert solve(LINE) == "rRR"
    assert solve("######\n#    #\n#@ $ #\n#   .#\n######") == "urrDldR"
    assert solve("#####\n#@$ #\n# . #\n#####") is None  # against the upper wall for good
    assert solve("#####\n#@ *#\n#####") == ""


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["micro_6x6", "micro_7x7", "small_v0"]))
def test_solutions_are_shortest_in_pushes(seed: int, size: str) -> None:
    """Catches an estimate that is too high, and a deadlock rule that cuts off a way out."""
    puzzle = generate(size, seed)
    assert puzzle.pushes == fewest_pushes(puzzle.level)
    assert puzzle.pushes == sum(letter.isupper() for letter in puzzle.solution.moves)
    assert puzzle.level.play(puzzle.solution.directions).solved
    walked = puzzle.level
    for letter in puzzle.solution.moves:
        after = walked.move(WORDS[letter.lower()])
        assert (after.boxes != walked.boxes) == letter.isupper() and after is not walked
        walked = after


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_board_is_judged_right(data: st.DataObject) -> None:
    """Catches deadlock rules that call a level hopeless which is not: boards of any kind, solvable or not."""
    cells = data.draw(st.lists(st.sampled_from("   #"), min_size=16, max_size=16))
    places = data.draw(st.lists(st.integers(0, 15), min_size=5, max_size=5, unique=True))
    for place, glyph in zip(places, "@$$..", strict=True):
        cells[place] = glyph
    text = "######\n" + "".join(f"#{''.join(cells[4 * r : 4 * r + 4])}#\n" for r in range(4)) + "######"
    try:
        level = parse(text)
    except DataError:
        return
    found = solution(level)
    assert (None if found is None else found.pushes) == fewest_pushes(level)


def test_hard_boards_are_solved() -> None:
    """Catches a search that gives up at the published sizes: ten-by-ten boards with four boxes."""
    found = solution(parse(OPEN))
    assert found is not None and found.pushes == 6 and parse(OPEN).play(found.directions).solved
    for seed in range(6):
        assert generate("v1", seed, least=12).pushes >= 12


@pytest.mark.parametrize("size", list(SIZES))
def test_levels_are_of_their_size_and_hide_nothing(size: str) -> None:
    """Catches a start whose picture does not show the whole state, and a seed that is not the whole story."""
    height, width, boxes = SIZES[size]
    most = 6 if size.startswith("micro") else None
    puzzle = generate(size, 3, most=most)
    level = puzzle.level
    assert (level.height, level.width, len(level.boxes)) == (height, width, boxes)
    assert not level.boxes & level.targets and level.player not in level.targets and not level.solved
    assert puzzle == generate(size, 3, most=most) != generate(size, 4, most=most)
    assert most is None or 1 <= puzzle.pushes <= most


def test_puzzles_are_distinct_and_what_cannot_be_is_said() -> None:
    """Catches the same level dealt twice, and an endless search."""
    stream = puzzles("micro_5x5", 1, most=3)
    texts = [str(next(stream).level) for _ in range(60)]
    assert len(set(texts)) == 60
    with pytest.raises(ValueError, match="no size"):
        generate("tiny", 0)
    with pytest.raises(ValueError, match="draws"):
        generate("micro_5x5", 0, least=90)


def test_the_game_pays_as_published() -> None:
    """Catches a step that is paid wrong: on a target, off it, and the last one."""
    level = parse("#######\n#@$.  #\n#  $ .#\n#######")
    assert rewards_of(level, ["right", "right", "up"]) == [0.9, -1.1, -0.1]
    assert rewards_of(parse("#####\n#@$.#\n#####"), ["left", "right", "up"]) == [-0.1, pytest.approx(10.9)]


def test_the_released_reward_to_the_digit() -> None:
    """Catches a part of the released sum that is lost, mended or rounded (hand-made levels).

    LINE solved with right, right, right: -0.1 - 0.1 + 10.9 = 10.7; format 0.5; three actions 0.15; the thoughts hold two
    words longer than a letter: 0.002.
    """
    found = paper_reward(LINE, answered("Right", "right", "RIGHT", thoughts="a go right"))
    assert found["task"] == pytest.approx(10.7) and found["actions"] == 3 and found["thinking_words"] == 2
    assert found["reward"] == pytest.approx(10.7 + 0.5 + 0.15 + 0.002)
    nothing = paper_reward(LINE, answered("left"))
    assert nothing["task"] == 0.0 and nothing["reward"] == pytest.approx(0.5 + 0.05 + 0.001)
    # The bonus for actions: rising to 20, then falling, and capped at 0 for a loop.
    zigzag = ["left", "up", "down", "right", "up", "left", "down", "down", "up", "right"] * 3
    assert paper_reward(LINE, answered(*zigzag[:19]))["reward"] == pytest.approx(0.5 + 0.95 + 0.001)
    assert paper_reward(LINE, answered(*zigzag[:26]))["reward"] == pytest.approx(0.5 + 1.0 - 0.2 * 0.04 + 0.001)
    assert paper_reward(LINE, answered(*["left"] * 9))["reward"] == pytest.approx(0.5 + min(0.0, 0.45 - 0.2) + 0.001)
    # Only the first 50 actions are played; the gate wants one of each tag, in any order, and known words.
    late = ["left"] * 49 + ["right"] * 3
    assert paper_reward(LINE, answered(*late))["task"] == 0.0
    assert paper_reward(LINE, answered("jump")) == dict.fromkeys(found, 0.0)
    assert paper_reward(LINE, answered("right") + "<answer>")["reward"] == 0.0
    assert paper_reward(LINE, "</think><answer>left</answer><think>")["reward"] > 0.0
    assert paper_reward(LINE, answered("left", thoughts="word " * 500))["reward"] == pytest.approx(0.5 + 0.05 + 0.2)
    assert paper_reward(LINE, "right, right, right")["reward"] == 0.0


def test_repeats() -> None:
    """Catches a loop of moves that is taken for a plan."""
    assert repeats(["up"] * 8) and not repeats(["up"] * 7)
    assert repeats(["up", "left"] * 8) and not repeats(["up", "left"] * 7 + ["down"])


def test_the_default_reward_pays_for_boxes_alone() -> None:
    """Catches each way of being paid for nothing: moves, sprays, thoughts, a plan among the thoughts, odd words."""
    assert plan_reward(LINE, answered("right", "right", "right"))["reward"] == 1.0
    assert plan_reward(LINE, answered("right", "right", "right", "left"))["reward"] == 1.0  # solved is solved
    two = "#########\n#@$.   .#\n#  $    #\n#########"
    half = plan_reward(two, answered("right"))
    assert half["progress"] == 0.5 and half["reward"] == pytest.approx(0.15)
    for plan in (["left"] * 40, ["up", "down"] * 25, ["right", "left"] * 25):
        assert plan_reward(LINE, answered(*plan))["reward"] == 0.0
    assert plan_reward(two, answered("right", "right"))["reward"] == 0.0  # on the target, and off it again
    assert plan_reward(two, answered("right", "left", "up"))["reward"] == half["reward"]  # moves add nothing
    spray = [ACTIONS[k % 4] for k in range(500)] + ["right"] * 4
    assert (
        plan_reward(LINE, answered(*spray))["actions"] == 504 and plan_reward(LINE, answered(*spray))["reward"] == 0.0
    )
    solved = answered("right", "right", "right")
    for cheat in (
        "<think><answer>right, right, right</answer></think><answer>left</answer>",
        solved + solved, solved.replace("right</", "right or left</"), solved + " left", "right, right, right",
        solved.replace("<answer>", "<answer><answer>"), answered(), answered("right,right", "", "right"),
    ):  # fmt: skip
        assert plan_reward(LINE, cheat)["reward"] == 0.0, cheat
    assert plan_of(answered(" Right ", "UP")) == ["right", "up"]


def test_the_score_of_magebench_by_hand() -> None:
    """Catches an affine score with another slope or bound: a perfect game is 100, doing nothing 5 * 10.7 less."""
    assert score(LINE, ["right"] * 3) == pytest.approx(100.0)
    assert score(LINE, []) == score(LINE, ["left"]) == pytest.approx(100.0 - 5 * 10.7)
    assert score(LINE, ["left", "right", "right", "right"]) == pytest.approx(100.0 - 0.5)
    assert best_sum([]) == 0.0 and best_sum([-0.1, 0.9, -1.1]) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="no solution"):
        score("#####\n#@$ #\n# . #\n#####", [])


@pytest.mark.parametrize("picture", ["grid", "full"])
def test_gymnasium_accepts_the_game(picture: str) -> None:
    """Catches an observation outside its space, a reset that ignores its seed, and a step that returns the wrong things."""
    check_env(Sokoban(size="small_v0", picture=picture, render_mode="rgb_array"), skip_render_check=False)
    env = Sokoban(LINE, picture=picture, render_mode="ansi")
    env.reset(seed=1)
    assert env.render() == LINE
    found = [env.step(3) for _ in range(3)]
    assert [reward for _, reward, *_ in found] == pytest.approx([-0.1, -0.1, 10.9])
    assert [done for *_, done, _, _ in found] == [False, False, True] and found[-1][4] == {
        "solved": True,
        "moved": True,
    }


def test_what_is_no_move_is_said() -> None:
    """Catches an action that wraps around, a win that is paid twice, and a picture of nothing."""
    env = Sokoban(LINE)
    env.reset()
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="0 to 3"):
            env.step(wrong)
    assert [env.step(3)[1] for _ in range(4)] == pytest.approx([-0.1, -0.1, 10.9, -0.1])
    with pytest.raises(ValueError, match="no direction 'east'"):
        score(LINE, ["east"])
    assert rewards_of(parse("#####\n#@ *#\n#####"), ["right"]) == [-0.1]  # solved before: the prize was paid
    for settings_ in ({"cell": 0}, {"render_mode": "human"}, {"picture": "3d"}, {"size": "tiny"}):
        with pytest.raises(ValueError, match=r"no |nothing"):
            Sokoban(**settings_)


def test_an_episode_ends_after_its_steps() -> None:
    """Catches a game that a model can walk about in for ever."""
    env = Sokoban(LINE)
    env.reset()
    ends = [env.step(0)[3] for _ in range(120)]
    assert ends == [False] * 119 + [True]


@pytest.mark.parametrize("draw", [grid_picture, full_picture])
def test_a_picture_shows_the_whole_state(draw) -> None:  # type: ignore[no-untyped-def]
    """Catches two positions that look alike: each of the seven kinds of cells has its own picture."""
    boards = [parse("#######\n#+$$* #\n#  .  #\n#######"), parse("#######\n#@$.* #\n#######")]
    patches: dict[str, set[bytes]] = {}
    for board in boards:
        shown = draw(board)
        side = shown.shape[1] // board.width
        assert shown.dtype == np.uint8 and shown.shape == (board.height * side, board.width * side, 3)
        for row, line in enumerate(str(board).splitlines()):
            for column, glyph in enumerate(line):
                patch = shown[row * side : (row + 1) * side, column * side : (column + 1) * side]
                patches.setdefault(glyph, set()).add(patch.tobytes())
    assert set(patches) == set("# .$*@+") and all(len(seen) == 1 for seen in patches.values())
    assert len({next(iter(seen)) for seen in patches.values()}) == 7


def test_a_board_that_the_micro_base_cannot_see_is_refused() -> None:
    """Catches a picture that a small model is asked to read and never learned to."""
    with pytest.raises(ValueError, match="too large"):
        grid_picture(generate("v0", 0).level)

"""Football turn by turn: words, error texts, rewards that add up, and the cheats that must not pay."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from lmm_r1.envs.football.state import ACTIONS
from lmm_r1.envs.football.turns import FootballEpisode, FootballGame, FootballOptions
from lmm_r1.envs.games import options_of
from lmm_r1.errors import RecipeError
from lmm_r1.rollout.scripted import scripted
from lmm_r1.types import Image, Problem, Text, Turn

GAME = FootballGame()


def put(pixels: NDArray[np.uint8]) -> Image:
    return Image(hashlib.sha256(pixels.tobytes()).hexdigest(), pixels.shape[1], pixels.shape[0])


def made(seed: int = 3, **options: object) -> Problem:
    settings = {"scenarios": ("micro_empty_goal",), "picture": "grid", **options}
    return GAME.problem("p", seed, FootballOptions(**settings), put)  # type: ignore[arg-type]


def episode(**options: object) -> FootballEpisode:
    env = FootballEpisode(made(**options), put)  # type: ignore[arg-type]
    env.start()
    return env


def played(player: str, seed: int, **options: object) -> list[Turn]:
    problem = made(seed, **options)
    return scripted(problem, lambda p: GAME.environment(p, put), GAME.player(player, problem))


def answer(word: str) -> str:
    return f"<think></think><answer>{word}</answer>"


def test_every_word_is_played_and_others_cost_the_turn() -> None:
    """Catches a word that the game does not know, and a misspelt one that moves a player."""
    for word in ACTIONS:
        assert episode().step(answer(word)).action == word
    assert episode().step(answer("Top Right")).action == "top_right"
    env = episode(max_turns=3)
    before = env.state
    for reply in ("right", answer("run"), answer("")):
        step = env.step(reply)
        assert (step.action, step.reward) == ("", 0.0) and env.state is before
    assert step.done and step.outcome == "turn_limit"


def test_turns_add_up_to_the_worth_of_the_end() -> None:
    """Catches a goal that pays other than 1, and pay for running to and fro."""
    goals = 0
    for seed in range(12):
        turns = played("expert", seed)
        total = sum(turn.reward for turn in turns)
        goals += turns[-1].outcome == "goal"
        if turns[-1].outcome == "goal":
            assert total == pytest.approx(1.0) and turns[-1].success == 1.0 and turns[-1].score > 30
        else:
            assert 0 <= total <= 0.1 + 1e-9
    assert goals >= 10


@pytest.mark.parametrize("scenario", ["micro_empty_goal", "micro_keeper", "micro_2_vs_1", "3_vs_1_with_keeper"])
def test_idle_earns_nothing_and_cheats_little(scenario: str) -> None:
    """Catches a reward for doing nothing, and for running to and fro for ever."""
    for seed in range(6):
        assert sum(turn.reward for turn in played("idle", seed, scenarios=(scenario,))) == 0.0
        for words in (["left", "right"] * 20, ["sprint", "release_sprint"] * 20, ["top", "bottom"] * 20):
            env = FootballEpisode(made(seed, scenarios=(scenario,), max_turns=40), put)
            env.start()
            paid = 0.0
            for word in words:
                step = env.step(answer(word))
                paid += step.reward
                if step.done:
                    break
            assert paid <= 0.1 + 1e-9, (scenario, words[0])


def test_a_shaped_reward_is_the_score() -> None:
    """Catches two scorers: the shaped reward of all turns is the benchmark's score, in goals."""
    turns = played("expert", 5, reward="shaped")
    assert sum(turn.reward for turn in turns) == pytest.approx(turns[-1].score / 40.0)


def test_an_episode_repeats_and_hangs_on_its_seed() -> None:
    """Catches a match that cannot be resumed, and one match for all seeds."""
    assert played("expert", 4) == played("expert", 4)
    assert made(4).images != made(5).images
    assert played("random", 4) == played("random", 4)


def test_pictures_words_and_film() -> None:
    """Catches a prompt without the rules, a stale frame, and a film of stills."""
    problem = made(picture="full", width=320, height=180, brief=False)
    text = "".join(p.text for p in problem.messages[0].content if isinstance(p, Text))
    assert all(word in text for word in ACTIONS) and problem.images[0].width == 320
    env = episode(picture="full", width=320, height=180)
    step = env.step(answer("right"))
    shown = [p for m in step.feedback for p in m.content]
    assert isinstance(shown[0], Image) and shown[0].sha != problem.images[0].sha
    assert "ticks are left" in shown[1].text  # type: ignore[union-attr]
    assert len(env.film()) > 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scenarios": ["nix"]}, "no scenario 'nix'"),
        ({"engine": "fifa"}, "'academy' or 'grf'"),
        ({"speed": 2}, "no option 'speed'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], said: str) -> None:
    """Catches an option that a recipe sets and nothing obeys."""
    with pytest.raises(RecipeError, match=said):
        options_of("football", options)

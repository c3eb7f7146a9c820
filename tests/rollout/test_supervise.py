"""Supervised stages: the right tokens are trained on, and what cannot be imitated is named."""

from __future__ import annotations

import math
import random
from itertools import count

import numpy as np
import pytest

from lmm_r1.build import make_source
from lmm_r1.config import Data, Model, RolloutConfig
from lmm_r1.data.images import ImageStore
from lmm_r1.data.stream import Source
from lmm_r1.envs.games import game, open_environment
from lmm_r1.errors import DataError
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.rollout.collect import Collected
from lmm_r1.rollout.play import turns_of
from lmm_r1.rollout.supervise import careless, solution_of, supervise
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Problem


def imitated(
    source: Source,
    adapter: ModelAdapter,
    config: RolloutConfig,
    images: ImageStore | None = None,
    max_context: int = 640,
) -> Collected:
    taken = count()
    return supervise(
        lambda n: [source.at(next(taken)) for _ in range(n)], adapter, config, max_context=max_context,
        make=open_environment((images or ImageStore()).put),
        expert=lambda problem: game(problem.env).player("expert", problem),
    )  # fmt: skip


@pytest.mark.parametrize("domain", ["text", "geometry"])
def test_prompt_and_solution_are_one_stream(domain: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Catches a prompt that is trained on, a stop token that is not, and a picture that gets lost."""
    images = ImageStore()
    adapter = make_adapter(str(MICRO_DIR), images, Model())
    source = make_source(Data(domain=domain, solutions=True), tmp_path, images, seed=1)
    got = imitated(source, adapter, RolloutConfig(prompts=5))
    assert len(got.groups) == 5
    for k, group in enumerate(got.groups):
        (rollout,) = group.rollouts
        problem = source.at(k)
        prompt = adapter.encode(problem.messages)
        written = rollout.token_ids[rollout.trainable]
        assert np.array_equal(rollout.token_ids[~rollout.trainable], prompt.token_ids)
        assert adapter.decode(written) == problem.meta["solution"] and written[-1] in adapter.stop_ids
        assert rollout.images == prompt.images and len(rollout.images) == (domain == "geometry")
        assert group.scores[0].reward == 1.0 and "solution" not in rollout.problem.meta


def test_a_solution_without_tags_becomes_the_thoughts() -> None:
    """Catches imitation of a format that is not asked for, and of nothing."""
    assert solution_of(Problem("p", (), "4", meta={"solution": " 2+2=4 "})) == "<think>2+2=4</think><answer>4</answer>"
    whole = "<think>t</think><answer>4</answer>"
    assert solution_of(Problem("p", (), "4", meta={"solution": whole})) == whole
    for meta in ({}, {"solution": ""}, {"solution": 3}):
        with pytest.raises(DataError, match="p has no solution"):
            solution_of(Problem("p", (), "4", meta=meta))


def test_a_solution_over_the_budget_is_dropped_whole(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Catches a solution that is cut, so that a model learns never to answer."""
    images = ImageStore()
    adapter = make_adapter(str(MICRO_DIR), images, Model())
    source = make_source(Data(domain="text", solutions=True), tmp_path, images, seed=1)
    config = RolloutConfig(prompts=8, max_new_tokens=27)
    got = imitated(source, adapter, config)
    assert got.counts["collect/dropped_long"] > 0 and len(got.groups) == 8
    assert max(g.rollouts[0].reply_tokens for g in got.groups) <= 27 and math.isfinite(got.counts["collect/rounds"])


@pytest.mark.parametrize("memory", ["full", {"pictures": 1, "actions": 5}])
def test_a_games_expert_is_imitated_turn_by_turn(memory: object, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Catches an episode of which one turn is learned, feedback that is learned, and another memory than the stage's."""
    images = ImageStore()
    adapter = make_adapter(str(MICRO_DIR), images, Model())
    options = {"sizes": ["micro_6x6"], "least_pushes": 3, "picture": "grid", "brief": True, "moves": 1}
    source = make_source(Data(source="game", game="sokoban", options=options), tmp_path, images, seed=1)
    config = RolloutConfig.model_validate({"prompts": 2, "siblings": 1, "max_new_tokens": 96, "memory": memory})
    got = imitated(source, adapter, config, images, 4000)
    for group in got.groups:
        (episode,) = group.episodes
        turns = turns_of(episode)
        assert turns[-1].outcome == "solved" and len(turns) >= 3
        assert len(episode) == (1 if memory == "full" else len(turns))
        for rollout in episode:
            written = "".join(adapter.decode(rollout.token_ids[t.start : t.end]) for t in rollout.turns)
            assert written == "".join(t.reply for t in rollout.turns) and written.count("<answer>") == len(
                rollout.turns
            )
            assert rollout.reply_tokens == sum(t.end - t.start for t in rollout.turns)
            ends = [rollout.token_ids[t.end - 1] for t in rollout.turns]
            assert all(end in adapter.stop_ids for end in ends)


def test_a_careless_player_leaves_its_share_of_turns_to_the_other() -> None:
    """Catches slips that are never or always made, or that hang on anything but the dice."""
    turns = [careless(lambda _: "expert", lambda _: "random", 0.25, random.Random(3)) for _ in range(2)]
    said = [[player(None) for _ in range(2000)] for player in turns]
    assert said[0] == said[1] and 0.22 < said[0].count("random") / 2000 < 0.28
    assert {careless(lambda _: "expert", lambda _: "random", 0.0, random.Random(k))(None) for k in range(50)} == {
        "expert"
    }
